"""Codes on disk: what fires on every row, in 6 bytes a firing and 24 a row.

    CODES/codes.json       what it is: format, version, features, sites, rows, which dictionary
    CODES/part-00000.h5    firings of up to about `PART_FIRINGS`
        row, context, pos, token    [rows] the row's number in the store, its context, place, token
        count                       [rows] firings on it
        feature, value              [firings] rows one after the other
        total                       [features] sum of all activations, those included that are too
                                    small to count as firings

A store is read and encoded once; everything that an analysis wants is computed from here, as often
as it takes. A part holds whole contexts, and is there whole or not at all, so that encoding can be
continued after any interruption.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.head import read_head
from probe_sae.errors import FormatError
from probe_sae.outputs import refuse_partial
from probe_sae.shown import Fact, Shown
from probe_sae.store.hdf5 import open_checked, write_hdf5

FORMAT = "probe_sae.codes"
VERSION = 1
BLOCK_FIRINGS = 1 << 22
"""Firings of a block that is worked on at once, about."""
_ROWS = ("row", "context", "pos", "token", "count")
_FIRINGS = ("feature", "value")


@dataclass(frozen=True)
class Block:
    """The codes of some rows: whole contexts, in the order in which they were recorded."""

    row: NDArray[np.int64]
    """[rows] the row's number in the store."""
    context: NDArray[np.int64]
    """[rows]"""
    pos: NDArray[np.int64]
    """[rows] place in its document, or y * grid width + x."""
    token: NDArray[np.int64]
    """[rows] token or class, -1 where there is none."""
    starts: NDArray[np.int64]
    """[rows + 1] where the firings of each row start."""
    feature: NDArray[np.int32]
    """[firings]"""
    value: NDArray[np.float32]
    """[firings] activation, never 0; of features that can be negative, with its sign."""

    def __len__(self) -> int:
        return len(self.row)

    @cached_property
    def local(self) -> NDArray[np.int64]:
        """The row of each firing, counted within the block, [firings]."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def of_rows(self, wanted: NDArray[np.bool_]) -> "Block":
        """Return the marked rows alone."""
        fires = wanted[self.local]
        counts = np.diff(self.starts)[wanted]
        return Block(
            self.row[wanted],
            self.context[wanted],
            self.pos[wanted],
            self.token[wanted],
            np.concatenate([[0], np.cumsum(counts)]),
            self.feature[fires],
            self.value[fires],
        )


def join(blocks: Sequence[Block]) -> Block:
    """Return several blocks as one."""
    counts = np.concatenate([np.diff(block.starts) for block in blocks])
    columns = zip(
        *((b.row, b.context, b.pos, b.token, b.feature, b.value) for b in blocks), strict=True
    )
    row, context, pos, token, feature, value = (np.concatenate(column) for column in columns)
    starts = np.concatenate([[0], np.cumsum(counts)])
    return Block(row, context, pos, token, starts, feature, value)


@dataclass(frozen=True)
class Rows:
    """Where the rows of a part are from, in the order in which they were recorded."""

    row: NDArray[np.int64]
    context: NDArray[np.int64]
    pos: NDArray[np.int64]


class Codes(Shown):
    """Finished codes; `open_codes` makes one. Opening reads no codes."""

    def __init__(self, folder: Path, info: dict[str, Any]) -> None:
        """Take what `open_codes` has checked."""
        self.folder, self.info = folder, info
        self.features: int = info["features"]
        self.rows: int = info["rows"]
        self.firings: int = info["firings"]
        self.parts = [folder / name for name in info["parts"]]

    def __repr__(self) -> str:
        return (
            f"Codes({str(self.folder)!r}: {self.firings:,} firings of {self.features:,} features "
            f"on {self.rows:,} rows)"
        )

    def _facts(self) -> list[Fact]:
        return [
            Fact("codes", self.folder),
            Fact("features", self.features),
            Fact("rows", self.rows),
            Fact("firings", self.firings),
        ]

    def total(self) -> NDArray[np.float64]:
        """Return the sum of all activations of each feature, [features].

        Raises:
            FormatError: a part is damaged.
        """
        total = np.zeros(self.features)
        for path in self.parts:
            with open_part(path) as file:
                if file["total"].shape != total.shape:
                    raise FormatError(f"{path} contradicts itself; encode again.")
                total += np.asarray(file["total"])
        return total

    def rows_of_parts(self) -> Iterator[Rows]:
        """Yield where the rows of each part are from."""
        for path in self.parts:
            with open_part(path) as file:
                yield Rows(*(np.asarray(file[name]).astype(np.int64) for name in _ROWS[:3]))

    def blocks(self, firings: int | None = None) -> Iterator[Block]:
        """Yield all codes in order, in blocks of about so many firings that cut no context.

        Raises:
            FormatError: a part is damaged.
        """
        for path in self.parts:
            with open_part(path) as file:
                rows = {name: np.asarray(file[name]) for name in _ROWS}
                ends = np.cumsum(rows["count"], dtype=np.int64)
                _check_part(path, rows, ends, file)
                for low, high in _cuts(rows["context"], ends, firings or BLOCK_FIRINGS):
                    yield self._block(path, file, rows, ends, low, high)

    def _block(
        self,
        path: Path,
        file: Any,
        rows: dict[str, NDArray[Any]],
        ends: NDArray[np.int64],
        low: int,
        high: int,
    ) -> Block:
        first = int(ends[low - 1]) if low else 0
        part = slice(first, int(ends[high - 1]))
        feature = np.asarray(file["feature"][part])
        if len(feature) and not 0 <= int(feature.min()) <= int(feature.max()) < self.features:
            raise FormatError(f"{path} names features that are not there; it is damaged.")
        row, context, pos, token = (rows[name][low:high].astype(np.int64) for name in _ROWS[:4])
        block = Block(
            row,
            context,
            pos,
            token,
            np.concatenate([[0], ends[low:high] - first]),
            feature.astype(np.int32),
            np.asarray(file["value"][part], np.float32),
        )
        rising = np.diff(block.feature) > 0
        within = np.diff(block.local) == 0
        if not rising[within].all() or not np.isfinite(block.value).all():
            raise FormatError(f"{path} has codes out of order or not finite; it is damaged.")
        return block


def open_codes(folder: str | Path) -> Codes:
    """Open what `encode` wrote.

    Raises:
        FormatError: it is missing, damaged or from a newer version.
    """
    folder = refuse_partial(folder)
    info = read_head(folder, "codes.json", (FORMAT, VERSION), ("codes", "encode"))
    numbers = [info.get(name) for name in ("features", "rows", "firings")]
    parts = info.get("parts")
    if not all(isinstance(number, int) and number >= 0 for number in numbers) or not (
        isinstance(parts, list) and parts == [part_name(i) for i in range(len(parts))]
    ):
        raise FormatError(f"{folder}/codes.json is damaged; encode again.")
    return Codes(folder, info)


def part_name(number: int) -> str:
    """Return the name of a part's file."""
    return f"part-{number:05d}.h5"


@contextmanager
def open_part(path: Path) -> Generator[Any]:
    """Open a part's file for reading, checked.

    Raises:
        FormatError: it is damaged, or lacks a column.
    """
    with open_checked(path, FormatError) as file:
        columns = (*_ROWS, *_FIRINGS, "total")
        if missing := [name for name in columns if name not in file]:
            raise FormatError(f"{path} lacks {', '.join(missing)}; encode again.")
        if any(getattr(file[name], "ndim", 0) != 1 for name in columns):
            raise FormatError(f"{path} has columns that are none; it is damaged. Encode again.")
        yield file


def write_part(path: Path, block: Block, total: NDArray[np.float64]) -> None:
    """Write a part, whole or not at all."""
    small = np.uint16 if len(total) <= 1 << 16 else np.uint32
    columns: dict[str, NDArray[Any]] = {
        "row": block.row.astype(np.uint64),
        "context": block.context.astype(np.uint32),
        "pos": block.pos.astype(np.uint32),
        "token": block.token.astype(np.int32),
        "count": np.diff(block.starts).astype(np.uint32),
        "feature": block.feature.astype(small),
        "value": block.value.astype(np.float32),
        "total": total,
    }
    with write_hdf5(path) as file:
        for name, column in columns.items():
            file.create_dataset(name, data=column)


def _check_part(
    path: Path, rows: dict[str, NDArray[Any]], ends: NDArray[np.int64], file: Any
) -> None:
    count = int(ends[-1]) if len(ends) else 0
    shapes = {column.shape for column in rows.values()}
    if shapes != {(len(ends),)} or any(file[name].shape != (count,) for name in _FIRINGS):
        raise FormatError(f"{path} contradicts itself; encode again.")


def _cuts(
    context: NDArray[Any], ends: NDArray[np.int64], firings: int
) -> Iterator[tuple[int, int]]:
    """Yield first row and end of runs of about so many firings that cut no context."""
    changes = np.append(np.flatnonzero(np.diff(context.astype(np.int64))) + 1, len(context))
    low = 0
    while low < len(context):
        before = int(ends[low - 1]) if low else 0
        wanted = int(np.searchsorted(ends, before + firings, side="right"))
        last = int(np.searchsorted(changes, max(wanted, low + 1), side="right")) - 1
        high = int(changes[last]) if last >= 0 and changes[last] > low else 0
        if not high:  # one context has more
            high = int(changes[np.searchsorted(changes, low, side="right")])
        yield low, high
        low = high
