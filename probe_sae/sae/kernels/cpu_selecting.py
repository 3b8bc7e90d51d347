"""Compiled loops that choose firings from pre-activations, exact ones or a screen's."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.sae.kernels.compiled import fast
from probe_sae.sae.kernels.cpu_keys import LOWEST_KEY, again, key_below, order

LITTLE_LESS = np.float32(0.95)
"""A guess is so much of what was right for the row before."""
STRIPES = 8
"""A row is cut into so many; values at the same place in each are looked at together."""


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
    width = len(row) // STRIPES
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
    width = len(row) // STRIPES
    places_hit, count = 0, 0
    for i in range(width):
        hits[places_hit] = i
        places_hit += np.int64(largest[i] >= low)
    for hit in range(places_hit):
        for i in range(hits[hit], width * STRIPES, width):
            keys[count], places[count] = row[i], i
            count += np.int64(row[i] >= low)
    for i in range(width * STRIPES, len(row)):
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
    width = features // STRIPES
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
def top_screened(
    keys: NDArray[np.int16],
    x: NDArray[np.float32],
    W: NDArray[np.float32],
    b: NDArray[np.float32],
    unit: NDArray[np.float32],
    reach: NDArray[np.float32],
    values: NDArray[np.float32],
    indices: NDArray[np.int64],
) -> None:
    """Do as `top` does, exactly, with pre-activations of which a screen is known only.

    At least k that are as large as the k-th largest of the largest of places are computed anew.
    None that lies under the smallest of these by more than a pre-activation can be off is among the
    k largest; the others are computed anew too.

    Args:
        keys: pre-activations in units, as bit patterns of bfloat16, [rows, features]; changed.
        x: [rows, d].
        W: [features, d].
        b: [features].
        unit: of a row's keys, [rows].
        reach: how many units one is off at most before it is rounded, [rows].
        values: to be written, [rows, k].
        indices: to be written, [rows, k].
    """
    features, k = keys.shape[1], values.shape[1]
    width = features // STRIPES
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
            guess = np.int16(key_below(LITTLE_LESS * share * reach[row], cell))
            bound = np.int32(_reached(largest, width, k, guess, work))
            share = np.float32(0)
            if bound > 0:  # none of k largest is less by more than two can be off, and rounding
                cell.view(np.int32)[0] = bound << 16
                share = cell[0] / max(reach[row], np.float32(1e-30))
                low = key_below(cell[0] * np.float32(255 / 256) - 2 * reach[row], cell)
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
            again(x[row], W, b, chosen, 0, candidates, exact)
            least = exact[:candidates].min() / unit[row]
            wanted = key_below(least - reach[row], cell)
            if wanted >= low:
                break
            low = wanted
        sure = candidates
        for i in range(count):
            chosen[candidates] = places[i]
            candidates += np.int64(wanted <= near[i] < bound)
        again(x[row], W, b, chosen, sure, candidates, exact)
        _keep_largest(exact, chosen, candidates, spare, values[row], indices[row])
