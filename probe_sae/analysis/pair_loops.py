"""Compiled loops over pairs of features that fire on the same row, by the first of the two."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.sae.kernels.compiled import fast


@fast
def add_pairs(
    starts: NDArray[np.int64],
    row: NDArray[np.int32],
    at: NDArray[np.int32],
    row_starts: NDArray[np.int64],
    feature: NDArray[np.int32],
    low: int,
    high: int,
    offsets: NDArray[np.int64],
    together: NDArray[np.uint32],
) -> None:
    """Count, for each feature, the features with larger numbers that fire on the same row.

    Args:
        starts: where the firings of each feature start, [features + 1].
        row: row within the block, [firings].
        at: place of the firing in `feature`, [firings].
        row_starts: where the firings of each row start, [rows + 1].
        feature: firings row by row, features ascending, [firings].
        low: first feature.
        high: end of the features.
        offsets: `together[offsets[i] + j]` is the count of i and j > i, [features].
        together: to be added to.
    """
    for f in range(low, high):
        base = offsets[f]
        for i in range(starts[f], starts[f + 1]):
            for other in range(at[i] + 1, row_starts[row[i] + 1]):
                together[base + feature[other]] += np.uint32(1)


@fast
def list_pairs(
    starts: NDArray[np.int64],
    row: NDArray[np.int32],
    at: NDArray[np.int32],
    row_starts: NDArray[np.int64],
    feature: NDArray[np.int32],
    low: int,
    high: int,
    least: int,
    seen: NDArray[np.int64],
    keys: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> Any:
    """Write the pairs that fire together at least `least` times in a block; return how many.

    Args:
        starts: where the firings of each feature start, [features + 1].
        row: row within the block, [firings].
        at: place of the firing in `feature`, [firings].
        row_starts: where the firings of each row start, [rows + 1].
        feature: firings row by row, features ascending, [firings].
        low: first feature.
        high: end of the features.
        least: rows on which both fire.
        seen: room for counting, all 0, [features].
        keys: to be written as far as there is room, first * features + second, ascending.
        counts: to be written.
    """
    number = 0
    for f in range(low, high):
        room = 0
        for i in range(starts[f], starts[f + 1]):
            room += row_starts[row[i] + 1] - at[i] - 1
        touched = np.empty(min(room, len(seen)), np.int64)
        many = 0
        for i in range(starts[f], starts[f + 1]):
            for other in range(at[i] + 1, row_starts[row[i] + 1]):
                second = feature[other]
                if seen[second] == 0:
                    touched[many] = second
                    many += 1
                seen[second] += 1
        some = touched[:many]
        some.sort()
        for n in range(many):
            second = some[n]
            if seen[second] >= least:
                if number < len(keys):
                    keys[number], counts[number] = f * len(seen) + second, seen[second]
                number += 1
            seen[second] = 0
    return number


@fast
def strongest_partners(
    together: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    fired: NDArray[np.int64],
    rows: int,
    least: int,
    low: int,
    high: int,
    others: tuple[int, int],
    partners: NDArray[np.int32],
    phis: NDArray[np.float64],
    counts: NDArray[np.int64],
) -> None:
    """Write the partners of features `low` to `high` with the largest positive phi, largest first.

    Args:
        together: see `add_pairs`.
        offsets: see `add_pairs`.
        fired: firings of each feature, [features].
        rows: rows looked at.
        least: rows on which both must fire.
        low: first feature.
        high: end of the features.
        others: first feature and end of those that may be partners.
        partners: -1 where there is none; to be written, [features, n].
        phis: 0 there; to be written, [features, n].
        counts: to be written, [features, n].
    """
    width = partners.shape[1]
    for f in range(low, high):
        mine = float(fired[f])
        for other in range(others[0], others[1]):
            if other == f:
                continue
            first, second = (f, other) if f < other else (other, f)
            count = np.int64(together[offsets[first] + second])
            if count < least:
                continue
            theirs = float(fired[other])
            scale = mine * theirs * (rows - mine) * (rows - theirs)
            if scale <= 0:
                continue
            phi = (float(rows) * count - mine * theirs) / math.sqrt(scale)
            if phi <= phis[f, width - 1]:
                continue
            place = width - 1
            while place and phis[f, place - 1] < phi:
                phis[f, place] = phis[f, place - 1]
                partners[f, place] = partners[f, place - 1]
                counts[f, place] = counts[f, place - 1]
                place -= 1
            phis[f, place], partners[f, place], counts[f, place] = phi, other, count
