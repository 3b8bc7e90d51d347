"""Rows of several sites of one store, one after the other in every row."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.store import layout
from probe_sae.store.reader import Store
from probe_sae.store.stream import StoreStream


def stream_of(
    store: Store, sites: Sequence[str], seed: int, contexts: NDArray[np.bool_] | None = None
) -> "StoreStream | SitesStream":
    """Return the rows of one site or of several together as a stream.

    Args:
        store: where they are.
        sites: which.
        seed: of the order.
        contexts: only rows of these, [contexts].
    """
    if len(sites) == 1:
        return StoreStream(store, sites[0], seed, contexts)
    return SitesStream(store, sites, seed, contexts)


class SitesStream:
    """Every row holds what several sites said at one place: [rows, sum of widths] float32."""

    def __init__(
        self, store: Store, sites: Sequence[str], seed: int, contexts: NDArray[np.bool_] | None
    ) -> None:
        """Stream `sites` of `store`, only rows whose context is marked in `contexts`.

        Raises:
            SettingsError: no row is left.
        """
        infos = [store.site(site) for site in sites]
        row_bytes = sum(site.width * layout.DTYPES[site.dtype][1].itemsize for site in infos)
        self._streams = [
            StoreStream(store, site.name, seed, contexts, row_bytes=row_bytes) for site in infos
        ]
        self.widths = tuple(site.width for site in infos)
        self.rows = self._streams[0].rows

    def epoch(self, number: int, batch: int, start: int = 0) -> Iterator[Tensor]:
        """Yield [batch, sum of widths]: each row once, in an order drawn from seed and `number`.

        The sites' streams draw the same order, since it depends on the rows alone.

        Args:
            number: which epoch.
            batch: rows of a batch; the last may be shorter.
            start: batches to leave out, as an earlier run has seen them; nothing of them is read.
        """
        epochs = [stream.epoch(number, batch, start) for stream in self._streams]
        for parts in zip(*epochs, strict=True):
            yield torch.cat([part.float() for part in parts], 1)

    def prepare(self, device: torch.device, last: int) -> None:
        """Say what will be asked for; see `StoreStream.prepare`."""
        for stream in self._streams:
            stream.prepare(device, last)

    def sample(self, count: int) -> Tensor:
        """Return up to `count` rows from blocks spread over the store."""
        return torch.cat([stream.sample(count) for stream in self._streams], 1)

    def in_order(self, batch: int) -> Iterator[Tensor]:
        """Yield all rows in the order in which they were recorded, [batch, sum of widths]."""
        for parts in zip(*(stream.in_order(batch) for stream in self._streams), strict=True):
            yield torch.cat(parts, 1)

    def row_number(self, number: int, batch: int, place: int) -> int:
        """Return which row of the store a row of an epoch is; see `StoreStream.row_number`."""
        return self._streams[0].row_number(number, batch, place)

    def companions(self, batch: int) -> float:
        """Return how many rows of its own context a batch's row meets, on average; about."""
        return self._streams[0].companions(batch)

    def mixing(self, batch: int) -> float:
        """Return `companions` over what chance would give: 1 is a perfect shuffle."""
        return self._streams[0].mixing(batch)
