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
