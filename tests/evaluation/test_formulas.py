"""Every metric equals its formula on data that break careless ones; the cousins fail as told."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.errors import ShapeError
from probe_sae.evaluation.formulas import densities, figures
from probe_sae.evaluation.row_sums import RowSums, blocks_of, fitting_blocks
from probe_sae.sae import SparseCodes

Array = NDArray[np.float64]
ROWS, WIDTH = 600, 7


def hostile(offset: float, scale: float) -> tuple[Tensor, Tensor]:
    """Return rows far from 0, of which some dimensions vary far more, and biased guesses."""
    generator = torch.Generator().manual_seed(3)
    spread = torch.logspace(-2, 1, WIDTH, dtype=torch.float64)
    x = torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64) * spread
    x_hat = 0.9 * x + 0.1 * torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64)
    ramp = torch.linspace(1, 2, WIDTH, dtype=torch.float64)
    return (x + offset * ramp) * scale, (x_hat + offset * ramp + 0.05) * scale


def summed(x: Tensor, x_hat: Tensor, sizes: list[int] | None = None) -> dict[str, float]:
    """Return the metrics by way of sums, from batches of these sizes."""
    sums = RowSums(0, x.mean(0) + 0.1 * x.std(0))
    sizes = sizes or [len(x)]
    for part, guess in zip(x.split(sizes), x_hat.split(sizes), strict=True):
        sums.add(part, guess)
    return {name: float(value) for name, value in figures(sums.totals()).items()}


def by_hand(x: Array, y: Array, centre: Array) -> dict[str, float]:
    """Return the metrics as papers and libraries write them, from all rows at once."""
    e, mean = x - y, x.mean(0)
    variance = ((x - mean) ** 2).sum()
    norms, guesses = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    away = ((x - centre) ** 2).sum(1)
    return {
        "fraction_unexplained": (e**2).sum() / variance,
        "cosine": ((x * y).sum(1) / norms / guesses).mean(),
        "shrinkage": (guesses / norms).mean(),
        "relative_bias": (y**2).sum(1).mean() / (x * y).sum(1).mean(),
        "relative_bias_centred": ((y - mean) ** 2).sum() / ((x - mean) * (y - mean)).sum(),
        "cousins.row_by_row": (1 - (e**2).sum(1) / away).mean(),
        "cousins.bias_blind": 1 - e.var(0).sum() / x.var(0).sum(),
        "cousins.global_mean": 1 - (e**2).sum() / ((x - x.mean()) ** 2).sum(),
        "cousins.uncentred": ((e**2).sum(1) / (x**2).sum(1)).mean(),
    }


@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0])
@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("sizes", [[600], [1, 2, 3, 594], [599, 1], [100] * 6])
def test_every_metric_is_its_formula(offset: float, scale: float, sizes: list[int]) -> None:
    x, x_hat = hostile(offset, scale)
    centre = (x.mean(0) + 0.1 * x.std(0)).numpy()

    found = summed(x, x_hat, sizes)

    for name, value in by_hand(x.numpy(), x_hat.numpy(), centre).items():
        assert found[name] == pytest.approx(value, rel=1e-7), name


def test_the_order_of_rows_and_their_unit_change_nothing() -> None:
    x, x_hat = hostile(1e3, 1.0)
    order = x[:, -1].argsort()

    found, moved = summed(x, x_hat), summed(x[order], x_hat[order], [7] * 85 + [5])
    larger = summed(x * 10, x_hat * 10)

    for other in (moved, larger):
        for name in found:
            assert other[name] == pytest.approx(found[name], rel=1e-7, nan_ok=True), name


def test_a_constant_error_is_seen_but_by_the_bias_blind_cousin() -> None:
    """dictionary_learning's number says that all is explained; it is worse than the mean."""
    x, _ = hostile(0, 1)

    found = summed(x, x + 5 * x.std(0))

    assert found["fraction_unexplained"] == pytest.approx(25 * (ROWS - 1) ** -1 * ROWS, rel=0.01)
    assert found["cousins.bias_blind"] == pytest.approx(1, abs=1e-9)


def test_the_mean_explains_nothing_but_to_cousins_that_do_not_take_it_off() -> None:
    """overcomplete's and OpenAI's numbers call the mean of far rows all but perfect."""
    x, _ = hostile(1e3, 1)

    found = summed(x, x.mean(0).expand_as(x))

    assert found["fraction_unexplained"] == pytest.approx(1, rel=1e-9)
    assert found["cousins.bias_blind"] == pytest.approx(0, abs=1e-9)
    assert found["cousins.global_mean"] > 0.999
    assert found["cousins.uncentred"] < 1e-3
    assert found["cosine"] > 0.999
    assert found["shrinkage"] == pytest.approx(1, abs=1e-3)
    assert np.isnan(found["relative_bias_centred"])


def test_rows_near_the_mean_mislead_the_row_by_row_cousin() -> None:
    """One row of 600 that is all but the mean turns SAELens' legacy number upside down."""
    x, _ = hostile(0, 1)
    x_hat = x + 0.1 * x.std(0)
    x[0] = x.mean(0) + 0.1 * x.std(0) + 1e-4

    found = summed(x, x_hat)

    assert found["fraction_unexplained"] < 0.02
    assert found["cousins.row_by_row"] < -10


def test_shrunk_rows_are_seen_where_the_mean_is_far_by_the_centred_bias_alone() -> None:
    x, _ = hostile(1e3, 1)
    shrunk = x.mean(0) + 0.5 * (x - x.mean(0))

    found = summed(x, shrunk)

    assert found["relative_bias_centred"] == pytest.approx(0.5, rel=1e-6)
    assert found["relative_bias"] == pytest.approx(1, abs=1e-4)


def test_rows_that_do_not_vary_have_no_fraction() -> None:
    x = torch.full((50, 3), 1e4 + 0.1, dtype=torch.float64)

    assert np.isnan(summed(x, x + 1)["fraction_unexplained"])


def test_a_row_of_zeros_is_left_out_where_it_has_no_ratio() -> None:
    x, x_hat = hostile(0, 1)
    without = summed(x[1:], x_hat[1:])
    x[0] = 0

    found = summed(x, x_hat)

    assert found["shrinkage"] == pytest.approx(without["shrinkage"], rel=1e-12)
    assert found["cousins.uncentred"] == pytest.approx(without["cousins.uncentred"], rel=1e-12)


def test_classes_of_density_are_those_of_a_loop_and_add_up_to_one() -> None:
    rows = 100_000
    fired = np.array([0, 0, 3, 9, 10, 11, 9_999, 10_000, 10_001, 50_000, 50_001, 99_999])

    found = {name: float(value) for name, value in densities(fired, rows).items()}

    assert found["density.dead"] == found["dead_fraction"] == 2 / 12
    assert found["density.rare"] == 2 / 12
    assert found["density.common"] == pytest.approx(4 / 12)
    assert found["density.dense"] == found["dense_fraction"] == 4 / 12
    assert found["density.over_half"] == 2 / 12


def test_firings_are_counted_by_block_and_entries_of_zero_are_none() -> None:
    values = torch.tensor([[1.0, 0.0], [2.0, 3.0], [0.0, 0.0], [4.0, 0.0]])
    codes = SparseCodes(values, torch.tensor([[0, 2], [0, 1], [1, 2], [2, 0]]))
    sums = RowSums(3, torch.zeros(2), blocks=2)
    x = torch.ones(4, 2)

    sums.add(x, x, codes, block=torch.tensor([0, 1, 1, 0]))

    assert sums.fired.tolist() == [[1, 0, 1], [1, 1, 0]]
    assert float(figures(sums.totals())["l0"]) == 1.0


def test_blocks_hold_equal_numbers_of_contexts_and_only_those_marked() -> None:
    marked = np.random.default_rng(0).random(1000) < 0.8

    blocks = blocks_of(marked, seed=1, most=64)
    counts = np.bincount(blocks.of_context[marked], minlength=64)

    assert blocks.count == 64
    assert (blocks.of_context[~marked] == -1).all()
    assert counts.max() - counts.min() <= 1
    assert blocks_of(marked[:40], 1).count == marked[:40].sum()
    assert fitting_blocks(131_072) == 256
    assert fitting_blocks(10_000_000) == 32


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(ShapeError, match="7 long"):
        RowSums(0, torch.zeros(7)).add(torch.zeros(3, 6), torch.zeros(3, 6))
