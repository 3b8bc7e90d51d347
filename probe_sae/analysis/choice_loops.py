"""Compiled loops that keep some firings of each feature, and find what is around them.

Firings lie sorted by feature and then by row; each call has features of its own.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.sae.kernels.compiled import fast


@fast
def _insert(
    f: int,
    value: float,
    row: int,
    context: int,
    best: NDArray[np.float32],
    rows: NDArray[np.int64],
    contexts: NDArray[np.int64],
) -> None:
    width = best.shape[1]
    if value <= best[f, width - 1]:
        return
    place = width - 1
    while place and best[f, place - 1] < value:
        best[f, place] = best[f, place - 1]
        rows[f, place] = rows[f, place - 1]
        contexts[f, place] = contexts[f, place - 1]
        place -= 1
    best[f, place], rows[f, place], contexts[f, place] = value, row, context


@fast
def add_strongest(
    starts: NDArray[np.int64],
    row: NDArray[np.int32],
    value: NDArray[np.float32],
    row_context: NDArray[np.int64],
    row_number: NDArray[np.int64],
    low: int,
    high: int,
    best: NDArray[np.float32],
    rows: NDArray[np.int64],
    contexts: NDArray[np.int64],
) -> None:
    """Keep the strongest firings of each feature, at most one a context, strongest first.

    Of equal ones, the first that came is kept.

    Args:
        starts: where the firings of each feature start, [features + 1].
        row: row within the block, [firings].
        value: [firings].
        row_context: context of each row, equal ones beside each other, [rows].
        row_number: number of each row in the store, [rows].
        low: first feature.
        high: end of the features.
        best: to be changed, 0 where there is none, [features, n].
        rows: to be changed, [features, n].
        contexts: to be changed, [features, n].
    """
    for f in range(low, high):
        context, strongest, place = -1, np.float32(0), 0
        for i in range(starts[f], starts[f + 1]):
            here = row_context[row[i]]
            if here != context:
                if context >= 0:
                    _insert(f, strongest, row_number[place], context, best, rows, contexts)
                context, strongest = here, np.float32(0)
            if value[i] > strongest:
                strongest, place = value[i], row[i]
        if context >= 0:
            _insert(f, strongest, row_number[place], context, best, rows, contexts)


@fast
def mixed(feature: int, row: int, seed: int) -> Any:
    """Return a random number that depends on feature, row and seed alone, uint64."""
    bits = np.uint64(feature) * np.uint64(0x9E3779B97F4A7C15)
    bits ^= np.uint64(row) * np.uint64(0xC2B2AE3D27D4EB4F)
    bits += np.uint64(seed) * np.uint64(0x165667B19E3779F9)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


@fast
def add_sample(
    starts: NDArray[np.int64],
    row: NDArray[np.int32],
    value: NDArray[np.float32],
    row_number: NDArray[np.int64],
    low: int,
    high: int,
    seed: int,
    keys: NDArray[np.uint64],
    rows: NDArray[np.int64],
    values: NDArray[np.float32],
) -> None:
    """Keep the firings of each feature with the largest random keys: a uniform sample.

    Args:
        starts: where the firings of each feature start, [features + 1].
        row: row within the block, [firings].
        value: [firings].
        row_number: number of each row in the store, [rows].
        low: first feature.
        high: end of the features.
        seed: of the keys.
        keys: heaps, the smallest key first; 0 where there is none, [features, n].
        rows: of these firings, [features, n].
        values: of these firings, [features, n].
    """
    width = keys.shape[1]
    for f in range(low, high):
        for i in range(starts[f], starts[f + 1]):
            number = row_number[row[i]]
            key = mixed(f, number, seed)
            if key <= keys[f, 0]:
                continue
            place = 0
            while True:  # the root is replaced, and sinks to where it belongs
                child = 2 * place + 1
                if child >= width:
                    break
                if child + 1 < width and keys[f, child + 1] < keys[f, child]:
                    child += 1
                if keys[f, child] >= key:
                    break
                keys[f, place] = keys[f, child]
                rows[f, place], values[f, place] = rows[f, child], values[f, child]
                place = child
            keys[f, place], rows[f, place], values[f, place] = key, number, value[i]


@fast
def list_around(
    starts: NDArray[np.int64],
    row: NDArray[np.int32],
    value: NDArray[np.float32],
    row_context: NDArray[np.int64],
    row_pos: NDArray[np.int64],
    low: int,
    high: int,
    wanted_starts: NDArray[np.int64],
    wanted: NDArray[np.int64],
    keys: NDArray[np.int64],
    positions: NDArray[np.int64],
    values: NDArray[np.float32],
) -> Any:
    """Write the firings of features within contexts wanted of them; return how many there are.

    Args:
        starts: where the firings of each feature start, [features + 1].
        row: row within the block, [firings].
        value: [firings].
        row_context: context of each row, equal ones beside each other, [rows].
        row_pos: place of each row, [rows].
        low: first feature.
        high: end of the features.
        wanted_starts: where the wanted contexts of each feature start, [features + 1].
        wanted: contexts, ascending for each feature, [wanted].
        keys: to be written as far as there is room, place in `wanted`.
        positions: to be written, place of the row.
        values: to be written.
    """
    number = 0
    for f in range(low, high):
        first, end = wanted_starts[f], wanted_starts[f + 1]
        if first == end:
            continue
        context, key = -1, -1
        for i in range(starts[f], starts[f + 1]):
            here = row_context[row[i]]
            if here != context:
                context, key = here, -1
                a, b = first, end
                while a < b:
                    middle = (a + b) // 2
                    if wanted[middle] < here:
                        a = middle + 1
                    else:
                        b = middle
                if a < end and wanted[a] == here:
                    key = a
            if key >= 0:
                if number < len(keys):
                    keys[number], positions[number] = key, row_pos[row[i]]
                    values[number] = value[i]
                number += 1
    return number
