"""From a module's tensor to rows: which positions count, and where each row comes from."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.errors import ShapeError
from probe_sae.host import Host, Site
from probe_sae.recording.batches import Batch
from probe_sae.store import RecordedRows

TOKENS = ("patch", "cls", "all")


class RowGatherer:
    """Turn what the sites of one run held into rows on a common axis."""

    def __init__(self, host: Host, sites: list[Site], tokens: str) -> None:
        """Prepare for batches of `host`; `tokens` chooses among an image's tokens."""
        self._host, self._sites, self._tokens = host, sites, tokens
        self._seen: dict[str, Tensor] = {}
        self.grid = (1, 1)
        """Rows and columns of an image's patches."""

    def see(self, site: Site, tensor: Tensor) -> None:
        """Keep what a site holds; a copy, since the host may go on to overwrite it."""
        self._seen[site.name] = tensor.detach().clone()

    def rows(self, batch: Batch) -> RecordedRows:
        """Return the rows of the run that just ended.

        Raises:
            ShapeError: the sites do not have one row axis in common.
        """
        keep = batch.keep if batch.keep is not None else self.image_mask(batch)
        sites = {
            site.name: channels_last(self._seen[site.name], keep, site.name)[keep].float()
            for site in self._sites
        }
        numbers = np.array([context.index for context in batch.contexts], np.uint32)
        documents = np.array([context.document for context in batch.contexts], np.uint32)
        context, place = (part.cpu().numpy() for part in keep.nonzero(as_tuple=True))
        columns: dict[str, NDArray[Any]] = {"context": numbers[context], "doc": documents[context]}
        if batch.positions is not None:
            columns["pos"] = batch.positions[context, place].astype(np.uint32)
            ids = batch.inputs["input_ids"].cpu().numpy()
            columns["token"] = ids[context, place].astype(np.int32)
        else:
            columns["pos"] = (place - self._prefix()).clip(0).astype(np.uint32)
        self._seen = {}
        return RecordedRows(sites, columns, batch.contexts)

    def image_mask(self, batch: Batch) -> Tensor:
        """Return which positions of an image are rows, [batch, positions] bool."""
        first = self._seen[self._sites[0].name]
        count = len(batch.contexts)
        if first.ndim == 4:
            self.grid = (first.shape[2], first.shape[3])
            return first.new_ones(count, self.grid[0] * self.grid[1], dtype=torch.bool)
        positions = first.shape[1] if first.ndim == 3 else 1
        prefix = self._prefix()
        keep = first.new_zeros(count, positions, dtype=torch.bool)
        keep[:, slice(0, 1) if self._tokens == "cls" and prefix else slice(None)] = True
        if self._tokens == "patch":
            keep[:, : min(prefix, positions - 1)] = False
        self.grid = _square(int(keep[0].sum()) if self._tokens == "patch" else 1)
        return keep

    def _prefix(self) -> int:
        """Number of an image's tokens before its patches."""
        return self._host.hook_map.special_prefix if self._host.hook_map else 0


def channels_last(tensor: Tensor, keep: Tensor, site: str) -> Tensor:
    """Return a site's tensor as [batch, positions, width].

    Args:
        tensor: [batch, positions, width], [batch, channels, height, width], or [batch, width].
        keep: [batch, positions], to compare with.
        site: its name, for the message.

    Raises:
        ShapeError: the tensor does not have these positions.
    """
    shaped = tensor
    if tensor.ndim == 4:
        shaped = tensor.flatten(2).transpose(1, 2)
    elif tensor.ndim == 2:
        shaped = tensor.unsqueeze(1)
    if shaped.ndim != 3 or shaped.shape[:2] != keep.shape:
        raise ShapeError(
            f"{site} holds {tuple(tensor.shape)}, but rows are {tuple(keep.shape)} of batch x "
            "positions; record it by itself, or choose another site."
        )
    return shaped


def cut(rows: RecordedRows, room: int) -> RecordedRows:
    """Return the first whole contexts of `rows`, up to the one that reaches `room` rows."""
    if rows.count <= room:
        return rows
    counts = _context_lengths(rows)
    wanted = int(np.searchsorted(np.cumsum(counts), max(room, 1))) + 1
    stop = int(counts[:wanted].sum())
    return replace(
        rows,
        sites={name: data[:stop] for name, data in rows.sites.items()},
        columns={name: column[:stop] for name, column in rows.columns.items()},
        contexts=rows.contexts[:wanted],
    )


def _context_lengths(rows: RecordedRows) -> NDArray[np.int64]:
    """Return the number of rows of each context, [contexts]."""
    first = rows.contexts[0].index
    numbers = rows.columns["context"].astype(np.int64) - first
    return np.bincount(numbers, minlength=len(rows.contexts))


def _square(count: int) -> tuple[int, int]:
    side = round(count**0.5)
    return (side, side) if side * side == count else (1, count)
