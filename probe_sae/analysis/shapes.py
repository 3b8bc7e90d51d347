"""The shape of a response to ordered levels: rising, falling, peaked, or none of these."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_ENOUGH = 0.9
"""Share of the variance of the levels' means that a shape must explain."""


class Shape(NamedTuple):
    """What a feature does from the lowest level to the highest."""

    name: str
    """`rising`, `falling`, `peaked` (up, then down), `dipped` (down, then up), `irregular`, or
    `flat` where all levels are equal."""
    monotone: float
    """Share of the variance of the levels' means that the best rising or falling curve explains:
    1 is monotone, 0 is no better than the mean."""


def shape_of(means: NDArray[np.float64]) -> Shape:
    """Return the shape of the means of levels, [levels], lowest level first."""
    if float(np.ptp(means)) <= 1e-12 * float(np.abs(means).max(initial=0)):
        return Shape("flat", float("nan"))
    rising, falling = _rising(means), _rising(-means)
    monotone = max(rising, falling)
    if monotone >= _ENOUGH:
        return Shape("rising" if rising >= falling else "falling", monotone)
    peaked, dipped = _peaked(means), _peaked(-means)
    if max(peaked, dipped) >= _ENOUGH:
        return Shape("peaked" if peaked >= dipped else "dipped", monotone)
    return Shape("irregular", monotone)


def _rising(means: NDArray[np.float64]) -> float:
    """Return the share that the best curve that never falls explains."""
    return _share(means, _isotonic(means))


def _peaked(means: NDArray[np.float64]) -> float:
    """Return the share that the best curve that rises, then falls, explains."""
    best = 0.0
    for top in range(1, len(means) - 1):
        up, down = _isotonic(means[: top + 1]), -_isotonic(-means[top + 1 :])
        best = max(best, _share(means, np.concatenate([up, down])))
    return best


def _isotonic(means: NDArray[np.float64]) -> NDArray[np.float64]:
    from sklearn.isotonic import isotonic_regression

    return np.asarray(isotonic_regression(means))


def _share(means: NDArray[np.float64], fitted: NDArray[np.float64]) -> float:
    return 1 - float(((means - fitted) ** 2).sum() / ((means - means.mean()) ** 2).sum())
