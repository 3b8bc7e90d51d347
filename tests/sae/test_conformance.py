"""Conformance: each loss and gradient equals its formula and finite differences, in float64.

Every check is one line of the table in `probe-sae guide conformance`.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import probe_sae
from probe_sae.sae import ARCHITECTURES, SAE, chunks, make_sae, settings_for

from .references import Problem, answer, gradients

FEATURES = 12
DEAD = [1, 5, 8, 11]
"""Features whose encoder is so small that they do not fire, though they are often positive."""
WIDTHS = {"transcoder": (6, 4), "crosscoder": (4, 3)}
DEEP: dict[str, Any] = {"hidden": [5, 4], "between": "tanh"}
NORMED: dict[str, Any] = {"hidden": [5, 4], "batch_norm": True}
BOUNDED: dict[str, Any] = {"output": "sigmoid"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "l1": ("l1", {}),
    "l1, fixed coefficient": ("l1", {"coefficient": 0.25}),
    "l1, unit norm": ("l1", {"unit_norm": True}),
    "l1, sigmoid features": ("l1", {"activation": "sigmoid"}),
    "l1, bounded": ("l1", {"unit_norm": True} | BOUNDED),
    "l1, deep": ("l1", {"unit_norm": True} | DEEP),
    "l1, batch norm": ("l1", {"unit_norm": True} | NORMED),
    "kl": ("kl", {}),
    "kl, bounded": ("kl", BOUNDED),
    "kl, deep": ("kl", DEEP | BOUNDED),
    "kl, batch norm": ("kl", NORMED),
    "gated": ("gated", {}),
    "gated, fixed coefficient": ("gated", {"coefficient": 0.25}),
    "gated, bounded": ("gated", BOUNDED),
    "gated, deep": ("gated", DEEP),
    "gated, batch norm": ("gated", NORMED),
    "jumprelu, target": ("jumprelu", {"penalty": "target"}),
    "jumprelu, step": ("jumprelu", {"penalty": "step"}),
    "jumprelu, tanh": ("jumprelu", {"penalty": "tanh"}),
    "jumprelu, bounded": ("jumprelu", BOUNDED),
    "jumprelu, deep": ("jumprelu", {"penalty": "tanh"} | DEEP),
    "jumprelu, batch norm": ("jumprelu", {"penalty": "target"} | NORMED),
    "topk": ("topk", {}),
    "batchtopk": ("batchtopk", {"k": 2.5}),
    "matryoshka": ("matryoshka", {"k": 2.5, "groups": [0.25, 0.25, 0.5]}),
    "hierarchical_topk": ("hierarchical_topk", {}),
    "signed_topk": ("signed_topk", {}),
    "matching_pursuit": ("matching_pursuit", {"features": 40}),
    "archetypal": ("archetypal", {"points": 7}),
    "transcoder": ("transcoder", {"skip": True}),
    "transcoder, no skip": ("transcoder", {"skip": False}),
    "crosscoder": ("crosscoder", {}),
    "crosscoder, l1": ("crosscoder", {"sparsity": "l1"}),
    "frozen_decoder": ("frozen_decoder", {}),
    "frozen_encoder": ("frozen_encoder", {}),
}
EVERY = list(CASES)
SCALED = [case for case in EVERY if "kl" not in case and "bounded" not in case]
"""Those that do not take rows in their own units."""
PLAIN = [next(name for name, (arch, _) in CASES.items() if arch == each) for each in ARCHITECTURES]
"""One case of each architecture."""
WITH_AUX_K = [
    name
    for name, (arch, values) in CASES.items()
    if hasattr(ARCHITECTURES[arch], "aux_k") and values.get("sparsity") != "l1"
]


def prepared(case: str, rows: int = 14, seed: int = 0, **more: Any) -> tuple[SAE, Tensor]:
    """Return a dictionary in float64 no weight of which is special, and raw rows of a stream."""
    arch, values = CASES[case]
    kind = ARCHITECTURES[arch]
    wanted = {"features": FEATURES, "k": 3} | values | more
    generator = torch.Generator().manual_seed(seed)
    widths = WIDTHS.get(arch, (6,))
    settings = settings_for(arch, {n: v for n, v in wanted.items() if hasattr(kind, n)})
    x = torch.randn(rows, sum(widths), generator=generator) * 30 + 7
    if not settings.is_scaled:
        x = (x - x.min()) / (x.max() - x.min())
    sae = make_sae(settings, widths, generator)
    sae.initialise(x, generator)
    sae.double()
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter += torch.randn(parameter.shape, generator=generator).double() * 0.2
            if name in ("W_enc", "b_enc") and hasattr(kind, "aux_k"):
                parameter[[i for i in DEAD if i < len(parameter)]] *= 0.2
    sae.constrain()
    return sae, x.double()


def numbers(features: list[int]) -> Tensor | None:
    return torch.tensor(features) if features else None


def grads(sae: SAE, loss: Tensor) -> dict[str, Tensor]:
    """Return the loss's gradient by every parameter that learns, zeros where there is none."""
    those = {name: p for name, p in sae.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(
        loss, list(those.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(those, found, strict=True))


def slopes(sae: SAE, rows: Tensor, name: str, dead: list[int], share: float) -> Tensor:
    """Return central finite differences of the loss by every entry of a parameter."""
    flat = sae.get_parameter(name).data.view(-1)
    found, small = torch.zeros_like(flat), 1e-6
    for i in range(len(flat)):
        losses: list[Tensor] = []
        for side in (small, -2 * small):
            flat[i] += side
            if "mixture" in dict(sae.named_parameters()):
                sae.constrain()
            losses.append(sae.step(rows, numbers(dead), share).loss.detach())
        flat[i] += small
        found[i] = (losses[0] - losses[1]) / (2 * small)
    return found.view_as(sae.get_parameter(name))


def same(got: Tensor, wanted: Tensor, rel: float, floor: float = 1e-12) -> bool:
    """Return whether tensors differ by less than a share of the largest entry."""
    got, wanted = got.detach(), wanted.detach()
    return float((got - wanted).abs().max()) <= rel * float(wanted.abs().max()) + floor


def with_silent(case: str) -> tuple[SAE, Tensor, list[int]]:
    """Return a dictionary, rows, and features that do not fire on them, by the formulas."""
    sae, rows = prepared(case)
    if "pursuit" not in case:
        living = [i for i in range(sae.features) if i not in DEAD]
        sae.get_parameter("b_enc").data[living] += 1
    dead = (answer(Problem.of(sae, rows)).codes == 0).all(0).nonzero().flatten().tolist()
    return sae, rows, dead


@pytest.mark.parametrize("share", [0.01, 1.0])
@pytest.mark.parametrize("dead", [[], [5], DEAD])
@pytest.mark.parametrize("case", EVERY)
def test_the_loss_is_its_formula(case: str, dead: list[int], share: float) -> None:
    sae, rows = prepared(case)
    wanted = answer(Problem.of(sae, rows, dead, share))

    got = sae.step(rows, numbers(dead), share)

    assert float(got.loss.detach()) == pytest.approx(float(wanted.loss.detach()), rel=1e-12)
    assert same(got.x_hat.detach(), wanted.x_hat.detach(), 1e-12)


@pytest.mark.parametrize(
    "values", [DEEP, NORMED, BOUNDED], ids=["deep", "batch norm", "sigmoid output"]
)
def test_the_penalty_of_l1_weighs_by_length_where_lengths_are_free(values: dict[str, Any]) -> None:
    sae, rows = prepared("l1", **values)
    wanted = answer(Problem.of(sae, rows)).loss.detach()

    assert float(sae.step(rows).loss.detach()) == pytest.approx(float(wanted), rel=1e-12)


@pytest.mark.parametrize("share", [0.01, 1.0])
@pytest.mark.parametrize("dead", [[], [5], DEAD])
@pytest.mark.parametrize("case", EVERY)
def test_every_gradient_is_that_of_the_formula(case: str, dead: list[int], share: float) -> None:
    """Autograd of the dense formula; for JumpReLU the published estimators, by loops."""
    sae, rows = prepared(case)
    wanted = gradients(Problem.of(sae, rows, dead, share))

    got = grads(sae, sae.step(rows, numbers(dead), share).loss)

    assert got.keys() == wanted.keys()
    for name, gradient in got.items():
        assert same(gradient, wanted[name], 1e-9), name


@pytest.mark.parametrize("case", EVERY)
def test_every_gradient_is_the_slope_of_the_loss(case: str) -> None:
    """Finite differences; JumpReLU's with a window too narrow for its estimators to speak."""
    sae, rows = prepared(case)
    dead = [] if case in WITH_AUX_K else DEAD
    if "jumprelu" in case:
        sae.get_buffer("bandwidth").fill_(1e-9)
    got = grads(sae, sae.step(rows, numbers(dead), 0.01).loss)
    if "gated" in case:  # a term of its loss trains no decoder, on purpose: see the next test
        got = {name: got[name] for name in ("W_enc", "b_enc", "r_mag", "b_mag")}

    for name, gradient in got.items():
        assert same(gradient, slopes(sae, rows, name, dead, 0.01), 1e-6, 1e-8), name


@pytest.mark.parametrize("case", ["gated", "gated, deep", "gated, batch norm"])
def test_the_gates_own_reconstruction_does_not_train_the_decoder(case: str) -> None:
    """Where all magnitudes are 0, no other term could train W_dec; the encoder still learns."""
    sae, rows = prepared(case)
    with torch.no_grad():
        sae.get_parameter("b_mag").fill_(-1e6)

    got = grads(sae, sae.step(rows).loss)

    assert float(got["W_dec"].abs().max()) == 0
    assert float(got["W_enc"].abs().max()) > 1e-3


@pytest.mark.parametrize("dead", [[], DEAD])
@pytest.mark.parametrize("case", [case for case in EVERY if case not in WITH_AUX_K])
def test_a_batch_in_chunks_has_the_loss_and_the_gradients_of_the_whole(
    case: str, dead: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three chunks, the last a shorter one, each computed again in the backward pass."""
    sae, rows = prepared(case)
    problem = Problem.of(sae, rows, dead)
    monkeypatch.setattr(chunks, "CHUNK_VALUES", 6 * FEATURES)

    step = sae.step(rows, numbers(dead))

    wanted = answer(problem)
    assert float(step.loss.detach()) == pytest.approx(float(wanted.loss.detach()), rel=1e-12)
    assert same(step.x_hat, wanted.x_hat, 1e-12)
    got = grads(sae, step.loss)
    for name, gradient in gradients(problem).items():
        assert same(got[name], gradient, 1e-9), name


@pytest.mark.parametrize("case", EVERY)
def test_the_order_of_rows_changes_neither_loss_nor_gradient(case: str) -> None:
    sae, rows = prepared(case)
    step = sae.step(rows, numbers(DEAD))
    before = grads(sae, step.loss)
    again = sae.step(rows.flip(0), numbers(DEAD))
    after = grads(sae, again.loss)

    assert float(again.loss.detach()) == pytest.approx(float(step.loss.detach()), rel=1e-12)
    assert all(same(after[name], before[name], 1e-9) for name in before)


@pytest.mark.parametrize("case", SCALED)
def test_the_unit_of_activations_changes_neither_loss_nor_gradient(case: str) -> None:
    sae, rows = prepared(case)
    step = sae.step(rows, numbers(DEAD))
    before = grads(sae, step.loss)
    for name, scale in sae.named_buffers():
        if name in ("input_scale", "output_scale"):
            scale.div_(1000)
    again = sae.step(rows * 1000, numbers(DEAD))
    after = grads(sae, again.loss)

    assert float(again.loss.detach()) == pytest.approx(float(step.loss.detach()), rel=1e-12)
    assert all(same(after[name], before[name], 1e-9) for name in before)


@pytest.mark.parametrize("case", [case for case in EVERY if case not in WITH_AUX_K])
def test_dead_features_are_no_part_of_losses_that_have_no_term_for_them(case: str) -> None:
    values: dict[str, Any] = {"dead_coefficient": 0.0} if "jumprelu" in case else {}
    sae, rows = prepared(case, **values)

    assert torch.equal(sae.step(rows, numbers(DEAD)).loss, sae.step(rows).loss)


@pytest.mark.parametrize("case", EVERY)
def test_firings_are_counted_as_a_loop_counts_them(case: str) -> None:
    """A chosen entry whose value is 0 is none; neither is padding."""
    sae, rows = prepared(case)
    with torch.no_grad():  # few positive pre-activations: top-k has to choose zeros
        sae.get_parameter("b_enc" if "pursuit" not in case else "b_dec").sub_(0.7)
    codes = answer(Problem.of(sae, rows)).codes.detach()

    step = sae.step(rows)

    counts = [sum(bool(v.abs() > sae.settings.fires_above) for v in column) for column in codes.T]
    assert step.fired.tolist() == counts
    assert step.l0 == pytest.approx(sum(counts) / len(rows))


@pytest.mark.parametrize("case", [c for c in WITH_AUX_K if c != "frozen_encoder"])
def test_auxk_reaches_encoder_and_decoder_of_dead_features_and_nothing_else(case: str) -> None:
    sae, rows, dead = with_silent(case)
    living = [i for i in range(sae.features) if i not in dead]
    without = grads(sae, sae.step(rows).loss)
    with_aux = grads(sae, sae.step(rows, numbers(dead)).loss)

    assert len(dead) >= 3
    reached = {"W_dec"} if "pursuit" in case else {"W_enc", "b_enc", "W_dec"}
    if case == "archetypal":
        reached = {"W_enc", "b_enc", "mixture", "relaxation"}
    for name, gradient in with_aux.items():
        if name in reached:
            assert float(gradient[dead].abs().max()) > 1e-6, name
            assert torch.equal(gradient[living], without[name][living]), name
        else:
            assert torch.equal(gradient, without[name]), name


@pytest.mark.parametrize("case", [c for c in WITH_AUX_K if c != "frozen_encoder"])
def test_the_gradient_of_auxk_is_the_slope_of_the_loss_for_dead_features(case: str) -> None:
    """The error is a constant to it: that of features that do not fire in the batch."""
    sae, rows, dead = with_silent(case)
    got = grads(sae, sae.step(rows, numbers(dead)).loss)

    for name in got.keys() & {"W_enc", "b_enc", "W_dec", "mixture", "relaxation"}:
        by_slope = slopes(sae, rows, name, dead, 1.0)
        assert same(got[name][dead], by_slope[dead], 1e-6, 1e-8), name


@pytest.mark.parametrize(("count", "weight"), [(1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0), (6, 1.0)])
def test_auxk_weighs_by_the_number_of_dead_features(count: int, weight: float) -> None:
    """Dead features that explain nothing leave the whole error: the weight is all of the term."""
    sae, rows = prepared("topk", aux_k=4, aux_coefficient=0.7)
    with torch.no_grad():
        sae.get_parameter("b_enc")[:count] = -1e6
    plain = sae.step(rows).loss

    with_aux = sae.step(rows, torch.arange(count)).loss

    assert float((with_aux - plain).detach()) == pytest.approx(0.7 * weight, rel=1e-12)


def test_auxk_is_gone_when_dead_features_explain_all_of_the_error() -> None:
    """As many of them as dimensions, each along an axis, read the very error they are to give."""
    sae, rows = prepared("topk", features=24, k=1, aux_k=12, aux_coefficient=1.0)
    with torch.no_grad():
        axes = torch.cat([torch.eye(6), -torch.eye(6)]).double()
        sae.get_parameter("W_enc")[12:], sae.get_parameter("W_dec")[12:] = axes * 1e-9, axes * 1e9
        sae.get_parameter("b_enc").zero_()[:12] = -1e6  # nothing else fires: the error is x
        sae.get_parameter("b_enc")[0] = 1e-4
        sae.get_parameter("W_enc")[0], sae.get_parameter("W_dec")[0] = 0.0, 0.0
    plain = sae.step(rows).loss

    assert float((sae.step(rows, torch.arange(12, 24)).loss - plain).detach()) < 1e-12


def test_the_guide_has_a_line_for_every_check() -> None:
    guide = (Path(probe_sae.__file__).parent / "guide" / "conformance.md").read_text("utf-8")
    lines = [line.split("|")[1].lower() for line in guide.splitlines() if line.startswith("| ")]
    facts = [
        name
        for file in Path(__file__).parent.glob("test_conformance*.py")
        for name in re.findall(r"^def test_(\w+)", file.read_text("utf-8"), re.MULTILINE)
        if not name.startswith("the_guide")
    ]

    said = [re.sub(r"[^a-z0-9 ]", "", line.replace("-", " ")).strip() for line in lines]
    assert sorted({*said} - {"check"}) == sorted(name.replace("_", " ") for name in facts)
