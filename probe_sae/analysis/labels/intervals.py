"""Shares of rows with 95 % intervals that allow for rows of one context being alike."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_Z = 1.959963984540054
"""Standard normal quantile of a 95 % interval."""


class Share(NamedTuple):
    """A share of rows with its 95 % interval."""

    share: float
    low: float
    high: float


def share_of(hits: NDArray[np.bool_], context: NDArray[np.int64]) -> Share:
    """Return the share of hits; its 95 % interval allows for rows of one context being alike.

    Wilson's interval on the effective number of rows, p (1 - p) / v, where v is the variance of the
    share over contexts; where all rows agree, the number of contexts.

    Args:
        hits: [rows].
        context: the context of each row, [rows].

    Source: Wilson 1927; Rao and Scott 1992 for the effective number.
    """
    rows, p = len(hits), float(hits.mean())
    _, group = np.unique(context, return_inverse=True)
    size = np.bincount(group)
    contexts = len(size)
    residual = np.bincount(group, hits, contexts) - p * size
    variance = float(residual @ residual) / rows**2 * contexts / max(1, contexts - 1)
    effective = p * (1 - p) / variance if variance > 0 else contexts
    return _wilson(p, min(float(effective), rows))


def _wilson(p: float, n: float) -> Share:
    centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    reach = _Z / (1 + _Z**2 / n) * np.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    return Share(p, max(0.0, float(centre - reach)), min(1.0, float(centre + reach)))


def mean_of(a: Share, b: Share) -> Share:
    """Return the mean of two independent shares with its 95 % interval.

    Source: Zou and Donner 2008 (MOVER): distances to the ends add up as squares.
    """
    mean = (a.share + b.share) / 2
    below = np.hypot(a.share - a.low, b.share - b.low) / 2
    above = np.hypot(a.high - a.share, b.high - b.share) / 2
    return Share(mean, max(0.0, float(mean - below)), min(1.0, float(mean + above)))
