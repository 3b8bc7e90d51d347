"""Shuffled batches of a store's rows, for training: each row once an epoch, in bounded memory.

Blocks of rows from all over the store fill a buffer, whose rows are then drawn in random order,
while the next blocks are read beside. How well that mixes depends on the buffer alone: `companions`
says it. An epoch can begin at any batch, so that a resumed training sees what an uninterrupted one
sees. A store that fits into a buffer is read once.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.errors import SettingsError
from probe_sae.store import layout
from probe_sae.store.buffers import Batches, Buffer
from probe_sae.store.fillings import Filling, Fillings
from probe_sae.store.reader import Store

BUFFER_BYTES = 192 << 20
"""Of a buffer of rows as they are on disk; two of them are in use."""
READERS = 2
"""Threads that read."""


class _Ahead(NamedTuple):
    """The epoch after one that is over, and its first filling if that is being read."""

    number: int
    batch: int
    buffers: list[Buffer]
    reading: list[Future[None]]


def _give_up(reading: list[Future[None]], buffers: list[Buffer]) -> None:
    """Read no further into buffers, and wait for what is being read."""
    for part in reading:
        part.cancel()
    wait(reading)
    for buffer in buffers:
        buffer.ready()


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
        self._keep = None if contexts is None else store.marked(contexts)
        self._fillings = Fillings(store.rows, self._keep, BUFFER_BYTES // (row_bytes or own), seed)
        self.rows = store.rows if self._keep is None else int(self._keep.sum())
        self._device, self._last = torch.device("cpu"), 0
        self._ahead: _Ahead | None = None
        self._spare: list[Buffer] = []
        self._whole: tuple[Buffer, NDArray[np.int32]] | None = None
        """A buffer that holds all rows, and where in it each row of the store lies."""
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
        fills = self._fillings.of_epoch(number, batch)
        fill, is_first = next(fills), True
        while start >= (count := -(-fill.given // batch)):
            start -= count
            fill, is_first = next(fills, None), False
            if fill is None:
                return
        batches = Batches(min(batch, self.rows), self.width, self._dtype)
        if fill.given == self.rows and not len(fill.left):
            whole, order = self._in_memory(fill)
            for begin in range(start * batch, self.rows, batch):
                yield batches.of(whole, order[begin : begin + batch])
            return
        buffers, reading = self._taken(number, batch, is_first=is_first)
        reading = reading or self._begin(fill, None, buffers[0])
        try:
            while fill is not None:
                buffer, following = self._filled(reading, buffers[0]), next(fills, None)
                reading = []
                if following is not None:
                    left = torch.from_numpy(fill.order[fill.given :])
                    left = buffer.rows.index_select(0, left)
                    reading = self._begin(following, left, buffers[1])
                elif number < self._last:
                    first = next(self._fillings.of_epoch(number + 1, batch))
                    reading = self._begin(first, None, buffers[1])
                order = buffer.places(fill.order[: fill.given])
                for begin in range(start * batch, fill.given, batch):
                    yield batches.of(buffer, order[begin : begin + batch])
                buffers.reverse()
                fill, start = following, 0
        except BaseException:  # also where the epoch is left early
            _give_up(reading, buffers)
            self._spare = buffers
            raise
        self._ahead = _Ahead(number + 1, batch, buffers, reading)

    def prepare(self, device: torch.device, last: int) -> None:
        """Say what will be asked for.

        Args:
            device: where batches are wanted; a GPU gathers them itself.
            last: number of the last epoch; those before read the beginning of the next one.
        """
        self._last = last
        device = device if device.type == "cuda" else torch.device("cpu")
        if device != self._device:
            if self._ahead is not None:
                _give_up(self._ahead.reading, self._ahead.buffers)
            self._device, self._ahead, self._spare, self._whole = device, None, [], None

    def row_number(self, number: int, batch: int, place: int) -> int:
        """Return which row of the store is at a place of an epoch; nothing is read.

        Args:
            number: which epoch.
            batch: rows of a batch.
            place: how many rows of the epoch come before.
        """
        for fill in self._fillings.of_epoch(number, batch):
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
        return min(self.rows, max(batch, self._fillings.capacity))

    def sample(self, count: int) -> Tensor:
        """Return up to `count` rows from blocks spread over the store, [rows, width] float32."""
        generator = np.random.default_rng([self.seed, 1 << 32])
        parts: list[Tensor] = []
        for block in generator.permutation(self._fillings.blocks):
            parts.append(self._range(*self._fillings.bounds(int(block))))
            if sum(map(len, parts)) >= 4 * count:
                break
        rows = torch.cat(parts)
        return rows[torch.from_numpy(generator.permutation(len(rows))[:count])].float()

    def in_order(self, batch: int) -> Iterator[Tensor]:
        """Yield all rows in the order in which they were recorded, [batch, width] float32."""
        for start in range(0, self.store.rows, batch):
            rows = self._range(start, min(start + batch, self.store.rows))
            if len(rows):
                yield rows.float()

    def _in_memory(self, fill: Filling) -> tuple[Buffer, Tensor]:
        """Return all rows, which are read the first time, and where in them those of an epoch lie.

        Args:
            fill: holds the whole epoch.
        """
        if self._whole is None:
            buffer = self._buffer(self.store.rows)
            self._filled(self._begin(fill, None, buffer), buffer)
            places = np.zeros(self.store.rows, np.int32)
            places[fill.rows] = fill.order
            self._whole = buffer, places
        buffer, places = self._whole
        return buffer, buffer.places(places[fill.rows].astype(np.int64))

    def _taken(
        self, number: int, batch: int, *, is_first: bool
    ) -> tuple[list[Buffer], list[Future[None]]]:
        """Return memory for two fillings, and the reading of the first if it has begun already.

        Memory is that of the epoch before, as fresh pages are slow; nobody else has it then.
        """
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            if is_first and (ahead.number, ahead.batch) == (number, batch):
                return ahead.buffers, ahead.reading
            _give_up(ahead.reading, ahead.buffers)
            self._spare = ahead.buffers
        spare, self._spare = self._spare, []
        size = self._fillings.room(batch)
        if spare and len(spare[0].rows) >= size:
            return spare, []
        return [self._buffer(size) for _ in range(2)], []

    def _buffer(self, rows: int) -> Buffer:
        return Buffer(rows, self.width, self._dtype, self._device)

    def _begin(self, fill: Filling, left: Tensor | None, buffer: Buffer) -> list[Future[None]]:
        """Begin to fill a buffer; return what must be waited for."""
        reading: list[Future[None]] = []
        pool = ThreadPoolExecutor(READERS)
        buffer.begin()
        if left is not None:
            buffer.put(left)
        else:  # the epoch begins here: what the fill before would have left
            for i, row in enumerate(fill.left):
                reading.append(pool.submit(buffer.read, self.store, self.site, int(row), i, 1))
        place = len(fill.left)
        for block in fill.blocks:
            start, stop = self._fillings.bounds(int(block))
            count = stop - start
            reading.append(pool.submit(buffer.read, self.store, self.site, start, place, count))
            place += count
        pool.shutdown(wait=False)  # its threads end once all is read
        return reading

    @staticmethod
    def _filled(reading: list[Future[None]], buffer: Buffer) -> Buffer:
        """Return a buffer once all of it is read.

        Raises:
            StoreError: a file cannot be read.
        """
        for part in reading:
            part.result()
        buffer.ready()
        return buffer

    def _range(self, start: int, stop: int) -> Tensor:
        rows = self.store[self.site][start:stop]
        return rows if self._keep is None else rows[torch.from_numpy(self._keep[start:stop])]
