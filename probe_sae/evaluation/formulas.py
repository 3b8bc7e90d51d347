"""The metrics of a reconstruction as formulas of sums; on resamples as on all rows.

What others print under the same names is here too, each under the name of what it does, so that a
number from elsewhere can be compared with its like.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.evaluation.row_sums import Array, Totals

RARE = 1e-4
"""A feature that fires, but on a smaller share of rows than this, is rare."""
DENSE = 0.1
"""A feature that fires on a larger share of rows than this is dense."""
HALF = 0.5

Figures = dict[str, Array]
"""Name of a metric, with points between the parts of a nested one -> its value or values."""


def figures(totals: Totals) -> Figures:
    """Return every metric that sums over rows give; NaN where one is not defined."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return _figures(totals)


def _figures(t: Totals) -> Figures:
    variance = t.deviation - t.mean_shift / t.rows
    rounding = np.maximum(1e-14 * t.deviation, 1e-28 * t.x_power)
    variance = np.where(variance > rounding, variance, np.nan)
    cross = t.cross - t.mean_cross / t.rows  # <x - mean of x, e>
    centre = t.shift_sum / (t.rows * t.width)  # the mean over everything, less that of c
    about_one_mean = (
        t.deviation
        + 2 * (t.shift_along - centre * t.shift_sum)
        + t.rows * (t.spread + t.width * centre**2)
    )
    together = variance - cross  # <x - mean of x, x_hat - mean of x>
    together = np.where(np.abs(together) > 1e-9 * variance, together, np.nan)
    return {
        "fraction_unexplained": t.error / variance,
        "l0": t.firings / t.rows,
        "cosine": t.cosine / t.both_long,
        "shrinkage": t.length_ratio / t.long,
        "relative_bias": t.x_hat_power / t.product,
        "relative_bias_centred": (variance - 2 * cross + t.error) / together,
        "cousins.row_by_row": 1 - t.error_by_deviation / t.deviating,
        "cousins.bias_blind": 1 - (t.error - t.mean_error / t.rows) / variance,
        "cousins.global_mean": 1 - t.error / about_one_mean,
        "cousins.uncentred": t.error_by_power / t.long,
    }


def densities(fired: NDArray[np.generic], rows: float | Array) -> Figures:
    """Return the share of features in each class of density.

    Args:
        fired: rows on which each feature fired, [features] or [resamples, features].
        rows: how many rows there were, one number or [resamples].
    """
    share = fired / np.maximum(np.asarray(rows, np.float64)[..., None], 1)
    dense = (share > DENSE).mean(-1)
    dead = (share == 0).mean(-1)
    rare = ((share > 0) & (share < RARE)).mean(-1)
    return {
        "dead_fraction": dead,
        "dense_fraction": dense,
        "density.dead": dead,
        "density.rare": rare,
        "density.common": 1 - dead - rare - dense,
        "density.dense": dense,
        "density.over_half": (share > HALF).mean(-1),
    }


def nested(figures: Figures) -> dict[str, Any]:
    """Return numbers as plain ones, `outer.inner` as a table in a table."""
    found: dict[str, Any] = {}
    for name, value in figures.items():
        outer, _, inner = name.partition(".")
        if inner:
            found.setdefault(outer, {})[inner] = float(value)
        else:
            found[outer] = float(value)
    return found


def plain(figures: Figures) -> dict[str, float]:
    """Return those that are not nested, as plain numbers."""
    return {name: float(value) for name, value in figures.items() if "." not in name}
