"""The order in which an epoch gives out the rows of a store: what fills the buffer, in turn.

Nothing is read here.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 2048
"""Rows that are read together."""


class Filling(NamedTuple):
    """What one filling of the buffer holds."""

    left: NDArray[np.int64]
    """Rows that the filling before has left, by their number in the store."""
    blocks: NDArray[np.int64]
    """Blocks to read."""
    order: NDArray[np.int64]
    """Places among `left` and the blocks' rows, in the order in which they are given out."""
    given: int
    """How many of them this filling gives out; the others are left to the next."""
    rows: NDArray[np.int64]
    """Those in `order`, by their number in the store."""


class Fillings:
    """Fillings of a buffer with blocks of rows, in an order of each epoch's own."""

    def __init__(self, rows: int, keep: NDArray[np.bool_] | None, capacity: int, seed: int) -> None:
        """Take what there is.

        Args:
            rows: of the store.
            keep: which of them are given out, [rows]; all by default.
            capacity: rows that a buffer holds, about.
            seed: of the order.
        """
        self._rows, self._keep, self._seed = rows, keep, seed
        self.capacity = capacity
        self.blocks = -(-rows // BLOCK_ROWS)

    def of_epoch(self, number: int, batch: int) -> Iterator[Filling]:
        """Yield the fillings of an epoch, of which all but the last give out whole batches."""
        generator = np.random.default_rng([self._seed, number])
        blocks = generator.permutation(self.blocks)
        at_once = self._blocks_at_once(batch)
        left = np.zeros(0, np.int64)
        for first in range(0, len(blocks), at_once):
            mine = blocks[first : first + at_once]
            is_last = first + at_once >= len(blocks)
            rows = np.concatenate([left, *(self._rows_of(int(block)) for block in mine)])
            places = np.concatenate([np.arange(len(left)), self._laid(len(left), mine)])
            order = generator.permutation(len(rows))
            given = len(rows) if is_last else len(rows) // batch * batch
            rows = rows[order]
            yield Filling(left, mine, places[order], given, rows)
            left = rows[given:]

    def room(self, batch: int) -> int:
        """Return how many rows a buffer must have room for."""
        return self._blocks_at_once(batch) * BLOCK_ROWS + batch

    def bounds(self, block: int) -> tuple[int, int]:
        """Return where a block of rows begins and ends."""
        start = block * BLOCK_ROWS
        return start, min(start + BLOCK_ROWS, self._rows)

    def _blocks_at_once(self, batch: int) -> int:
        return max(1, -(-max(batch, self.capacity) // BLOCK_ROWS))

    def _rows_of(self, block: int) -> NDArray[np.int64]:
        """Return the rows of a block that are given out, by their number in the store."""
        start, stop = self.bounds(block)
        if self._keep is None:
            return np.arange(start, stop)
        return start + np.flatnonzero(self._keep[start:stop])

    def _laid(self, before: int, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where in the buffer the rows of blocks lie, after `before` others."""
        parts: list[NDArray[np.int64]] = []
        for block in blocks:
            start, stop = self.bounds(int(block))
            parts.append(before + self._rows_of(int(block)) - start)
            before += stop - start
        return np.concatenate(parts)
