"""Statistics of each feature's firings, added up block by block, in memory by features."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis import choice_loops, tally_loops
from probe_sae.analysis.by_feature import ByFeature
from probe_sae.errors import FormatError

BINS = 64
"""Bins of a histogram as it is kept."""
FINE = 4
"""Finer bins inside each, from which quantiles are read."""
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
TOP_TOKENS = 16
"""Tokens of a feature that are reported."""
COUNTED_TOKENS = 512
"""Tokens of a feature that are counted; where it has more, the rarest are dropped."""
TOP = 20
"""Strongest firings that are kept, one a context."""
SAMPLE = 100
"""Firings drawn at random that are kept."""
PLACES = 24
"""Buckets of places in a document: 0, 1, 2 to 3, 4 to 7, and so on."""
GRID = 64
"""Buckets of places in an image at most."""


@dataclass(frozen=True)
class Strongest:
    """The strongest firings of each feature, one a context; 0 and -1 where there are fewer."""

    value: NDArray[np.float32]
    """[features, n] strongest first."""
    row: NDArray[np.int64]
    """[features, n] number in the store."""
    context: NDArray[np.int64]
    """[features, n]"""


@dataclass(frozen=True)
class Sample:
    """A uniform sample of the firings of each feature, in random order; -1 where they end."""

    row: NDArray[np.int64]
    """[features, n] number in the store."""
    value: NDArray[np.float32]
    """[features, n]"""


class Tally:
    """What is counted and kept of every feature."""

    def __init__(self, features: int, tokens: int, grid: tuple[int, int] | None, seed: int) -> None:
        """Begin with nothing seen.

        Args:
            features: how many.
            tokens: number of token ids or classes.
            grid: height and width of an image's rows; None for text.
            seed: of the sample.

        Raises:
            FormatError: there are more tokens than can be counted.
        """
        if tokens >= 1 << 24:
            raise FormatError(f"{tokens} kinds of tokens; at most {1 << 24} can be counted.")
        self.features, self.tokens, self.rows, self.seed = features, tokens, 0, seed
        self._grid = grid
        self.count = np.zeros(features, np.int64)
        self._moments = np.zeros((4, features))
        self.max = np.zeros(features, np.float32)
        self._bins = np.zeros((features, BINS * FINE), np.int64)
        self._bins_top = np.zeros(features)
        self._best = Strongest(
            np.zeros((features, TOP), np.float32),
            np.full((features, TOP), -1, np.int64),
            np.full((features, TOP), -1, np.int64),
        )
        self._sample_keys = np.zeros((features, SAMPLE), np.uint64)
        self._sample = Sample(
            np.full((features, SAMPLE), -1, np.int64), np.zeros((features, SAMPLE), np.float32)
        )
        self.row_tokens = np.zeros(tokens, np.int64)
        room = min(COUNTED_TOKENS, max(1, tokens))
        self._token_ids = np.full((features, room), -1, np.int32)
        self._token_counts = np.zeros((features, room), np.int64)
        self.missed_tokens = np.zeros(features, np.int64)
        """[features] how much too low a count of tokens may be."""
        self.row_places = np.zeros(self._buckets, np.int64)
        self.places = np.zeros((features, self._buckets), np.int64)

    def add(self, firings: ByFeature) -> None:
        """Take in a block of whole contexts."""
        block = firings.block
        if len(block.token) and int(block.token.max()) >= self.tokens:
            raise FormatError(f"token {block.token.max()} of {self.tokens}: the codes are damaged.")
        self.rows += len(block)
        known = block.token[block.token >= 0]
        self.row_tokens += np.bincount(known, minlength=self.tokens)
        bucket = self._bucket(block.pos)
        self.row_places += np.bincount(bucket, minlength=self._buckets)
        starts, row, value = firings.starts, firings.row, firings.value
        best, sample = self._best, self._sample

        def work(low: int, high: int) -> None:
            part = low, high
            tally_loops.add_moments(starts, value, *part, self.count, self._moments, self.max)
            tally_loops.add_histograms(starts, value, *part, self._bins, self._bins_top)
            choice_loops.add_strongest(
                starts, row, value, block.context, block.row, *part,
                best.value, best.row, best.context,
            )  # fmt: skip
            choice_loops.add_sample(
                starts, row, value, block.row, *part, self.seed,
                self._sample_keys, sample.row, sample.value,
            )  # fmt: skip
            tally_loops.add_positions(starts, row, bucket, *part, self.places)
            tally_loops.add_tokens(
                starts, row, block.token, *part, self._token_ids, self._token_counts,
                self.missed_tokens, np.zeros(self.tokens, np.int64),
            )  # fmt: skip

        firings.in_pieces(work)

    def strongest(self) -> Strongest:
        """Return the strongest firings."""
        return self._best

    def sample(self) -> Sample:
        """Return the sample in the order of its random keys, so that a part of it is one too."""
        order = np.argsort(~self._sample_keys, axis=1, kind="stable")
        return Sample(
            np.take_along_axis(self._sample.row, order, 1),
            np.take_along_axis(self._sample.value, order, 1),
        )

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the statistics under the names that an analysis gives them."""
        n = np.maximum(self.count, 1)
        mean, m2, m3, m4 = self._moments[0], *(self._moments[1:] / n)
        variance = np.maximum(m2, 0)
        alive, varies = self.count > 0, variance > 1e-14 * mean**2
        safe = np.where(varies, variance, 1.0)
        ids, shares, lifts = self._tokens()
        histogram = self._bins.reshape(self.features, BINS, FINE).sum(2)
        return {
            "firings": self.count,
            "density": self.count / max(1, self.rows),
            "mean": np.where(alive, mean, np.nan),
            "std": np.where(alive, np.sqrt(variance), np.nan),
            "skew": np.where(alive, np.where(varies, m3 / safe**1.5, 0), np.nan),
            "kurtosis": np.where(alive, np.where(varies, m4 / safe**2, 0), np.nan),
            "max": self.max,
            "histogram": histogram,
            "histogram_top": self._bins_top,
            "quantiles": self._quantiles(),
            "token_ids": ids,
            "token_shares": shares,
            "token_lifts": lifts,
            "token_undercount": self.missed_tokens,
            "places": self.places,
        }

    @property
    def _buckets(self) -> int:
        if self._grid is None:
            return PLACES
        height, width = self._coarse
        return height * width

    @property
    def _coarse(self) -> tuple[int, int]:
        """Height and width of the grid of an image's buckets."""
        height, width = self._grid or (1, 1)
        step = 1
        while -(-height // step) * -(-width // step) > GRID:
            step += 1
        return -(-height // step), -(-width // step)

    def _bucket(self, pos: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the bucket of each row's place."""
        if self._grid is None:
            return np.frexp(pos.astype(np.float64))[1].clip(0, PLACES - 1).astype(np.int64)
        (height, width), (rows, columns) = self._grid, self._coarse
        y, x = np.divmod(pos.clip(0, height * width - 1), width)
        return (y * rows // height) * columns + x * columns // width

    def _quantiles(self) -> NDArray[np.float64]:
        """Return quantiles, [features, n]; right to half a bin, NaN where nothing came."""
        below = self._bins.cumsum(1)
        total = below[:, -1:]
        columns = []
        for share in QUANTILES:
            place = (below < share * total).sum(1)
            columns.append((place + 0.5) / (BINS * FINE) * self._bins_top)
        return np.where(total > 0, np.stack(columns, 1), np.nan)

    def _tokens(self) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Return each feature's commonest tokens, their shares and lifts, [features, n] each."""
        width = min(TOP_TOKENS, self.tokens)
        keys = (self._token_ids.astype(np.int64)) - (self._token_counts << 24)
        order = np.argsort(keys, axis=1, kind="stable")[:, :width]
        ids = np.take_along_axis(self._token_ids, order, 1).astype(np.int64)
        counts = np.take_along_axis(self._token_counts, order, 1)
        shares = counts / np.maximum(self.count, 1)[:, None]
        base = np.maximum(self.row_tokens[ids], 1) if self.tokens else np.ones(ids.shape)
        lifts = np.where(ids >= 0, shares * max(1, self.rows) / base, 0)
        return ids, np.where(ids >= 0, shares, 0), lifts
