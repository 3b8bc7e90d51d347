"""Statistics of each feature's firings, added up block by block; exact, in memory by features."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.codes import Firings

BINS = 64
"""Bins of a histogram as it is kept."""
FINE = 4
"""Finer bins inside each, from which quantiles are read."""
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
TOP_TOKENS = 8


class Tally:
    """Counts, power sums, histograms and token counts of every feature."""

    def __init__(self, features: int, tokens: int) -> None:
        """Begin with nothing seen; `tokens` is the number of token ids or classes."""
        self.features, self.tokens, self.rows = features, tokens, 0
        self.count = np.zeros(features, np.int64)
        self.powers = np.zeros((4, features))
        self.total = np.zeros(features)
        self.max = np.zeros(features)
        self.histogram = DoublingHistogram(features, BINS * FINE)
        self.row_tokens = np.zeros(tokens, np.int64)
        self._pairs = PairCounts()

    def add(self, block: Firings) -> None:
        """Take in a block."""
        self.rows += block.rows
        self.total += block.total
        known = block.row_tokens[block.row_tokens >= 0]
        self.row_tokens += np.bincount(known, minlength=self.tokens)
        if not len(block.feature):
            return
        self.count += np.bincount(block.feature, minlength=self.features)
        for i in range(4):
            weights = block.value ** (i + 1)
            self.powers[i] += np.bincount(block.feature, weights, minlength=self.features)
        present, starts = np.unique(block.feature, return_index=True)
        largest = np.maximum.reduceat(block.value, starts)
        self.max[present] = np.maximum(self.max[present], largest)
        self.histogram.add(block.feature, block.value, present, largest)
        known = block.token >= 0
        self._pairs.add(block.feature[known] * self.tokens + block.token[known])

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the statistics under the names that an analysis gives them."""
        n = np.maximum(self.count, 1)
        m1, m2, m3, m4 = self.powers / n
        variance = np.maximum(m2 - m1**2, 0)
        std = np.sqrt(variance)
        safe = np.where(std > 1e-9 * np.maximum(m1, 1e-30), std, np.inf)
        third = m3 - 3 * m1 * m2 + 2 * m1**3
        fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
        alive = self.count > 0
        ids, shares, lifts = self._tokens()
        histogram = self.histogram.counts.reshape(self.features, BINS, FINE).sum(2)
        return {
            "firings": self.count,
            "density": self.count / max(1, self.rows),
            "mean": np.where(alive, m1, np.nan),
            "mean_activation": self.total / max(1, self.rows),
            "std": np.where(alive, std, np.nan),
            "skew": np.where(alive, third / safe**3, np.nan),
            "kurtosis": np.where(alive, fourth / safe**4, np.nan),
            "max": self.max,
            "histogram": histogram,
            "histogram_top": self.histogram.top,
            "quantiles": self.histogram.quantiles(QUANTILES),
            "token_ids": ids,
            "token_shares": shares,
            "token_lifts": lifts,
        }

    def _tokens(self) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Return each feature's commonest tokens, their shares and lifts, [features, n] each."""
        width = min(TOP_TOKENS, self.tokens)
        ids = np.full((self.features, width), -1, np.int64)
        shares = np.zeros((self.features, width))
        lifts = np.zeros((self.features, width))
        keys, counts = self._pairs.total()
        feature, token = np.divmod(keys, self.tokens) if self.tokens else (keys, keys)
        order = np.lexsort((token, -counts, feature))
        feature, token, counts = feature[order], token[order], counts[order]
        rank = np.arange(len(feature)) - np.searchsorted(feature, feature)
        kept = rank < width
        feature, token, rank, counts = feature[kept], token[kept], rank[kept], counts[kept]
        share = counts / np.maximum(self.count[feature], 1)
        ids[feature, rank], shares[feature, rank] = token, share
        lifts[feature, rank] = share * max(1, self.rows) / np.maximum(self.row_tokens[token], 1)
        return ids, shares, lifts


class PairCounts:
    """How often each of many numbers came; only those that came take memory."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self._keys, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._pending: list[NDArray[np.int64]] = []
        self._size = 0

    def add(self, keys: NDArray[np.int64]) -> None:
        """Count some numbers."""
        self._pending.append(keys)
        self._size += len(keys)
        if self._size > max(1_000_000, 2 * len(self._keys)):
            self._merge()

    def total(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the numbers, sorted, and how often each came."""
        self._merge()
        return self._keys, self._counts

    def _merge(self) -> None:
        pending = np.concatenate([np.zeros(0, np.int64), *self._pending])
        new, counts = np.unique(pending, return_counts=True)
        keys = np.concatenate([self._keys, new])
        self._keys, inverse = np.unique(keys, return_inverse=True)
        weights = np.concatenate([self._counts, counts])
        self._counts = np.bincount(inverse, weights, minlength=len(self._keys)).astype(np.int64)
        self._pending, self._size = [], 0


@dataclass
class DoublingHistogram:
    """Exact histograms of equal bins whose range doubles when a larger value comes.

    The range of each ends at the power of two above its largest value, so the counts do not depend
    on the order in which values came.
    """

    features: int
    bins: int

    def __post_init__(self) -> None:
        self.counts = np.zeros((self.features, self.bins), np.int64)
        self.top = np.zeros(self.features)

    def add(
        self,
        feature: NDArray[np.int64],
        value: NDArray[np.float64],
        present: NDArray[np.int64],
        largest: NDArray[np.float64],
    ) -> None:
        """Count values, all positive.

        Args:
            feature: whose value each is, [values].
            value: [values].
            present: the features among them, without repeats.
            largest: the largest value of each of these.
        """
        wanted = np.ldexp(1.0, np.frexp(largest)[1])
        fresh = self.top[present] == 0
        self.top[present[fresh]] = wanted[fresh]
        growing, goal = present[~fresh], wanted[~fresh]
        while len(growing):
            short = self.top[growing] < goal
            growing, goal = growing[short], goal[short]
            pairs = self.counts[growing].reshape(-1, self.bins // 2, 2).sum(2)
            self.counts[growing] = np.concatenate([pairs, np.zeros_like(pairs)], 1)
            self.top[growing] *= 2
        place = (value / self.top[feature] * self.bins).astype(np.int64)
        flat = np.bincount(feature * self.bins + place, minlength=self.counts.size)
        self.counts += flat.reshape(self.counts.shape)

    def quantiles(self, shares: tuple[float, ...]) -> NDArray[np.float64]:
        """Return quantiles, [features, shares]; right to half a bin, NaN where nothing came."""
        below = self.counts.cumsum(1)
        total = below[:, -1:]
        columns = []
        for share in shares:
            place = (below < share * total).sum(1)
            columns.append((place + 0.5) / self.bins * self.top)
        return np.where(total > 0, np.stack(columns, 1), np.nan)
