"""Intervals hold what they promise: the true value, 95 times of 100."""

import numpy as np
import pytest
import torch

from probe_sae.errors import SettingsError
from probe_sae.evaluation.formulas import figures
from probe_sae.evaluation.intervals import (
    interval_of_mean,
    percentiles,
    resamples_of,
    row_intervals,
)
from probe_sae.evaluation.row_sums import RowSums


def test_the_mean_of_a_known_law_lies_in_95_of_100_intervals() -> None:
    """Exponential, mean 1: skewed, as losses are."""
    draws = np.random.default_rng(0).exponential(size=(400, 200))

    inside = [
        low <= 1 <= high
        for low, high in (
            interval_of_mean(each, resamples=300, seed=i) for i, each in enumerate(draws)
        )
    ]

    assert 0.91 <= np.mean(inside) <= 0.98


def clustered(seed: int, contexts: int = 60, size: int = 20) -> RowSums:
    """Return sums over rows whose errors are those of their context: 0 or of variance 1."""
    generator = torch.Generator().manual_seed(seed)
    is_bad = (torch.rand(contexts, generator=generator) < 0.5).repeat_interleave(size).double()
    x = torch.randn(contexts * size, 4, generator=generator, dtype=torch.float64)
    error = torch.randn(contexts * size, 4, generator=generator, dtype=torch.float64)
    sums = RowSums(0, torch.zeros(4), blocks=contexts)
    block = torch.arange(contexts).repeat_interleave(size)
    sums.add(x, x + error * is_bad[:, None], block=block)
    return sums


def test_contexts_are_drawn_because_rows_of_one_hang_together() -> None:
    """The fraction unexplained is 0.5. Rows drawn one by one would miss it most of the time."""
    inside, widths = list[bool](), list[float]()
    for seed in range(120):
        low, high = row_intervals(clustered(seed), 200, seed)["fraction_unexplained"]
        inside.append(low <= 0.5 <= high)
        widths.append(high - low)

    by_rows = 2 * 1.96 * np.sqrt(0.75 / 1200)  # standard error if each row were on its own, about
    assert np.mean(inside) >= 0.9
    assert np.mean(widths) > 2 * by_rows


def test_a_resample_is_the_same_formulas_on_the_blocks_that_were_drawn() -> None:
    sums = clustered(1, contexts=5)
    weights = np.array([[2.0, 0, 1, 0, 2]])
    again = clustered(1, contexts=5)
    drawn = RowSums(0, torch.zeros(4), blocks=1)
    generator = torch.Generator().manual_seed(1)
    is_bad = (torch.rand(5, generator=generator) < 0.5).repeat_interleave(20).double()
    x = torch.randn(100, 4, generator=generator, dtype=torch.float64)
    x_hat = x + torch.randn(100, 4, generator=generator, dtype=torch.float64) * is_bad[:, None]
    for block in (0, 0, 2, 4, 4):
        part = slice(20 * block, 20 * block + 20)
        drawn.add(x[part], x_hat[part])

    expected = figures(drawn.totals())
    for name, values in figures(sums.totals(weights)).items():
        assert float(values[0]) == pytest.approx(float(expected[name]), rel=1e-9, nan_ok=True)
    assert row_intervals(again, 50, 3) == row_intervals(sums, 50, 3)


def test_an_interval_holds_its_metric_and_shares_of_dead_features_have_none() -> None:
    sums = clustered(2)
    sums.fired = torch.randint(0, 4, (60, 30), dtype=torch.int32)

    found = row_intervals(sums, 200, 0)

    low, high = found["fraction_unexplained"]
    assert low < float(figures(sums.totals())["fraction_unexplained"]) < high
    assert "dense_fraction" in found
    assert "dead_fraction" not in found
    assert "density.rare" not in found


def test_a_single_block_or_value_has_no_interval() -> None:
    assert row_intervals(RowSums(0, torch.zeros(2), 1), 100, 0) == {}
    assert np.isnan(interval_of_mean(np.array([1.0]))[0])
    assert np.isnan(percentiles(np.array([np.nan, np.nan]))[1])


def test_too_few_resamples_are_refused() -> None:
    with pytest.raises(SettingsError, match="at least 2"):
        resamples_of(10, 1, 0)
