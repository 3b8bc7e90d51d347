"""Compiled loops over the firings of some features, which lie sorted by feature and then by row.

Each call has features of its own, so that calls can run beside each other, and no result depends on
how many do.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.sae.kernels.compiled import fast


@fast
def sort_by_feature(
    starts: NDArray[np.int64],
    feature: NDArray[np.int32],
    value: NDArray[np.float32],
    feature_starts: NDArray[np.int64],
    row: NDArray[np.int32],
    at: NDArray[np.int32],
    sorted_value: NDArray[np.float32],
) -> None:
    """Write the firings of a block sorted by feature and then by row.

    Args:
        starts: where the firings of each row start, [rows + 1].
        feature: [firings].
        value: [firings].
        feature_starts: to be written, where those of each feature start, [features + 1].
        row: to be written, [firings].
        at: to be written, the firing's place in `feature`, [firings].
        sorted_value: to be written, its magnitude, [firings].
    """
    feature_starts[:] = 0
    for i in range(len(feature)):
        feature_starts[feature[i] + 1] += 1
    for i in range(1, len(feature_starts)):
        feature_starts[i] += feature_starts[i - 1]
    following = feature_starts.copy()
    for r in range(len(starts) - 1):
        for i in range(starts[r], starts[r + 1]):
            to = following[feature[i]]
            following[feature[i]] = to + 1
            row[to], at[to], sorted_value[to] = r, i, abs(value[i])


@fast
def add_moments(
    starts: NDArray[np.int64],
    value: NDArray[np.float32],
    low: int,
    high: int,
    count: NDArray[np.int64],
    moments: NDArray[np.float64],
    largest: NDArray[np.float32],
) -> None:
    """Add firings of features `low` to `high` to count, mean, and central sums of powers 2 to 4.

    Those of the block are taken around its own mean and then moved to the common one, so that a
    large mean takes no digits.

    Source: Pebay 2008, "Formulas for robust, one-pass parallel computation of covariances and
    arbitrary-order statistical moments", equations 2.1 and 3.1.
    """
    for f in range(low, high):
        n = float(starts[f + 1] - starts[f])
        if n == 0:
            continue
        mean = 0.0
        for i in range(starts[f], starts[f + 1]):
            mean += value[i]
            largest[f] = max(largest[f], value[i])
        mean /= n
        s2 = s3 = s4 = 0.0
        for i in range(starts[f], starts[f + 1]):
            off = value[i] - mean
            square = off * off
            s2 += square
            s3 += square * off
            s4 += square * square
        m = float(count[f])
        total = m + n
        before, a2, a3, a4 = moments[0, f], moments[1, f], moments[2, f], moments[3, f]
        d = mean - before
        cross = m * n / total
        moments[0, f] = before + d * n / total
        moments[1, f] = a2 + s2 + d * d * cross
        moments[2, f] = a3 + s3 + d**3 * cross * (m - n) / total + 3 * d * (m * s2 - n * a2) / total
        moments[3, f] = (
            a4
            + s4
            + d**4 * cross * (m * m - m * n + n * n) / total**2
            + 6 * d * d * (m * m * s2 + n * n * a2) / total**2
            + 4 * d * (m * s3 - n * a3) / total
        )
        count[f] += starts[f + 1] - starts[f]


@fast
def add_histograms(
    starts: NDArray[np.int64],
    value: NDArray[np.float32],
    low: int,
    high: int,
    counts: NDArray[np.int64],
    top: NDArray[np.float64],
) -> None:
    """Count firings in bins of equal width from 0 to `top`, the power of two over the largest.

    Where a larger one comes, the range is doubled and bins are joined: counts stay exact.

    Args:
        starts: where the firings of each feature start, [features + 1].
        value: [firings].
        low: first feature.
        high: end of the features.
        counts: to be added to, [features, bins].
        top: upper edges, 0 where nothing came yet, [features].
    """
    bins = counts.shape[1]
    for f in range(low, high):
        largest = 0.0
        for i in range(starts[f], starts[f + 1]):
            largest = max(largest, float(value[i]))
        if largest == 0.0:
            continue
        wanted = math.ldexp(1.0, math.frexp(largest)[1])
        if top[f] == 0.0:
            top[f] = wanted
        while top[f] < wanted:
            for b in range(bins // 2):
                counts[f, b] = counts[f, 2 * b] + counts[f, 2 * b + 1]
            counts[f, bins // 2 :] = 0
            top[f] *= 2.0
        scale = bins / top[f]
        for i in range(starts[f], starts[f + 1]):
            counts[f, int(value[i] * scale)] += 1


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
def add_positions(
    starts: NDArray[np.int64],
    row: NDArray[np.int32],
    row_bucket: NDArray[np.int64],
    low: int,
    high: int,
    counts: NDArray[np.int64],
) -> None:
    """Count the firings of each feature by the bucket of their row, into [features, buckets]."""
    for f in range(low, high):
        for i in range(starts[f], starts[f + 1]):
            counts[f, row_bucket[row[i]]] += 1


@fast
def add_tokens(
    starts: NDArray[np.int64],
    row: NDArray[np.int32],
    row_token: NDArray[np.int64],
    low: int,
    high: int,
    ids: NDArray[np.int32],
    counts: NDArray[np.int64],
    missed: NDArray[np.int64],
    seen: NDArray[np.int64],
) -> None:
    """Count the tokens on which each feature fires; the commonest are kept.

    Where a feature has more of them than there is room for, the rarest are dropped, and `missed`
    grows by the largest count that was: no count is further too low than that.

    Args:
        starts: where the firings of each feature start, [features + 1].
        row: row within the block, [firings].
        row_token: token of each row, -1 for none, [rows].
        low: first feature.
        high: end of the features.
        ids: to be changed, -1 where there is none, [features, n].
        counts: of these, [features, n].
        missed: to be added to, [features].
        seen: room for counting, all 0, [tokens].
    """
    room = ids.shape[1]
    for f in range(low, high):
        if starts[f] == starts[f + 1]:
            continue
        touched = np.empty(room + starts[f + 1] - starts[f], np.int64)
        number = 0
        for n in range(room):
            if ids[f, n] < 0:
                break
            seen[ids[f, n]] = counts[f, n]
            touched[number] = ids[f, n]
            number += 1
        for i in range(starts[f], starts[f + 1]):
            token = row_token[row[i]]
            if token < 0:
                continue
            if seen[token] == 0:
                touched[number] = token
                number += 1
            seen[token] += 1
        if number > room:
            _keep_commonest(touched[:number], room, seen)
            missed[f] += seen[touched[room]]
        for n in range(number):
            token = touched[n]
            if n < room:
                ids[f, n], counts[f, n] = token, seen[token]
            seen[token] = 0


@fast
def _keep_commonest(tokens: NDArray[np.int64], room: int, seen: NDArray[np.int64]) -> None:
    """Bring the commonest tokens to the front; of equally common ones, smaller numbers first."""
    keys = np.empty(len(tokens), np.int64)
    for n in range(len(tokens)):
        keys[n] = tokens[n] - (seen[tokens[n]] << 24)
    keys.sort()
    for n in range(len(tokens)):
        tokens[n] = keys[n] & 0xFFFFFF


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
