"""How loops are compiled, and the one that most others need.

They release Python's lock, so threads of Python run them side by side, and no sum is split between
threads: results do not depend on their number. Reals may be added in another order than written.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

_HOW: dict[str, Any] = {"nogil": True, "fastmath": {"nnan", "nsz", "reassoc", "contract"}}


def fast(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function when it is first called, and keep the code beside Python's own.

    numba keeps it in `__pycache__`, trusted as `.pyc` files are; it takes 10 s to make.
    """
    try:
        return njit(cache=True, **_HOW)(function)
    except RuntimeError:  # there is no folder that may be written to
        return njit(**_HOW)(function)


@fast
def dot(a: NDArray[np.float32], b: NDArray[np.float32]) -> Any:
    """Return the scalar product of two vectors."""
    total = np.float32(0)
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@fast
def four_dots(
    x: NDArray[np.float32],
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    c: NDArray[np.float32],
    d: NDArray[np.float32],
) -> Any:
    """Return the scalar products of a vector with four: memory is read along four lines at once."""
    of_a, of_b, of_c, of_d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for i in range(len(x)):
        of_a += x[i] * a[i]
        of_b += x[i] * b[i]
        of_c += x[i] * c[i]
        of_d += x[i] * d[i]
    return of_a, of_b, of_c, of_d


@fast
def dots_of(
    x: NDArray[np.float32],
    W: NDArray[np.float32],
    which: NDArray[Any],
    first: int,
    stop: int,
    out: NDArray[np.float32],
) -> None:
    """Write the scalar products of a vector with the rows of W that a part of a list names."""
    at = first
    while at + 4 <= stop:
        out[at], out[at + 1], out[at + 2], out[at + 3] = four_dots(
            x, W[which[at]], W[which[at + 1]], W[which[at + 2]], W[which[at + 3]]
        )
        at += 4
    for i in range(at, stop):
        out[i] = dot(x, W[which[i]])


@fast
def add_weighted(
    total: NDArray[np.float32],
    rows: NDArray[np.float32],
    which: NDArray[Any],
    weights: NDArray[np.float32],
    first: int,
    stop: int,
) -> None:
    """Add the rows that a part of a list names, times weights, to a vector: four at a time."""
    at = first
    while at + 4 <= stop:
        a, b, c, d = (
            rows[which[at]],
            rows[which[at + 1]],
            rows[which[at + 2]],
            rows[which[at + 3]],
        )
        of_a, of_b, of_c, of_d = weights[at], weights[at + 1], weights[at + 2], weights[at + 3]
        for i in range(len(total)):
            total[i] += of_a * a[i] + of_b * b[i] + of_c * c[i] + of_d * d[i]
        at += 4
    for j in range(at, stop):
        row, weight = rows[which[j]], weights[j]
        for i in range(len(total)):
            total[i] += weight * row[i]
