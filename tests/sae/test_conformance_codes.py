"""Conformance: codes, scales, thresholds, running statistics, and what is kept on disk.

Every check is one line of the table in `probe-sae guide conformance`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.sae import SAE, load_sae, save_sae
from probe_sae.training import TrainSettings, train

from .references import Problem, answer
from .test_conformance import EVERY, PLAIN, SCALED, WIDTHS, prepared, same

Rows = NDArray[np.float64]
BATCHED = ["batchtopk", "matryoshka", "transcoder", "crosscoder", "frozen_decoder"]
"""Those whose threshold stands in for the batch."""
NORMED = [case for case in EVERY if "batch norm" in case]


def finished(case: str, rows: int = 60, **more: Any) -> tuple[SAE, Tensor]:
    """Return a dictionary in its final form, and raw activations that it has not seen."""
    sae, stream = prepared(case, rows + 40, **more)
    for _ in range(3):  # running statistics that are neither the first nor the batch's
        sae.step(stream[:30])
    sae.eval()
    sae.finish(stream[:40])
    return sae.requires_grad_(False), sae.split(stream[40:])[0]


def raw(sae: SAE, x_hat: Tensor) -> Tensor:
    buffers = dict(sae.named_buffers())
    return x_hat / buffers.get("output_scale", sae.input_scale)


def arrays(*tensors: Tensor) -> list[Rows]:
    return [tensor.detach().double().numpy() for tensor in tensors]


@pytest.mark.parametrize("case", EVERY)
def test_codes_and_reconstructions_of_raw_activations_are_their_formulas(case: str) -> None:
    """With calibrated thresholds and running statistics, after directions were brought to 1."""
    sae, x = finished(case)
    wanted = answer(Problem.of(sae, x, running=True))

    assert same(sae.encode(x), wanted.codes, 1e-12)
    assert same(sae(x), raw(sae, wanted.x_hat), 1e-12)
    assert same(sae.reconstruct(x, wanted.codes), raw(sae, wanted.x_hat), 1e-12)


@pytest.mark.parametrize("case", ["topk", "batchtopk", "signed_topk", "matching_pursuit", "l1"])
def test_rows_that_need_several_chunks_are_coded_by_the_same_formula(case: str) -> None:
    sae, x = finished(case, rows=1100)

    assert same(sae.encode(x), answer(Problem.of(sae, x, running=True)).codes, 1e-12)


@pytest.mark.parametrize("case", SCALED)
def test_a_folded_scale_equals_scaling_the_rows_before(case: str) -> None:
    """Codes of raw activations are those that scaled ones have where the scale is 1."""
    sae, x = finished(case)
    plain, _ = finished(case)
    plain.load_state_dict(sae.state_dict())
    for name, scale in plain.named_buffers():
        if name in ("input_scale", "output_scale"):
            scale.fill_(1)

    assert float((sae.input_scale - 1).abs().min()) > 0.5
    assert same(sae.encode(x), plain.encode(x * sae.input_scale), 1e-12)
    assert same(sae(x), raw(sae, plain(x * sae.input_scale)), 1e-12)


@pytest.mark.parametrize("case", [*PLAIN, "l1, bounded"])
def test_scales_bring_each_site_to_a_mean_square_of_one(case: str) -> None:
    """And the variance is that of what is reconstructed, in scaled units."""
    sae, stream = prepared(case, 50)
    sae.initialise(stream, torch.Generator().manual_seed(1))
    x, target = arrays(*sae.split(stream))
    buffers = dict(sae.named_buffers())

    def scale(rows: Rows) -> float:
        return float((np.mean(rows**2)) ** -0.5)

    if case == "crosscoder":
        width = WIDTHS[case][0]
        parts = [np.full(part.shape[1], scale(part)) for part in np.split(x, [width], 1)]
        wanted = np.concatenate(parts)
    else:
        wanted = np.array(scale(x) if case in SCALED else 1.0)
    assert np.allclose(sae.input_scale.numpy(), wanted, rtol=1e-12)
    if case == "transcoder":
        wanted = np.array(scale(target))
        assert float(buffers["output_scale"]) == pytest.approx(scale(target), rel=1e-12)
    scaled = target * wanted
    variance = float(np.sum((scaled - scaled.mean(0)) ** 2)) / len(scaled)
    assert float(sae.variance) == pytest.approx(variance, rel=1e-12)


@pytest.mark.parametrize("case", ["l1", "jumprelu, tanh", "crosscoder, l1"])
def test_bringing_directions_to_length_one_changes_no_reconstruction(case: str) -> None:
    sae, stream = prepared(case, 60)
    lengths = torch.linspace(0.2, 3.0, sae.features, dtype=torch.float64)
    with torch.no_grad():
        sae.get_parameter("W_dec").mul_(lengths[:, None])
        before, codes = sae(stream), sae.encode(stream)
        of_directions = sae.get_parameter("W_dec").norm(dim=1)

    sae.finish(stream)

    ones = torch.ones(sae.features, dtype=torch.float64)
    assert same(sae.get_parameter("W_dec").detach().norm(dim=1), ones, 1e-12)
    assert same(sae(stream).detach(), before, 1e-12)
    assert same(sae.encode(stream).detach(), codes * of_directions, 1e-12)


@pytest.mark.parametrize("case", EVERY)
def test_a_row_has_the_same_codes_alone_and_among_others(case: str) -> None:
    sae, x = finished(case)
    together = sae.encode(x)

    assert same(torch.cat([sae.encode(row[None]) for row in x]), together, 1e-12)
    assert same(sae.encode(x.flip(0)).flip(0), together, 1e-12)


@pytest.mark.parametrize("case", BATCHED)
@pytest.mark.parametrize("k", [4, 2.6])
def test_a_calibrated_threshold_brings_unseen_rows_to_k(case: str, k: float) -> None:
    sae, stream = prepared(case, 16_000, features=60, k=k)
    sae.finish(stream[:8000])
    seen, unseen = (sae.encode(sae.split(rows)[0]) for rows in stream.split(8000))

    assert int(seen.count_nonzero()) == 8000 * k
    assert int(unseen.count_nonzero()) / 8000 == pytest.approx(k, rel=0.03)


@pytest.mark.parametrize("case", BATCHED)
def test_a_threshold_is_right_after_a_run_of_three_steps(case: str) -> None:
    """It is calibrated at the end: no running average has to catch up first."""
    sae, stream = prepared(case, 24_000, features=60, k=4)
    parts = stream.float().split(list(sae.widths), 1)
    trained = train(
        tuple(part[:20_000] for part in parts),
        sae.settings,
        TrainSettings(rows=3 * 512, batch_size=512, held_out=0.4),
        device="cpu",
    )

    x = trained.split(stream.float()[20_000:])[0]

    assert int(trained.encode(x).count_nonzero()) / 4000 == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("case", BATCHED)
@pytest.mark.parametrize(("rows", "total"), [(8, 20), (32, 80), (128, 320)])
def test_a_batch_fires_k_times_its_rows(case: str, rows: int, total: int) -> None:
    """k = 2.5: a number of firings for a row, not for a batch, and it need not be whole."""
    sae, stream = prepared(case, rows, k=2.5)

    step = sae.step(stream)

    assert int(step.fired.sum()) == total
    assert step.l0 == 2.5


@pytest.mark.parametrize("case", EVERY)
def test_what_codes_depend_on_is_in_the_state_even_of_a_dictionary_in_use(case: str) -> None:
    """Thresholds, statistics, points: nothing is kept beside the state, or from before."""
    sae, x = finished(case)
    other, _ = finished(case, seed=1)
    assert not torch.equal(other.encode(x), sae.encode(x))

    other.load_state_dict(sae.state_dict())

    assert torch.equal(other.encode(x), sae.encode(x))
    assert torch.equal(other(x), sae(x))


def test_a_dictionary_in_which_nothing_fires_can_be_finished() -> None:
    sae, stream = prepared("batchtopk", 40)
    with torch.no_grad():
        sae.get_parameter("b_enc").fill_(-1e6)
    sae.finish(stream)

    assert int(sae.encode(stream).count_nonzero()) == 0


def test_a_batch_whose_share_of_firings_rounds_to_none_fires_none() -> None:
    sae, stream = prepared("batchtopk", 1, k=0.4)

    assert int(sae.step(stream).fired.sum()) == 0


def test_twins_do_not_fire_beyond_the_batchs_share() -> None:
    sae, stream = prepared("batchtopk", 31, k=3)
    with torch.no_grad():  # all features are the same one
        for name in ("W_enc", "b_enc"):
            weight = sae.get_parameter(name)
            weight.copy_(weight[:1].expand_as(weight))

    assert int(sae.step(stream).fired.sum()) == 93


@pytest.mark.parametrize("case", NORMED)
def test_running_statistics_come_to_be_those_of_a_batch_seen_often(case: str) -> None:
    sae, stream = prepared(case, 1000)
    batch = answer(Problem.of(sae, stream))
    for _ in range(200):
        sae.step(stream)
    sae.eval()

    assert same(sae.decode(batch.codes), raw(sae, batch.x_hat), 5e-3)


@pytest.mark.parametrize("case", EVERY)
def test_a_trained_dictionary_keeps_every_bit_on_disk(case: str, tmp_path: Path) -> None:
    """Codes, reconstructions and state, on raw activations, after some steps of training."""
    sae, stream = prepared(case, 2000)
    parts = stream.float().split(list(sae.widths), 1)
    trainer = TrainSettings(rows=1280, batch_size=128)
    trained = train(tuple(parts), sae.settings, trainer, device="cpu", out=tmp_path / "sae")
    x = trained.split(stream.float())[0]

    loaded = load_sae(tmp_path / "sae")

    assert torch.equal(loaded.encode(x), trained.encode(x))
    assert torch.equal(loaded(x), trained(x))
    for name, tensor in trained.state_dict().items():
        kept = loaded.state_dict()[name]
        assert torch.equal(kept, tensor) or bool(tensor.isnan().all() and kept.isnan().all()), name
    assert loaded.settings == trained.settings


def test_a_dictionary_saved_in_float64_can_be_loaded(tmp_path: Path) -> None:
    sae, x = finished("topk")
    save_sae(tmp_path, sae)

    assert same(load_sae(tmp_path).encode(x.float()).double(), sae.encode(x), 1e-4)
