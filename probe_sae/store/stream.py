"""Shuffled batches of a store's rows, for training: each row once an epoch, in bounded memory.

Blocks of rows from all over the store fill a buffer, whose rows are then drawn in random order,
while the next blocks are read beside. How well that mixes depends on the buffer alone: `companions`
says it. An epoch can begin at any batch, so that a resumed training sees what an uninterrupted one
sees.
"""

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.errors import SettingsError
from probe_sae.store import layout
from probe_sae.store.reader import Store

BLOCK_ROWS = 2048
BUFFER_BYTES = 192 << 20
"""Of a buffer of rows as they are on disk; two of them are in use."""
READERS = 2
"""Threads that read."""
KEPT_BATCHES = 4
"""Batches whose memory is kept for others."""


class _Fill(NamedTuple):
    """What one filling of the buffer holds."""

    left: NDArray[np.int64]
    """Rows that the fill before has left, by their number in the store."""
    blocks: NDArray[np.int64]
    """Blocks to read."""
    order: NDArray[np.int64]
    """Places among `left` and the blocks' rows, in the order in which they are given out."""
    given: int
    """How many of them this fill gives out; the others are left to the next."""
    rows: NDArray[np.int64]
    """Those in `order`, by their number in the store."""


class _Batches:
    """Memory of batches, used again once nobody holds a batch or a part of one any more.

    Fresh pages for every batch cost six times what the rows in it cost.
    """

    def __init__(self, rows: int, width: int, dtype: str) -> None:
        self._shape, self._dtype = (rows, width), dtype
        self._kept: list[NDArray[Any]] = []

    def of(self, rows: Tensor, wanted: Tensor) -> Tensor:
        """Return the wanted rows, [wanted, width]."""
        batch = layout.from_disk(self._free()[: len(wanted)], self._dtype)
        torch.index_select(_as_words(rows), 0, wanted, out=_as_words(batch))
        return batch

    def _free(self) -> NDArray[Any]:
        """Return an array that only this object refers to; a tensor made of it refers to it."""
        for i in range(len(self._kept)):
            if sys.getrefcount(self._kept[i]) == 2:  # the list and the call
                return self._kept[i]
        fresh = np.empty(self._shape, layout.DTYPES[self._dtype][1])
        if len(self._kept) < KEPT_BATCHES:
            self._kept.append(fresh)
        return fresh


def _as_words(rows: Tensor) -> Tensor:
    """Return rows as rows of the longest words that fit: copied by words, they cost half."""
    for dtype in (torch.int64, torch.int32):
        if rows.shape[1] * rows.element_size() % dtype.itemsize == 0:
            return rows.view(dtype)
    return rows


class StoreStream:
    """The rows of one site, or of the contexts chosen from it, as shuffled batches."""

    def __init__(
        self,
        store: Store,
        site: str,
        seed: int,
        contexts: NDArray[np.bool_] | None = None,
        *,
        row_bytes: int | None = None,
    ) -> None:
        """Stream `site` of `store`, only rows whose context is marked in `contexts`, [contexts].

        Args:
            store: where the rows are.
            site: of which site.
            seed: of the order.
            contexts: which rows.
            row_bytes: what a row takes in the buffer, where other streams fill it as well.

        Raises:
            SettingsError: no row is left.
        """
        self.store, self.site, self.seed = store, site, seed
        info = store.site(site)
        self.width, self._dtype = info.width, info.dtype
        self.widths = (info.width,)
        own = info.width * layout.DTYPES[info.dtype][1].itemsize
        self._capacity = BUFFER_BYTES // (row_bytes or own)
        """Rows that a buffer holds."""
        self._keep = None if contexts is None else store.marked(contexts)
        self.rows = store.rows if self._keep is None else int(self._keep.sum())
        self._spare: list[NDArray[Any]] = []
        self._contexts = store.contexts if contexts is None else int(contexts.sum())
        if not self.rows:
            raise SettingsError(f"no rows of {store.folder} are left to read; record more.")

    def epoch(self, number: int, batch: int, start: int = 0) -> Iterator[Tensor]:
        """Yield [batch, width]: each row once, in an order drawn from seed and `number`.

        In the store's dtype, since that is half as many bytes for a GPU, and to widen them takes as
        long as to gather them.

        Args:
            number: which epoch.
            batch: rows of a batch; the last may be shorter.
            start: batches to leave out, as an earlier run has seen them; nothing of them is read.
        """
        fills = self._fills(number, batch)
        fill = next(fills)
        while start >= (count := -(-fill.given // batch)):
            start -= count
            fill = next(fills, None)
            if fill is None:
                return
        buffers = self._buffers(fill, batch)
        with ThreadPoolExecutor(READERS) as pool:
            batches = _Batches(min(batch, self.rows), self.width, self._dtype)
            reading = self._begin(fill, None, buffers[0], pool)
            while fill is not None:
                for part in reading:
                    part.result()
                rows = layout.from_disk(buffers[0], self._dtype)
                order, given = torch.from_numpy(fill.order), fill.given
                fill = next(fills, None)
                if fill is not None:
                    buffers.reverse()  # memory that is not needed is never touched
                    left = rows.index_select(0, order[given:])
                    reading = self._begin(fill, left, buffers[0], pool)
                for begin in range(start * batch, given, batch):
                    yield batches.of(rows, order[begin : min(begin + batch, given)])
                start = 0
        self._spare = buffers

    def row_number(self, number: int, batch: int, place: int) -> int:
        """Return which row of the store is at a place of an epoch; nothing is read.

        Args:
            number: which epoch.
            batch: rows of a batch.
            place: how many rows of the epoch come before.
        """
        for fill in self._fills(number, batch):
            if place < fill.given:
                return int(fill.rows[place])
            place -= fill.given
        raise IndexError(f"an epoch has {self.rows} rows.")

    def companions(self, batch: int) -> float:
        """Return how many rows of its own context a batch's row meets, on average; about.

        The rows of a context lie in one block and so come into one filling of the buffer, whose
        rows are given out in random order: (rows of a context - 1) * batch / (rows of the buffer).
        What chance alone would give is the same with the rows of the store instead.
        """
        context_rows = max(1.0, self.rows / max(1, self._contexts))
        return (context_rows - 1) * (batch - 1) / max(1, self._buffered(batch) - 1)

    def mixing(self, batch: int) -> float:
        """Return `companions` over what chance would give: 1 is a perfect shuffle."""
        if self.store.is_shuffled:
            return 1.0
        return max(1, self.rows - 1) / max(1, self._buffered(batch) - 1)

    def _buffered(self, batch: int) -> int:
        """Return how many rows are mixed with each other."""
        if self.store.is_shuffled:
            return self.rows
        return min(self.rows, max(batch, self._capacity))

    def sample(self, count: int) -> Tensor:
        """Return up to `count` rows from blocks spread over the store, [rows, width] float32."""
        generator = np.random.default_rng([self.seed, 1 << 32])
        parts: list[Tensor] = []
        for block in generator.permutation(self._blocks):
            parts.append(self._block(int(block)))
            if sum(map(len, parts)) >= 4 * count:
                break
        rows = torch.cat(parts)
        return rows[torch.from_numpy(generator.permutation(len(rows))[:count])]

    def in_order(self, batch: int) -> Iterator[Tensor]:
        """Yield all rows in the order in which they were recorded, [batch, width] float32."""
        for start in range(0, self.store.rows, batch):
            rows = self._range(start, min(start + batch, self.store.rows))
            if len(rows):
                yield rows

    @property
    def _blocks(self) -> int:
        return -(-self.store.rows // BLOCK_ROWS)

    def _fills(self, number: int, batch: int) -> Iterator[_Fill]:
        """Yield what the buffer holds, one filling after the other; nothing is read."""
        generator = np.random.default_rng([self.seed, number])
        blocks = generator.permutation(self._blocks)
        a_fill = max(1, -(-max(batch, self._capacity) // BLOCK_ROWS))
        left = np.zeros(0, np.int64)
        for first in range(0, len(blocks), a_fill):
            mine = blocks[first : first + a_fill]
            is_last = first + a_fill >= len(blocks)
            rows = np.concatenate([left, *(self._rows_of(int(block)) for block in mine)])
            places = np.concatenate([np.arange(len(left)), self._places(len(left), mine)])
            order = generator.permutation(len(rows))
            given = len(rows) if is_last else len(rows) // batch * batch
            rows = rows[order]
            yield _Fill(left, mine, places[order], given, rows)
            left = rows[given:]

    def _rows_of(self, block: int) -> NDArray[np.int64]:
        """Return the rows of a block that are streamed, by their number in the store."""
        start, stop = self._bounds(block)
        if self._keep is None:
            return np.arange(start, stop)
        return start + np.flatnonzero(self._keep[start:stop])

    def _places(self, before: int, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where in the buffer the streamed rows of blocks lie, after `before` others."""
        parts: list[NDArray[np.int64]] = []
        for block in blocks:
            start, stop = self._bounds(int(block))
            parts.append(before + self._rows_of(int(block)) - start)
            before += stop - start
        return np.concatenate(parts)

    def _buffers(self, fill: _Fill, batch: int) -> list[NDArray[Any]]:
        """Return memory for two fillings: that of the epoch before, since fresh pages are slow."""
        size = len(fill.blocks) * BLOCK_ROWS + batch
        spare, self._spare = self._spare, []
        if spare and len(spare[0]) >= size:
            return spare
        return [np.empty((size, self.width), layout.DTYPES[self._dtype][1]) for _ in range(2)]

    def _begin(
        self, fill: _Fill, left: Tensor | None, buffer: NDArray[Any], pool: ThreadPoolExecutor
    ) -> list[Future[None]]:
        """Begin to fill a buffer; return what must be waited for."""
        reading: list[Future[None]] = []
        if left is not None:
            buffer[: len(left)] = layout.to_disk(left, self._dtype)
        else:  # the epoch begins here: what the fill before would have left
            for i, row in enumerate(fill.left):
                part = buffer[i : i + 1]
                reading.append(pool.submit(self.store.read_into, self.site, int(row), part))
        place = len(fill.left)
        for block in fill.blocks:
            start, stop = self._bounds(int(block))
            part = buffer[place : place + stop - start]
            reading.append(pool.submit(self.store.read_into, self.site, start, part))
            place += stop - start
        return reading

    def _bounds(self, block: int) -> tuple[int, int]:
        start = block * BLOCK_ROWS
        return start, min(start + BLOCK_ROWS, self.store.rows)

    def _block(self, block: int) -> Tensor:
        return self._range(*self._bounds(block))

    def _range(self, start: int, stop: int) -> Tensor:
        rows = self.store.read(self.site, start, stop)
        return rows if self._keep is None else rows[torch.from_numpy(self._keep[start:stop])]
