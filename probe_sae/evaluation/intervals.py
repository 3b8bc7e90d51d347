"""Intervals of 95 %: what a metric would have been on other contexts of the same kind.

Percentile bootstrap. Contexts are drawn again, not rows: rows of one context hang together, and an
interval from rows drawn one by one would be far too narrow.
Source: Efron and Tibshirani 1993, chapter 13; clusters: Davison and Hinkley 1997, section 3.8.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from probe_sae.errors import SettingsError
from probe_sae.evaluation.formulas import Figures, densities, figures
from probe_sae.evaluation.row_sums import Array, RowSums

Interval = tuple[float, float]
LEVEL = 0.95
_FEATURES_AT_ONCE = 4096
_NO_INTERVAL = ("dead_fraction", "density.dead", "density.rare", "density.common")
"""A resample lacks a third of the contexts, so that it always has more dead and rare features than
the rows themselves: such an interval would lie beside its metric."""


def resamples_of(blocks: int, resamples: int, seed: int) -> Array:
    """Return how often each resample draws each of some blocks, [resamples, blocks].

    Raises:
        SettingsError: fewer than 2 resamples are asked for.
    """
    if resamples < 2:
        raise SettingsError(
            f"resamples is {resamples}; expected at least 2, better 1000; 0 leaves intervals out."
        )
    generator = np.random.default_rng([seed, 2])
    return generator.multinomial(blocks, [1 / blocks] * blocks, resamples).astype(np.float64)


def percentiles(values: Array, level: float = LEVEL) -> Interval:
    """Return between which values the middle share of some lies; NaN where all are NaN."""
    known = values[np.isfinite(values)]
    if not len(known):
        return (float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return (float(low), float(high))


def interval_of_mean(
    values: NDArray[np.float64], *, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Return the interval of the mean of some numbers, [n]; NaN for fewer than two."""
    if len(values) < 2:
        return (float("nan"), float("nan"))
    weights = resamples_of(len(values), resamples, seed)
    return percentiles(weights @ values / len(values))


def intervals_of(drawn: Mapping[str, Array]) -> dict[str, Interval]:
    """Return the interval of each metric from its values on the resamples, [resamples] each."""
    return {name: percentiles(np.asarray(values)) for name, values in drawn.items()}


def row_intervals(sums: RowSums, resamples: int, seed: int) -> dict[str, Interval]:
    """Return the interval of every metric of sums; none where there is but one block."""
    if sums.blocks < 2:
        return {}
    weights = resamples_of(sums.blocks, resamples, seed)
    totals = sums.totals(weights)
    drawn: Figures = figures(totals)
    drawn |= _drawn_densities(sums, weights, totals.rows)
    return intervals_of({n: values for n, values in drawn.items() if n not in _NO_INTERVAL})


def _drawn_densities(sums: RowSums, weights: Array, rows: Array) -> Figures:
    """Return the shares of features by density on each resample, some features at a time."""
    fired = sums.fired.numpy()
    shares: Figures = {}
    for start in range(0, fired.shape[1], _FEATURES_AT_ONCE):
        part = fired[:, start : start + _FEATURES_AT_ONCE]
        for name, values in densities(weights @ part, rows).items():
            added = values * part.shape[1] / fired.shape[1]
            shares[name] = shares[name] + added if name in shares else added
    return shares
