"""Compiled loops over the rows of weights: each is gone through while it is in the cache."""

import numpy as np
from numpy.typing import NDArray

from probe_sae.sae.kernels.compiled import dot, fast


@fast
def keep_lengths(weights: NDArray[np.float32], grad: NDArray[np.float32]) -> None:
    """Take from a gradient what would only change the lengths of weights' rows, which are 1."""
    for row in range(len(weights)):
        direction, slope = weights[row], grad[row]
        along = dot(direction, slope)
        for i in range(len(slope)):
            slope[i] -= along * direction[i]


@fast
def unit_rows(weights: NDArray[np.float32]) -> None:
    """Bring rows to length 1."""
    for row in range(len(weights)):
        direction = weights[row]
        length = max(np.sqrt(dot(direction, direction)), np.float32(1e-12))
        for i in range(len(direction)):
            direction[i] /= length
