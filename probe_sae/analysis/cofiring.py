"""How often each two features fire on the same row, and which fire together most.

Up to `EXACT_FEATURES` features a table has a place for every pair. Beyond, a pair is counted in a
block only where it fires together often enough there; `undercount` says by how much a count may be
too low.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis import pair_loops
from probe_sae.analysis.by_feature import ByFeature, in_pieces
from probe_sae.shown import Shown

EXACT_FEATURES = 32_768
"""Features up to which every pair is counted exactly; 4 bytes a pair, 2 GiB at most."""
MOST_PAIRS = 1 << 26
"""Pairs that are kept beyond; where there are more, only those that came more often count."""
PARTNERS = 32
"""Partners of a feature that are kept."""


class Partners(NamedTuple):
    """The features that fire with each feature most; -1 and 0 where there are fewer."""

    ids: NDArray[np.int32]
    """[features, n]"""
    phis: NDArray[np.float32]
    """[features, n]"""
    counts: NDArray[np.int64]
    """[features, n] rows on which both fire."""


@dataclass(frozen=True, repr=False)
class Pairs(Shown):
    """The strongest pairs of each feature, by feature and then from the largest phi on."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    phi: NDArray[np.float64]
    count: NDArray[np.int64]


class CoFiring:
    """Counts of common rows for every pair of features."""

    def __init__(self, features: int, exact_features: int = EXACT_FEATURES) -> None:
        """Begin with nothing seen."""
        self.features, self.rows = features, 0
        self.fired = np.zeros(features, np.int64)
        self.undercount = 0
        """How much too low a count may be; 0 is exact."""
        self.is_exact = features <= exact_features
        sizes = np.arange(features - 1, -1, -1, dtype=np.int64)
        self._offsets = np.cumsum(sizes) - sizes - np.arange(1, features + 1)
        places = features * (features - 1) // 2 if self.is_exact else 0
        self._together = np.zeros(places, np.uint32)
        self._keys, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._least = 1

    def add(self, firings: ByFeature) -> None:
        """Take in a block."""
        self.rows += len(firings.block)
        self.fired += np.diff(firings.starts)
        if self.is_exact:
            given = firings.starts, firings.row, firings.at, firings.block.starts
            firings.in_pieces(
                lambda low, high: pair_loops.add_pairs(
                    *given, firings.block.feature, low, high, self._offsets, self._together
                )
            )
            return
        self.undercount += self._least - 1
        self._add_listed(firings)

    def between(self, members: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return counts of common rows among some features; their firings on the diagonal."""
        order = np.sort(members)
        low, high = np.triu_indices(len(order), 1)
        first, second = order[low], order[high]
        if self.is_exact:
            counts = self._together[self._offsets[first] + second].astype(np.int64)
        else:
            counts = self._listed(first * self.features + second)
        table = np.zeros((len(order), len(order)), np.int64)
        table[low, high] = table[high, low] = counts
        np.fill_diagonal(table, self.fired[order])
        place = np.searchsorted(order, members)
        return table[np.ix_(place, place)]

    def pairs(
        self,
        least: int = 2,
        partners: int = PARTNERS,
        among: tuple[range, range] | None = None,
    ) -> Pairs:
        """Return the strongest partners of each feature: positive phi, `least` common rows or more.

        Args:
            least: rows on which both fire.
            partners: how many of each feature.
            among: of which features, and which may be partners; all of them, by default.

        phi = (N n_ij - n_i n_j) / sqrt(n_i n_j (N - n_i) (N - n_j)).

        Source: Yule 1912; "phi works best" for co-occurrence in arXiv 2410.19750.
        """
        of, others = among or (range(self.features), range(self.features))
        if not self.is_exact:
            return self._strongest_listed(least, partners, of, others)
        width = min(partners, max(1, self.features - 1))
        ids = np.full((self.features, width), -1, np.int32)
        phis = np.zeros((self.features, width))
        counts = np.zeros((self.features, width), np.int64)
        given = self._together, self._offsets, self.fired, self.rows, least
        bounds = others.start, others.stop
        in_pieces(
            np.arange(len(of) + 1, dtype=np.int64) * self.features,
            lambda low, high: pair_loops.strongest_partners(
                *given, of.start + low, of.start + high, bounds, ids, phis, counts
            ),
        )
        first, rank = np.nonzero(ids >= 0)
        at = first, rank
        return Pairs(first, ids[at].astype(np.int64), phis[at], counts[at])

    def _add_listed(self, firings: ByFeature) -> None:
        given = firings.starts, firings.row, firings.at, firings.block.starts
        found: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

        def work(low: int, high: int) -> None:
            seen, room = np.zeros(self.features, np.int64), 1 << 16
            while True:
                keys, counts = np.empty(room, np.int64), np.empty(room, np.int64)
                count = pair_loops.list_pairs(
                    *given, firings.block.feature, low, high, self._least, seen, keys, counts
                )
                if count <= room:
                    found[low] = keys[:count], counts[:count]
                    return
                room = count

        firings.in_pieces(work)
        new = [found[low] for low in sorted(found)]
        keys = np.concatenate([self._keys, *(keys for keys, _ in new)])
        counts = np.concatenate([self._counts, *(counts for _, counts in new)])
        order = np.argsort(keys, kind="stable")
        keys, counts = keys[order], counts[order]
        firsts = np.flatnonzero(np.diff(keys, prepend=-1))
        self._keys = keys[firsts]
        self._counts = np.add.reduceat(counts, firsts) if len(firsts) else counts
        while len(self._keys) > MOST_PAIRS:
            self._least *= 2
            kept = self._counts >= self._least
            self.undercount += self._least - 1
            self._keys, self._counts = self._keys[kept], self._counts[kept]

    def _listed(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        if not len(self._keys):
            return np.zeros(len(keys), np.int64)
        place = np.searchsorted(self._keys, keys).clip(0, len(self._keys) - 1)
        return np.where(self._keys[place] == keys, self._counts[place], 0)

    def _strongest_listed(self, least: int, partners: int, of: range, others: range) -> Pairs:
        one, two = np.divmod(self._keys, self.features)
        kept = self._counts >= least
        one, two, both = one[kept], two[kept], self._counts[kept]
        values = phi(both, self.fired[one], self.fired[two], self.rows)
        kept = values > 0
        one, two, both, values = one[kept], two[kept], both[kept], values[kept]
        first, second = np.concatenate([one, two]), np.concatenate([two, one])
        values, both = np.tile(values, 2), np.tile(both, 2)
        kept = (first >= of.start) & (first < of.stop)
        kept &= (second >= others.start) & (second < others.stop)
        first, second, values, both = first[kept], second[kept], values[kept], both[kept]
        order = np.lexsort((second, -values, first))
        rank = np.arange(len(order)) - np.searchsorted(first[order], first[order])
        order = order[rank < partners]
        return Pairs(first[order], second[order], values[order], both[order])


def phi(
    both: NDArray[np.int64], one: NDArray[np.int64], two: NDArray[np.int64], rows: int
) -> NDArray[np.float64]:
    """Return the phi coefficient: the correlation of firing of two features.

    Args:
        both: rows on which both fire.
        one: rows on which the first fires.
        two: rows on which the second fires.
        rows: rows in all.
    """
    a, b, n = one.astype(np.float64), two.astype(np.float64), float(rows)
    scale = np.sqrt(a * b * (n - a) * (n - b))
    return np.divide(n * both - a * b, scale, out=np.zeros_like(scale), where=scale > 0)


def jaccard(
    both: NDArray[np.int64], one: NDArray[np.int64], two: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the share of the rows on which one of two features fires on which both do."""
    either = one + two - both
    return np.divide(both, either, out=np.zeros(both.shape), where=either > 0)


def npmi(
    both: NDArray[np.int64], one: NDArray[np.int64], two: NDArray[np.int64], rows: int
) -> NDArray[np.float64]:
    """Return normalised pointwise mutual information: ln(N n_ij / (n_i n_j)) / -ln(n_ij / N).

    -1 where they never fire together, 1 where they only do so, 0 by chance.

    Source: Bouma 2009.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        shared = both / rows
        value = np.log(both * (rows / (one.astype(np.float64) * two))) / -np.log(shared)
    value = np.where(both == 0, -1.0, value)
    return np.where((both == rows) | (one == 0) | (two == 0), np.nan, value)


def p_values(
    both: NDArray[np.int64], one: NDArray[np.int64], two: NDArray[np.int64], rows: int
) -> NDArray[np.float64]:
    """Return the chance that independent features fire together so often or more often.

    Hypergeometric (Fisher's exact test, one-sided). Rows of a context resemble each other, so that
    chance is larger than this says.
    """
    from scipy.stats import hypergeom

    return hypergeom.sf(both - 1, rows, one, two)


def significant(p: NDArray[np.float64], tests: int, rate: float = 0.01) -> NDArray[np.bool_]:
    """Return which of many tests may be called, with at most `rate` of them false.

    Args:
        p: the p-values looked at, the smallest of all tests.
        tests: how many tests there were, those not looked at included.
        rate: false discovery rate.

    Source: Benjamini and Hochberg 1995.
    """
    order = np.argsort(p, kind="stable")
    holds = p[order] <= rate * np.arange(1, len(p) + 1) / max(1, tests)
    called = np.zeros(len(p), np.bool_)
    if holds.any():
        called[order[: np.flatnonzero(holds)[-1] + 1]] = True
    return called


def partners(pairs: Pairs, features: int, count: int = 8) -> Partners:
    """Return the `count` strongest partners of each feature."""
    rank = np.arange(len(pairs.first)) - np.searchsorted(pairs.first, pairs.first)
    kept = rank < count
    at = (pairs.first[kept], rank[kept])
    result = Partners(
        np.full((features, count), -1, np.int32),
        np.zeros((features, count), np.float32),
        np.zeros((features, count), np.int64),
    )
    result.ids[at] = pairs.second[kept]
    result.phis[at] = pairs.phi[kept]
    result.counts[at] = pairs.count[kept]
    return result
