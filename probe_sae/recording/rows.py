"""From a module's tensor to rows: which positions count, and where each row comes from."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.errors import SettingsError, ShapeError
from probe_sae.host import Host, Site
from probe_sae.host.layouts import as_rows, grid_of, image_size, layout_of
from probe_sae.recording.batches import Batch
from probe_sae.store import RecordedRows

TOKENS = ("patch", "cls", "register", "all")
"""Which of an image's positions are rows; CNN positions are patches."""


class RowGatherer:
    """Turn what the sites of one run hold into rows on a common axis.

    Rows are copied out as soon as a module gives them, since the host may go on to overwrite them;
    from a GPU, into pinned memory on a stream of their own, beside the rest of the run.
    """

    def __init__(self, host: Host, sites: list[Site], tokens: str) -> None:
        """Prepare for batches of `host`; `tokens` chooses among an image's positions."""
        self._host, self._sites, self._tokens = host, sites, tokens
        self._rows: dict[str, Tensor] = {}
        self._batch: Batch | None = None
        self._keep: Tensor | None = None
        self._index: Tensor | None = None
        self._first = ""
        self._stream: Any = None
        self.grid = (1, 1)
        """Rows and columns of an image's patches."""

    def expect(self, batch: Batch) -> None:
        """Get ready for a run of the host on `batch`."""
        self._batch, self._rows = batch, {}
        self._keep = None if batch.keep is None else batch.keep.cpu()
        self._index = None

    def see(self, site: Site, tensor: Tensor) -> None:
        """Take the rows out of what a site holds.

        Raises:
            ShapeError: its positions are not those of the batch or of the other sites.
        """
        if self._batch is None:
            raise ShapeError("rows are gathered from a batch that was not announced.")
        layout = layout_of(site, self._host.model, tensor, _image_size(self._batch))
        if layout == "windows":
            raise ShapeError(
                f"{site.name} holds windows of local attention, whose positions are shuffled; tap "
                "it, or record resid_mid or mlp_out."
            )
        rows = as_rows(tensor.detach(), layout, len(self._batch.contexts))
        if rows.shape[0] != len(self._batch.contexts):
            raise ShapeError(
                f"{site.name} holds {tuple(tensor.shape)} of {len(self._batch.contexts)} inputs: "
                "its first axis is not the batch. Say its layout, such as "
                f"{site.name.partition(':B')[0]}:flat, or choose another site."
            )
        keep = self._keep
        if keep is None:
            keep = self._keep = self._image_positions(site, tensor, layout, rows)
            self._first = site.name
        if rows.shape[:2] != keep.shape:
            other = f"{self._first} has" if self._first else "the batch has"
            raise ShapeError(
                f"{site.name} holds {tuple(tensor.shape)}, that is {rows.shape[1]} positions of "
                f"{rows.shape[0]} inputs, but {other} {keep.shape[1]} of {keep.shape[0]}: record "
                "it by itself."
            )
        if self._index is None:
            self._index = keep.flatten().nonzero()[:, 0].to(rows.device)
        index = self._index.to(rows.device)
        self._rows[site.name] = self._taken(rows.flatten(0, 1).index_select(0, index))

    def _taken(self, rows: Tensor) -> Tensor:
        """Return rows on their way to the CPU; `rows()` waits for them."""
        if not rows.is_cuda:
            return rows
        if self._stream is None:
            self._stream = torch.cuda.Stream(rows.device)
        self._stream.wait_stream(torch.cuda.current_stream(rows.device))
        with torch.cuda.stream(self._stream):
            pinned = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
            pinned.copy_(rows, non_blocking=True)
            rows.record_stream(self._stream)
        return pinned

    def rows(self) -> RecordedRows:
        """Return the rows of the run that just ended.

        Raises:
            ShapeError: there was no run.
        """
        batch, keep = self._batch, self._keep
        if batch is None or keep is None:
            raise ShapeError("the host did not run.")
        if self._stream is not None:
            self._stream.synchronize()
        sites = {site.name: self._rows[site.name].float() for site in self._sites}
        numbers = np.array([context.index for context in batch.contexts], np.uint32)
        documents = np.array([context.document for context in batch.contexts], np.uint32)
        context, place = (part.numpy() for part in keep.nonzero(as_tuple=True))
        columns: dict[str, NDArray[Any]] = {"context": numbers[context], "doc": documents[context]}
        if batch.positions is not None:
            columns["pos"] = batch.positions[context, place].astype(np.uint32)
            ids = batch.inputs["input_ids"].cpu().numpy()
            columns["token"] = ids[context, place].astype(np.int32)
            if batch.documents is not None:
                columns["doc"] = batch.documents[context, place].astype(np.uint32)
        else:
            columns["pos"] = (place - (place.min() if len(place) else 0)).astype(np.uint32)
            y, x = np.divmod(columns["pos"], max(1, self.grid[1]))
            columns |= {"y": y.astype(np.uint16), "x": x.astype(np.uint16)}
        return RecordedRows(sites, columns, batch.contexts)

    def image_rows(self) -> Tensor:
        """Return which positions of the run's images were rows, [batch, positions] bool."""
        if self._keep is None:
            raise ShapeError("the host did not run.")
        return self._keep

    def _image_positions(self, site: Site, tensor: Tensor, layout: str, rows: Tensor) -> Tensor:
        """Return which positions of an image are rows, [batch, positions], and note the grid."""
        batch, positions = rows.shape[:2]
        prefix = min(site.special_prefix, positions)
        chosen = {
            "patch": slice(prefix, None),
            "cls": slice(0, min(1, prefix)),
            "register": slice(1, prefix),
            "all": slice(None),
        }[self._tokens]
        if layout == "BD" and self._tokens in ("patch", "all"):
            chosen = slice(None)
        keep = torch.zeros(batch, positions, dtype=torch.bool)
        keep[:, chosen] = True
        count = int(keep[0].sum()) if batch else 0
        if not count:
            raise SettingsError(
                f"{site.name} has {prefix} special positions before its {positions - prefix} "
                f"patches; there is no {self._tokens} among them."
            )
        if self._tokens == "patch":
            self.grid = grid_of(tensor, layout) or _grid(count, _image_size(self._batch))
        else:
            self.grid = (1, count)
        return keep


def _image_size(batch: Batch | None) -> tuple[int, int] | None:
    """Return height and width of a batch's images; None for anything else."""
    if batch is None or batch.keep is not None:
        return None
    return image_size(batch.inputs.values())


def _grid(count: int, image: tuple[int, int] | None) -> tuple[int, int]:
    """Return rows and columns of an image's patches: in its proportions, if they fit."""
    height, width = image or (1, 1)
    rows = max(1, round((count * height / width) ** 0.5))
    return (rows, count // rows) if count % rows == 0 else (1, count)


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


def since(rows: RecordedRows, context: int) -> RecordedRows:
    """Return `rows` without the contexts before number `context`."""
    first = rows.contexts[0].index if rows.contexts else context
    if first >= context:
        return rows
    start = int(_context_lengths(rows)[: context - first].sum())
    return replace(
        rows,
        sites={name: data[start:] for name, data in rows.sites.items()},
        columns={name: column[start:] for name, column in rows.columns.items()},
        contexts=rows.contexts[context - first :],
    )


def _context_lengths(rows: RecordedRows) -> NDArray[np.int64]:
    """Return the number of rows of each context, [contexts]."""
    first = rows.contexts[0].index
    numbers = rows.columns["context"].astype(np.int64) - first
    return np.bincount(numbers, minlength=len(rows.contexts))
