"""Compiled loops over firings: what they add up to, by row and by feature."""

import numpy as np
from numpy.typing import NDArray

from probe_sae.sae.kernels.compiled import dot, fast


@fast
def weighted_sums(
    values: NDArray[np.float32],
    indices: NDArray[np.int64],
    W: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Write the sum of each row's values times their features' rows of `W`."""
    for row in range(len(values)):
        total = out[row]
        total[:] = 0
        for place in range(values.shape[1]):
            value = values[row, place]
            if value != 0:
                direction = W[indices[row, place]]
                for i in range(len(total)):
                    total[i] += value * direction[i]


@fast
def dots(
    values: NDArray[np.float32],
    indices: NDArray[np.int64],
    W: NDArray[np.float32],
    rows: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Write, for each firing, its row times its feature's row of `W`; 0 where nothing fires."""
    for row in range(len(values)):
        for place in range(values.shape[1]):
            fires = values[row, place] != 0
            out[row, place] = dot(rows[row], W[indices[row, place]]) if fires else 0.0


@fast
def errors(
    values: NDArray[np.float32],
    indices: NDArray[np.int64],
    W: NDArray[np.float32],
    bias: NDArray[np.float32],
    target: NDArray[np.float32],
    x_hat: NDArray[np.float32],
    error: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Write reconstructions, their errors, and for each firing what `dots` gives of its error.

    All at once, while a row's directions are near.
    """
    for row in range(len(values)):
        total, missed, goal = x_hat[row], error[row], target[row]
        total[:] = bias
        for place in range(values.shape[1]):
            value = values[row, place]
            if value != 0:
                direction = W[indices[row, place]]
                for i in range(len(total)):
                    total[i] += value * direction[i]
        for i in range(len(total)):
            missed[i] = total[i] - goal[i]
        for place in range(values.shape[1]):
            fires = values[row, place] != 0
            out[row, place] = dot(missed, W[indices[row, place]]) if fires else 0.0


@fast
def sort_by_feature(
    values: NDArray[np.float32],
    indices: NDArray[np.int64],
    weights: NDArray[np.float32],
    starts: NDArray[np.int64],
    rows: NDArray[np.int32],
    sorted_weights: NDArray[np.float32],
) -> None:
    """Write the rows and weights of all firings, sorted by feature and then by row.

    Args:
        values: not zero where something fires, [rows, k].
        indices: [rows, k].
        weights: [rows, k].
        starts: to be written: where a feature's firings start, [features + 1].
        rows: to be written, [rows * k].
        sorted_weights: to be written, [rows * k].
    """
    starts[:] = 0
    for row in range(len(values)):
        for place in range(values.shape[1]):
            starts[indices[row, place] + 1] += np.int64(values[row, place] != 0)
    for feature in range(1, len(starts)):
        starts[feature] += starts[feature - 1]
    following = starts.copy()
    for row in range(len(values)):
        for place in range(values.shape[1]):
            if values[row, place] != 0:
                at = following[indices[row, place]]
                following[indices[row, place]] = at + 1
                rows[at], sorted_weights[at] = row, weights[row, place]


@fast
def sums_by_feature(
    starts: NDArray[np.int64],
    rows: NDArray[np.int32],
    weights: NDArray[np.float32],
    x: NDArray[np.float32],
    first: int,
    out: NDArray[np.float32],
) -> None:
    """Write, for each feature from `first` on, the weighted sum of the rows that fire it."""
    for i in range(len(out)):
        total = out[i]
        total[:] = 0
        for at in range(starts[first + i], starts[first + i + 1]):
            weight, row = weights[at], x[rows[at]]
            for column in range(len(total)):
                total[column] += weight * row[column]
