"""Memory that rows are read into, and that batches are gathered from: here, or on a GPU.

A GPU gets whole buffers, block by block as they are read, and gathers the batches itself: to gather
them here and to copy each takes longer than a step.
"""

import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.store import layout
from probe_sae.store.reader import Store

KEPT_BATCHES = 4
"""Batches whose memory is kept for others."""


class Buffer:
    """Rows of one site, [rows, width] of its dtype; filled in threads, then read."""

    def __init__(self, rows: int, width: int, dtype: str, device: torch.device) -> None:
        """Take memory that is not touched yet; for a GPU, some that it reads from directly too."""
        is_gpu = device.type == "cuda"
        made: dict[str, Any] = {"dtype": layout.DTYPES[dtype][0]}
        self.rows = torch.empty(rows, width, **made, pin_memory=is_gpu)
        self._disk = layout.to_disk(self.rows, dtype)
        self._there = torch.empty(rows, width, **made, device=device) if is_gpu else self.rows
        self._copying = torch.cuda.Stream(device) if is_gpu else None

    def begin(self) -> None:
        """Let a GPU finish what it gathers from here, before others fill it."""
        if self._copying is not None:
            self._copying.wait_stream(torch.cuda.current_stream(self._there.device))

    def put(self, rows: Tensor) -> None:
        """Fill the first rows."""
        self.rows[: len(rows)] = rows
        self._send(0, len(rows))

    def read(self, store: Store, site: str, start: int, place: int, count: int) -> None:
        """Fill `count` rows from `place` on with those of a store's site from `start` on."""
        store.read_into(site, start, self._disk[place : place + count])
        self._send(place, count)

    def ready(self) -> None:
        """Wait until a GPU has what was filled."""
        if self._copying is not None:
            self._copying.synchronize()

    def places(self, order: NDArray[Any]) -> Tensor:
        """Return row numbers as `Batches.of` takes them."""
        return torch.from_numpy(order).to(self._there.device)

    def _send(self, place: int, count: int) -> None:
        if self._copying is not None:
            some = slice(place, place + count)
            with torch.cuda.stream(self._copying):
                self._there[some].copy_(self.rows[some], non_blocking=True)

    @property
    def there(self) -> Tensor:
        """The rows where batches are gathered from them."""
        return self._there


class Batches:
    """Memory of batches, used again once nobody holds a batch or a part of one any more.

    Fresh pages for every batch cost six times what the rows in it cost.
    """

    def __init__(self, rows: int, width: int, dtype: str) -> None:
        """Make batches of up to so many rows."""
        self._shape, self._dtype = (rows, width), dtype
        self._kept: list[NDArray[Any]] = []

    def of(self, buffer: Buffer, wanted: Tensor) -> Tensor:
        """Return the wanted rows, [wanted, width]."""
        rows = _as_words(buffer.there)
        if rows.is_cuda:
            return rows.index_select(0, wanted).view(buffer.there.dtype)
        batch = layout.from_disk(self._free()[: len(wanted)], self._dtype)
        torch.index_select(rows, 0, wanted, out=_as_words(batch))
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
