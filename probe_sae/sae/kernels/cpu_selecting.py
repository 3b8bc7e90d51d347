"""Compiled loops that choose firings from pre-activations, rounded to bfloat16 or not."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.sae.kernels.compiled import dots_of, fast

LOWEST_KEY = -32768
LITTLE_LESS = np.float32(0.95)
_STRIPES = 8
"""A row is cut into so many; values at the same place in each are looked at together."""


@fast
def round_rows(
    rows: NDArray[np.float32],
    bits: NDArray[np.int16],
    lengths: NDArray[np.float32],
    lost: NDArray[np.float32],
) -> None:
    """Round to bfloat16.

    Args:
        rows: [rows, d].
        bits: to be written: the numbers' bit patterns, [rows, d].
        lengths: to be written: of the rows, [rows].
        lost: to be written: lengths of what rounding takes away, [rows].
    """
    near = np.empty(rows.shape[1], np.uint32)
    rounded = near.view(np.float32)
    for row in range(len(rows)):
        exact, patterns, written = rows[row], rows[row].view(np.uint32), bits[row].view(np.uint16)
        for i in range(len(exact)):
            # to the nearest; of two as near, to the even one
            odd = (patterns[i] >> np.uint32(16)) & np.uint32(1)
            pattern = (patterns[i] + np.uint32(0x7FFF) + odd) >> np.uint32(16)
            written[i], near[i] = pattern, pattern << np.uint32(16)
        square, error = np.float32(0), np.float32(0)
        for i in range(len(exact)):
            missing = exact[i] - rounded[i]
            square += exact[i] * exact[i]
            error += missing * missing
        lengths[row], lost[row] = np.sqrt(square), np.sqrt(error)


@fast
def order(values: NDArray[np.int16]) -> None:
    """Turn bit patterns of bfloat16 into keys: integers that are ordered as the numbers are.

    Those of positive numbers are so from the start, and stay as they are.
    """
    for i in range(len(values)):
        values[i] ^= (values[i] >> 15) & 0x7FFF


@fast
def _key_below(value: Any, cell: NDArray[np.float32]) -> Any:
    """Return the key of the largest bfloat16 that is not over a number."""
    cell[0] = value
    key = np.int32(cell.view(np.int32)[0] >> 16)
    if key < 0:
        key = (key ^ 0x7FFF) - 1
    return max(key, np.int32(LOWEST_KEY))


@fast
def _stripes(row: NDArray[Any], width: int) -> Any:
    return (
        row[:width],
        row[width : 2 * width],
        row[2 * width : 3 * width],
        row[3 * width : 4 * width],
        row[4 * width : 5 * width],
        row[5 * width : 6 * width],
        row[6 * width : 7 * width],
        row[7 * width : 8 * width],
    )


@fast
def _look_over(row: NDArray[Any], largest: NDArray[Any]) -> None:
    """Write the largest of each place over all stripes; no branch depends on values."""
    width = len(row) // _STRIPES
    r0, r1, r2, r3, r4, r5, r6, r7 = _stripes(row, width)
    for i in range(width):
        left = max(max(r0[i], r1[i]), max(r2[i], r3[i]))
        largest[i] = max(left, max(max(r4[i], r5[i]), max(r6[i], r7[i])))


@fast
def _reached(largest: NDArray[Any], width: int, k: int, guess: Any, spare: NDArray[Any]) -> Any:
    """Return the k-th largest of the largest of places: at least k values of the row reach it.

    It does not depend on the guess, which only makes it quick where it is a little too low.
    """
    count = 0
    for i in range(width):
        spare[count] = largest[i]
        count += np.int64(largest[i] >= guess)
    if count < k:
        spare[:width] = largest[:width]
        count = width
    return _kth_largest(spare, count, k)


@fast
def _gather(
    row: NDArray[Any],
    largest: NDArray[Any],
    low: Any,
    keys: NDArray[Any],
    places: NDArray[np.int32],
    hits: NDArray[np.int32],
) -> Any:
    """Collect what is not under `low`, and where; return how many there are.

    `largest` is what `_look_over` wrote.
    """
    width = len(row) // _STRIPES
    places_hit, count = 0, 0
    for i in range(width):
        hits[places_hit] = i
        places_hit += np.int64(largest[i] >= low)
    for hit in range(places_hit):
        for i in range(hits[hit], width * _STRIPES, width):
            keys[count], places[count] = row[i], i
            count += np.int64(row[i] >= low)
    for i in range(width * _STRIPES, len(row)):
        keys[count], places[count] = row[i], i
        count += np.int64(row[i] >= low)
    return count


@fast
def _kth_largest(values: NDArray[Any], count: int, k: int) -> Any:
    """Return the k-th largest of the first `count` values, which are put in another order."""
    low, high = 0, count - 1
    while low < high:
        pivot, left, right = values[(low + high) // 2], low, high
        while left <= right:
            while values[left] > pivot:
                left += 1
            while values[right] < pivot:
                right -= 1
            if left <= right:
                values[left], values[right] = values[right], values[left]
                left += 1
                right -= 1
        if k - 1 <= right:
            high = right
        elif k - 1 >= left:
            low = left
        else:
            break
    return values[k - 1]


@fast
def _keep_largest(
    found: NDArray[np.float32],
    places: NDArray[np.int32],
    count: int,
    spare: NDArray[np.float32],
    values: NDArray[np.float32],
    indices: NDArray[np.int64],
) -> Any:
    """Write the largest of what was found, as many as there is room for; return the smallest.

    What is not positive becomes zero; of those that tie, the first are kept.
    """
    k = len(values)
    spare[:count] = found[:count]
    least = _kth_largest(spare, count, k)
    ties, kept = k, 0
    for i in range(count):
        ties -= np.int64(found[i] > least)
    for i in range(count):
        if found[i] > least or (found[i] == least and ties > 0):
            ties -= np.int64(found[i] == least)
            values[kept], indices[kept] = max(found[i], np.float32(0)), places[i]
            kept += 1
    return least


@fast
def top(pre: NDArray[np.float32], values: NDArray[np.float32], indices: NDArray[np.int64]) -> None:
    """Write the largest of each row's pre-activations, where positive, and which they are."""
    features, k = pre.shape[1], values.shape[1]
    width = features // _STRIPES
    found, spare = np.empty(features + 1, np.float32), np.empty(features + 1, np.float32)
    places, hits = np.empty(features + 1, np.int32), np.empty(features + 1, np.int32)
    largest = np.empty(width + 1, np.float32)
    low = np.float32(-np.inf)
    for row in range(len(pre)):
        if width >= k:
            _look_over(pre[row], largest)
            low = _reached(largest, width, k, np.float32(0.9) * low, spare)
        else:
            largest[:], low = np.inf, np.float32(-np.inf)
        count = _gather(pre[row], largest, low, found, places, hits)
        _keep_largest(found, places, count, spare, values[row], indices[row])


@fast
def _again(
    x: NDArray[np.float32],
    W: NDArray[np.float32],
    b: NDArray[np.float32],
    chosen: NDArray[np.int32],
    first: int,
    stop: int,
    out: NDArray[np.float32],
) -> None:
    """Write pre-activations of a part of the chosen features in float32."""
    dots_of(x, W, chosen, first, stop, out)
    for i in range(first, stop):
        out[i] += b[chosen[i]]


@fast
def top_screened(
    keys: NDArray[np.int16],
    x: NDArray[np.float32],
    W: NDArray[np.float32],
    b: NDArray[np.float32],
    reach: NDArray[np.float32],
    values: NDArray[np.float32],
    indices: NDArray[np.int64],
) -> None:
    """Do as `top` does, exactly, with pre-activations known in bfloat16 only.

    At least k that are as large as the k-th largest of the largest of places are computed anew.
    None that lies under the smallest of these by more than a pre-activation can be off is among the
    k largest; the others are computed anew too.

    Args:
        keys: rounded pre-activations as bit patterns, [rows, features]; changed.
        x: [rows, d].
        W: [features, d].
        b: [features].
        reach: how far a pre-activation is off at most before it is rounded, [rows].
        values: to be written, [rows, k].
        indices: to be written, [rows, k].
    """
    features, k = keys.shape[1], values.shape[1]
    width = features // _STRIPES
    near, places = np.empty(features + 1, np.int16), np.empty(features + 1, np.int32)
    work, hits = np.empty(features + 1, np.int16), np.empty(features + 1, np.int32)
    exact, spare = np.empty(features, np.float32), np.empty(features, np.float32)
    chosen, cell = np.empty(features + 1, np.int32), np.empty(1, np.float32)
    largest = np.empty(width + 1, np.int16)
    share = np.float32(0)  # of a row's reach, which is about as long as the row, that k values have
    for row in range(len(keys)):
        is_ordered, low, bound = False, np.int32(LOWEST_KEY), np.int32(0)
        if width >= k:
            _look_over(keys[row], largest)
            guess = np.int16(_key_below(LITTLE_LESS * share * reach[row], cell))
            bound = np.int32(_reached(largest, width, k, guess, work))
            share = np.float32(0)
            if bound > 0:  # none of k largest is less by more than two can be off, and rounding
                cell.view(np.int32)[0] = bound << 16
                share = cell[0] / max(reach[row], np.float32(1e-30))
                low = _key_below(cell[0] * np.float32(255 / 256) - 2 * reach[row], cell)
        while True:
            if low <= 0 and not is_ordered:
                order(keys[row])
                is_ordered = True
                largest[:] = 32767  # all places are looked at
            count = _gather(keys[row], largest, np.int16(low), near, places, hits)
            if bound <= 0:
                work[:count] = near[:count]
                bound = np.int32(_kth_largest(work, count, k))
            candidates = 0
            for i in range(count):
                chosen[candidates] = places[i]
                candidates += np.int64(near[i] >= bound)
            _again(x[row], W, b, chosen, 0, candidates, exact)
            least = exact[:candidates].min()
            wanted = _key_below(least - reach[row], cell)
            if wanted >= low:
                break
            low = wanted
        sure = candidates
        for i in range(count):
            chosen[candidates] = places[i]
            candidates += np.int64(wanted <= near[i] < bound)
        _again(x[row], W, b, chosen, sure, candidates, exact)
        _keep_largest(exact, chosen, candidates, spare, values[row], indices[row])


@fast
def lowest_keys(limits: NDArray[np.float32], reach: float, keys: NDArray[np.int16]) -> Any:
    """Write the key under which a pre-activation cannot be over its feature's limit.

    Return whether one of them stands for a number that is not positive, so that bit patterns must
    be ordered.
    """
    cell = np.empty(1, np.float32)
    for i in range(len(limits)):
        keys[i] = _key_below(np.float32(limits[i] - reach), cell)
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
    width = len(row) // _STRIPES
    marks[:width] = 0
    for stripe in range(_STRIPES):
        part = row[stripe * width : (stripe + 1) * width]
        low = lows[stripe * width : (stripe + 1) * width]
        for i in range(width):
            marks[i] |= np.uint8(part[i] >= low[i])
    places_hit, count = 0, 0
    for i in range(width):
        hits[places_hit] = i
        places_hit += np.int64(marks[i])
    for hit in range(places_hit):
        for i in range(hits[hit], width * _STRIPES, width):
            places[count] = i
            count += np.int64(row[i] >= lows[i])
    for i in range(width * _STRIPES, len(row)):
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
        _again(x[row], W, b, places, 0, count, exact)
        for i in range(count):
            place, value = places[i], exact[i]
            if value > limits[place]:
                if written < room:
                    rows[written], features[written], values[written] = row, place, value
                written += 1
    return written
