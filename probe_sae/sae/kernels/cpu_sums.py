"""Compiled loops over firings: what they add up to, by row and by feature."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.sae.kernels.compiled import add_weighted, dots_of, fast


@fast
def _firing(
    values: NDArray[np.float32],
    indices: NDArray[np.int64],
    weights: NDArray[np.float32],
    which: NDArray[np.int64],
    places: NDArray[np.int64],
) -> Any:
    """Write what fires of a row: its values, features and places; return how many do."""
    count = 0
    for place in range(len(values)):
        weights[count], which[count], places[count] = values[place], indices[place], place
        count += np.int64(values[place] != 0)
    return count


@fast
def weighted_sums(
    values: NDArray[np.float32],
    indices: NDArray[np.int64],
    W: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Write the sum of each row's values times their features' rows of `W`."""
    width = values.shape[1]
    weights, which = np.empty(width + 1, np.float32), np.empty(width + 1, np.int64)
    places = np.empty(width + 1, np.int64)
    for row in range(len(values)):
        count = _firing(values[row], indices[row], weights, which, places)
        out[row] = 0
        add_weighted(out[row], W, which, weights, 0, count)


@fast
def dots(
    values: NDArray[np.float32],
    indices: NDArray[np.int64],
    W: NDArray[np.float32],
    rows: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Write, for each firing, its row times its feature's row of `W`; 0 where nothing fires."""
    width = values.shape[1]
    weights, which = np.empty(width + 1, np.float32), np.empty(width + 1, np.int64)
    places, found = np.empty(width + 1, np.int64), np.empty(width, np.float32)
    for row in range(len(values)):
        count = _firing(values[row], indices[row], weights, which, places)
        dots_of(rows[row], W, which, 0, count, found)
        out[row] = 0
        for i in range(count):
            out[row, places[i]] = found[i]


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
    width = values.shape[1]
    weights, which = np.empty(width + 1, np.float32), np.empty(width + 1, np.int64)
    places, found = np.empty(width + 1, np.int64), np.empty(width, np.float32)
    for row in range(len(values)):
        total, missed, goal = x_hat[row], error[row], target[row]
        count = _firing(values[row], indices[row], weights, which, places)
        total[:] = bias
        add_weighted(total, W, which, weights, 0, count)
        for i in range(len(total)):
            missed[i] = total[i] - goal[i]
        dots_of(missed, W, which, 0, count, found)
        out[row] = 0
        for i in range(count):
            out[row, places[i]] = found[i]


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
        out[i] = 0
        add_weighted(out[i], x, rows, weights, starts[first + i], starts[first + i + 1])
