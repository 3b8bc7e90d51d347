"""Shuffled batches of a store's rows, for training: each row once an epoch, in bounded memory.

Blocks of rows from all over the store fill a buffer, whose rows are then permuted. How well that
mixes depends on the buffer alone: with R rows in it and contexts of C rows, a batch of B rows holds
about (C - 1) * B / R companions of each row from its own context.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.errors import SettingsError, ShapeError
from probe_sae.store.reader import Store

BLOCK_ROWS = 2048
BUFFER_BYTES = 1 << 30


class StoreStream:
    """The rows of one site, or of the contexts chosen from it, as shuffled batches."""

    def __init__(
        self, store: Store, site: str, seed: int, contexts: NDArray[np.bool_] | None = None
    ) -> None:
        """Stream `site` of `store`, only rows whose context is marked in `contexts`, [contexts].

        Raises:
            SettingsError: no row is left.
        """
        self.store, self.site, self.seed = store, site, seed
        self.width = store.site(site).width
        self._keep = None if contexts is None else contexts[store.context_of_row]
        self.rows = store.rows if self._keep is None else int(self._keep.sum())
        if not self.rows:
            raise SettingsError(f"no rows of {store.folder} are left to read; record more.")

    def epoch(self, number: int, batch: int) -> Iterator[Tensor]:
        """Yield [batch, width] float32: each row once, in an order drawn from seed and `number`."""
        generator = np.random.default_rng([self.seed, number])
        blocks = generator.permutation(-(-self.store.rows // BLOCK_ROWS))
        limit = max(batch, BUFFER_BYTES // (self.width * 4))
        left = torch.empty(0, self.width)
        pending: list[Tensor] = []
        for i, block in enumerate(blocks):
            pending.append(self._block(int(block)))
            if sum(map(len, pending)) + len(left) < limit and i + 1 < len(blocks):
                continue
            rows = torch.cat([left, *pending])
            rows = rows[torch.from_numpy(generator.permutation(len(rows)))]
            pending.clear()
            last = i + 1 == len(blocks)
            whole = len(rows) if last else len(rows) // batch * batch
            yield from rows[:whole].split(batch)
            left = rows[whole:].clone()

    def sample(self, count: int) -> Tensor:
        """Return up to `count` rows from blocks spread over the store, [rows, width] float32."""
        generator = np.random.default_rng([self.seed, 1 << 32])
        parts: list[Tensor] = []
        for block in generator.permutation(-(-self.store.rows // BLOCK_ROWS)):
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

    def _block(self, block: int) -> Tensor:
        start = block * BLOCK_ROWS
        return self._range(start, min(start + BLOCK_ROWS, self.store.rows))

    def _range(self, start: int, stop: int) -> Tensor:
        rows = self.store.read(self.site, start, stop)
        return rows if self._keep is None else rows[torch.from_numpy(self._keep[start:stop])]


class TensorStream:
    """The rows of a tensor in memory, as shuffled batches."""

    def __init__(self, rows: Tensor, seed: int) -> None:
        """Stream `rows`, [rows, width].

        Raises:
            ShapeError: `rows` is not two-dimensional or is empty.
        """
        if rows.ndim != 2 or not len(rows):
            raise ShapeError(f"rows have shape {tuple(rows.shape)}, expected [rows, d_model].")
        self._data, self.seed = rows, seed
        self.rows, self.width = rows.shape

    def epoch(self, number: int, batch: int) -> Iterator[Tensor]:
        """Yield [batch, width] float32: each row once, in an order drawn from seed and `number`."""
        order = np.random.default_rng([self.seed, number]).permutation(self.rows)
        for start in range(0, self.rows, batch):
            yield self._data[torch.from_numpy(order[start : start + batch])].float()

    def sample(self, count: int) -> Tensor:
        """Return up to `count` rows drawn without repeats, [rows, width] float32."""
        order = np.random.default_rng([self.seed, 1 << 32]).permutation(self.rows)[:count]
        return self._data[torch.from_numpy(order)].float()

    def in_order(self, batch: int) -> Iterator[Tensor]:
        """Yield all rows in order, [batch, width] float32."""
        for rows in self._data.split(batch):
            yield rows.float()


def held_out_contexts(contexts: int, share: float, seed: int) -> NDArray[np.bool_]:
    """Mark the contexts that training must not see, [contexts]; the same for the same seed.

    A context's mark does not depend on how many others there are.
    """
    numbers = np.arange(contexts, dtype=np.uint64)
    mixed = (numbers + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 & (2**64 - 1))) * np.uint64(
        0xBF58476D1CE4E5B9
    )
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(32)
    return mixed.astype(np.float64) / 2.0**64 < share
