"""Where few features fire, penalised dictionaries take a sparse step: the same numbers, faster."""

from typing import Any

import pytest
import torch
from torch import Tensor

from probe_sae.sae import SAE, few, make_sae, settings_for
from probe_sae.sae.architectures import jumprelu
from probe_sae.sae.dense import DenseSAE

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
KINDS: dict[str, dict[str, Any]] = {
    "l1": {"arch": "l1"},
    "l1, unit norm": {"arch": "l1", "unit_norm": True},
    "l1, fixed": {"arch": "l1", "coefficient": 0.1},
    "gated": {"arch": "gated"},
    "jumprelu, target": {"arch": "jumprelu"},
    "jumprelu, step": {"arch": "jumprelu", "penalty": "step"},
    "jumprelu, tanh": {"arch": "jumprelu", "penalty": "tanh"},
    "jumprelu, wide window": {"arch": "jumprelu", "bandwidth": 3.0, "penalty": "tanh"},
}


def prepared(kind: str, dtype: torch.dtype, rows: int = 300, features: int = 96) -> Any:
    """Return a dictionary whose weights are all different, raw rows, and three dead features."""
    values = dict(KINDS[kind])
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(rows, 20, generator=generator).to(dtype) * 3 + 1
    made = settings_for(values.pop("arch"), {"features": features, "k": 6, **values})
    sae = make_sae(made, (20,), generator).to(dtype)
    sae.initialise(x, generator)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            spread = 0.3 if name in ("W_enc", "W_dec") else 0.1
            drawn = torch.randn(parameter.shape, generator=generator).to(dtype)
            parameter += spread * parameter.abs().mean() * drawn
        sae.get_parameter("b_enc")[:3] -= 50
        if "coefficient" in values:
            sae.get_parameter("b_enc").sub_(2)  # not steered to k: half of them would fire
    return sae, x, torch.arange(3)


def outcome(sae: SAE, x: Tensor, dead: Tensor) -> dict[str, Tensor]:
    """Return what a step gives, and all gradients."""
    names = [name for name, _ in sae.named_parameters()]
    step = sae.step(x, dead, share=0.02)
    found = torch.autograd.grad(step.loss, list(sae.parameters()), materialize_grads=True)
    notes = {name: torch.tensor(value) for name, value in step.notes.items()}
    known = {"loss": step.loss.detach(), "x_hat": step.x_hat.detach(), "fired": step.fired}
    return dict(zip(names, found, strict=True)) | known | notes


def is_sparse(sae: SAE, x: Tensor, limits: Tensor | None = None) -> bool:
    """Return whether a step would be a sparse one."""
    assert isinstance(sae, DenseSAE)
    limits = torch.zeros_like(sae.b_enc) if limits is None else limits
    return sae._few(sae._scaled(x), limits) is not None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_a_sparse_step_gives_what_the_dense_formulas_give(
    kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae, x, dead = prepared(kind, dtype)
    wanted = outcome(sae, x, dead)
    asked: list[bool] = []

    def always(W_enc: Tensor, rows: int) -> bool:
        asked.append(True)
        return True

    monkeypatch.setattr(few, "is_worthwhile", always)
    monkeypatch.setattr(few, "FEW", 1.0)
    got = outcome(sae, x, dead)

    assert asked
    assert got.keys() == wanted.keys()
    tolerance = 1e-11 if dtype == torch.float64 else 2e-4
    for name, value in wanted.items():
        scale = float(value.double().abs().max())
        torch.testing.assert_close(
            got[name],
            value,
            rtol=tolerance,
            atol=tolerance * scale,
            msg=lambda m, n=name: f"{n}: {m}",
        )
    if not kind.startswith("jumprelu, wide"):
        assert 0 < int(wanted["fired"].sum()) < 0.3 * len(x) * sae.features


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_loops_take_the_sparse_step_by_themselves(
    kind: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large enough, and few of its features fire: the same numbers as without."""
    sae, x, dead = prepared(kind, torch.float32, rows=2500, features=4096)
    sae, x, dead = sae.to(device), x.to(device), dead.to(device)
    assert few.is_worthwhile(sae.get_parameter("W_enc"), len(x))
    threshold = dict(sae.named_parameters()).get("threshold")
    limits = None if threshold is None else threshold.detach() - sae.get_buffer("bandwidth") / 2
    assert is_sparse(sae, x, limits) or "wide" in kind
    monkeypatch.setattr(jumprelu, "DEAD_ROWS", len(x))
    got = outcome(sae, x, dead)

    monkeypatch.setattr(few, "is_worthwhile", lambda W_enc, rows: False)
    wanted = outcome(sae, x, dead)

    for name, value in wanted.items():
        scale = float(value.double().abs().max())
        torch.testing.assert_close(got[name].double(), value.double(), rtol=1e-3, atol=1e-3 * scale)


@pytest.mark.parametrize("rows", [1, 256, 257])
def test_a_batch_may_be_as_small_as_what_is_looked_at_first(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae, x, dead = prepared("l1", torch.float32, features=8192)
    monkeypatch.setattr(few, "is_worthwhile", lambda W_enc, rows: True)
    assert is_sparse(sae, x[:rows])
    with torch.no_grad():
        assert torch.isfinite(sae.step(x[:rows], dead).loss)
        sae.get_parameter("b_enc").fill_(-1e9)  # nothing fires at all
        assert int(sae.step(x[:rows], dead).fired.sum()) == 0


def test_where_many_fire_or_one_row_fires_most_the_step_is_dense(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sae, x, _ = prepared("l1", torch.float32, features=400)
    monkeypatch.setattr(few, "is_worthwhile", lambda W_enc, rows: True)
    monkeypatch.setattr(few, "FIRST_ROWS", 64)
    assert is_sparse(sae, x)

    assert not is_sparse(sae, x, torch.full((sae.features,), -1e9))
    x[100:] *= 1e3  # among rows that were not looked at first
    with torch.no_grad():
        sae.get_parameter("b_enc")[20:] = 0.0
    assert not is_sparse(sae, x)
    monkeypatch.setattr(few, "FEW", 1.0)
    assert is_sparse(sae, x)
    monkeypatch.setattr(few, "MOST_PLACES", {"cpu": 300 * 5})
    assert not is_sparse(sae, x)


def test_small_work_and_layers_in_between_are_left_to_the_dense_formulas() -> None:
    sae, x, _ = prepared("l1", torch.float32)
    deep = make_sae(settings_for("l1", {"features": 32, "hidden": [16]}), (20,), torch.Generator())

    assert not is_sparse(sae, x)
    assert not is_sparse(deep, x)
