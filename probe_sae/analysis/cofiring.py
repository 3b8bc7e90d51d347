"""How often each two features fire on the same row, and who fires with whom most."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.codes import Firings

PENDING_FIRINGS = 1_000_000


class CoFiring:
    """Exact counts of common rows for every pair of features that has any."""

    def __init__(self, features: int) -> None:
        """Begin with nothing seen."""
        self.features, self.rows = features, 0
        self._total: Any = None
        self._pending: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        self._size = 0

    def add(self, block: Firings) -> None:
        """Take in a block."""
        self.rows += block.rows
        self._pending.append((block.row, block.feature))
        self._size += len(block.feature)
        if self._size > PENDING_FIRINGS:
            self._merge()

    def counts(self) -> Any:
        """Return the counts as a symmetric scipy CSR matrix; its diagonal is the firings."""
        self._merge()
        return self._total

    def _merge(self) -> None:
        from scipy import sparse

        pending = self._pending or [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
        rows, features = (np.concatenate(column) for column in zip(*pending, strict=True))
        numbers, local = np.unique(rows, return_inverse=True)
        shape = (len(numbers), self.features)
        codes: Any = sparse.csr_matrix((np.ones(len(local), np.int32), (local, features)), shape)
        product = codes.T @ codes
        self._total = product if self._total is None else self._total + product
        self._pending, self._size = [], 0


class Partners(NamedTuple):
    """The features that fire with each feature most; -1 and 0 where there are fewer."""

    ids: NDArray[np.int32]
    """[features, n]"""
    phis: NDArray[np.float32]
    """[features, n]"""
    counts: NDArray[np.int64]
    """[features, n] rows on which both fire."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of features that fire together, each in both directions, sorted by the first."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    phi: NDArray[np.float64]
    count: NDArray[np.int64]


def phi_of_pairs(cofiring: CoFiring, least: int = 2) -> Pairs:
    """Return every pair with at least `least` common rows and a positive phi coefficient.

    phi = (N n_ij - n_i n_j) / sqrt(n_i n_j (N - n_i) (N - n_j)).

    Source: Yule 1912; "phi works best" for co-occurrence in arXiv 2410.19750.
    """
    matrix = cofiring.counts()
    fired = matrix.diagonal().astype(np.float64)
    pairs = matrix.tocoo()
    apart = (pairs.row != pairs.col) & (pairs.data >= least)
    first = pairs.row[apart].astype(np.int64)
    second = pairs.col[apart].astype(np.int64)
    both = pairs.data[apart].astype(np.int64)
    rows = float(cofiring.rows)
    a, b = fired[first], fired[second]
    scale = np.sqrt(a * b * (rows - a) * (rows - b))
    phi = np.divide(rows * both - a * b, scale, out=np.zeros_like(a), where=scale > 0)
    kept = phi > 0
    order = np.lexsort((second[kept], -phi[kept], first[kept]))
    return Pairs(*(column[kept][order] for column in (first, second, phi, both)))


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
