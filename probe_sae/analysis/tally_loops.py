"""Compiled loops that count: each call has features of its own, so that calls can run side by side.

Firings lie sorted by feature and then by row; no result depends on how many calls there are.
"""

import math

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
