"""Compiled loops that list pre-activations over limits of their own, rounded to bfloat16 or not."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.sae.kernels.compiled import fast
from probe_sae.sae.kernels.cpu_keys import again, key_below
from probe_sae.sae.kernels.cpu_selecting import STRIPES


@fast
def lowest_keys(limits: NDArray[np.float32], reach: float, keys: NDArray[np.int16]) -> Any:
    """Write the key under which a pre-activation cannot be over its feature's limit.

    Return whether one of them stands for a number that is not positive, so that bit patterns must
    be ordered.
    """
    cell = np.empty(1, np.float32)
    for i in range(len(limits)):
        keys[i] = key_below(np.float32(limits[i] - reach), cell)
    return keys.min() <= 0


@fast
def _gather_over(
    row: NDArray[Any],
    lows: NDArray[Any],
    places: NDArray[np.int32],
    marks: NDArray[np.uint8],
    hits: NDArray[np.int32],
) -> Any:
    """Collect where values are not under a limit of their own; return how many there are."""
    width = len(row) // STRIPES
    marks[:width] = 0
    for stripe in range(STRIPES):
        part = row[stripe * width : (stripe + 1) * width]
        low = lows[stripe * width : (stripe + 1) * width]
        for i in range(width):
            marks[i] |= np.uint8(part[i] >= low[i])
    places_hit, count = 0, 0
    for i in range(width):
        hits[places_hit] = i
        places_hit += np.int64(marks[i])
    for hit in range(places_hit):
        for i in range(hits[hit], width * STRIPES, width):
            places[count] = i
            count += np.int64(row[i] >= lows[i])
    for i in range(width * STRIPES, len(row)):
        places[count] = i
        count += np.int64(row[i] >= lows[i])
    return count


@fast
def over(
    pre: NDArray[np.float32],
    limits: NDArray[np.float32],
    rows: NDArray[np.int64],
    features: NDArray[np.int64],
    values: NDArray[np.float32],
) -> Any:
    """Write all pre-activations over their feature's limit; return how many there are.

    Where there is too little room, the number says how much is needed.
    """
    width, room, written = pre.shape[1], len(values), 0
    places, hits = np.empty(width + 1, np.int32), np.empty(width + 1, np.int32)
    marks = np.empty(width, np.uint8)
    for row in range(len(pre)):
        count = _gather_over(pre[row], limits, places, marks, hits)
        for i in range(count):
            place = places[i]
            value = pre[row, place]
            if value > limits[place]:
                if written < room:
                    rows[written], features[written], values[written] = row, place, value
                written += 1
    return written


@fast
def over_screened(
    keys: NDArray[np.int16],
    lowest: NDArray[np.int16],
    x: NDArray[np.float32],
    W: NDArray[np.float32],
    b: NDArray[np.float32],
    limits: NDArray[np.float32],
    rows: NDArray[np.int64],
    features: NDArray[np.int64],
    values: NDArray[np.float32],
) -> Any:
    """Do as `over` does, exactly, with pre-activations known in bfloat16 only.

    Args:
        keys: rounded pre-activations as bit patterns, ordered by `order` where `lowest_keys` says
            so, [rows, features].
        lowest: what `lowest_keys` wrote.
        x: [rows, d].
        W: [features, d].
        b: [features].
        limits: [features].
        rows: to be written.
        features: to be written.
        values: to be written.
    """
    width, room, written = keys.shape[1], len(values), 0
    places, hits = np.empty(width + 1, np.int32), np.empty(width + 1, np.int32)
    marks, exact = np.empty(width, np.uint8), np.empty(width, np.float32)
    for row in range(len(keys)):
        count = _gather_over(keys[row], lowest, places, marks, hits)
        again(x[row], W, b, places, 0, count, exact)
        for i in range(count):
            place, value = places[i], exact[i]
            if value > limits[place]:
                if written < room:
                    rows[written], features[written], values[written] = row, place, value
                written += 1
    return written
