"""Finish shards: name them when they are whole, and mend those that a crash cut short."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.errors import StoreError
from probe_sae.outputs import sync, sync_folder
from probe_sae.store import layout
from probe_sae.store.chunks import FilePool, RowChunks, read_rows
from probe_sae.store.journal import (
    ShardLine,
    drop_half_line,
    enter,
    file_digest,
    read_journal,
    read_lines,
    write_line,
)
from probe_sae.store.shard_file import ShardFile
from probe_sae.store.shard_parts import append_statistics
from probe_sae.store.statistics import RowStatistics

_PIECE_BYTES = 8 << 20


def commits_path(folder: Path, shard: str) -> Path:
    """Return the file that says what of an unfinished shard is safe."""
    return folder / f"{shard.removesuffix('.h5')}.commits.jsonl"


def publish(folder: Path, path: Path, shard: str, counts: Mapping[str, int]) -> None:
    """Put a whole shard on disk, give it its name, and enter it in the journal."""
    sync(path)
    digest = file_digest(path)
    path.replace(folder / shard)
    sync_folder(folder)
    enter(folder / "journal.jsonl", ShardLine(shard, **counts, sha256=digest))
    commits_path(folder, shard).unlink(missing_ok=True)


def commit(folder: Path, path: Path, shard: str, line: dict[str, Any]) -> None:
    """Put what was written of a shard on disk, and say so there."""
    sync(path)
    write_line(commits_path(folder, shard), line)


def recover(folder: Path) -> None:
    """Finish, from what was committed of them, the shards that a crash cut short.

    Their rows are copied into a new file: HDF5 promises nothing about one that was not closed. What
    was not committed is dropped.

    Raises:
        StoreError: committed rows cannot be read.
    """
    journal = folder / "journal.jsonl"
    drop_half_line(journal)
    known = {line.shard for line in read_journal(journal)}
    for commits in sorted(folder.glob("shard-*.commits.jsonl")):
        shard = commits.name.removesuffix(".commits.jsonl") + ".h5"
        lines = read_lines(commits)
        if shard not in known and lines:
            source, named = folder / f"{shard}.writing", folder / shard
            if not source.exists() and named.exists():  # whole, but not in the journal yet
                # The copy takes this name before the journal has it; killed there again, its
                # commits would be read from the copy, which has its rows elsewhere.
                named.replace(source)
                sync_folder(folder)
            again = folder / f"{shard}.recovered"
            counts = _copy(source, lines, again)
            # The source stays until the journal has the copy: its commits are of no other file.
            publish(folder, again, shard, counts)
        commits.unlink(missing_ok=True)
    for leftover in (*folder.glob("shard-*.writing"), *folder.glob("shard-*.recovered")):
        leftover.unlink()


@dataclass
class _Committed:
    """An array of a shard as its commits have it."""

    dtype: str
    shape: tuple[int, ...]
    chunk_rows: int
    attributes: dict[str, str]
    length: int = 0
    offsets: dict[int, int] = field(default_factory=dict[int, int])

    def chunks(self) -> RowChunks:
        """Return where its rows lie."""
        count = -(-self.length // self.chunk_rows)
        offsets = np.array([self.offsets[i] for i in range(count)], np.int64)
        row_bytes = int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))
        return RowChunks(self.length, row_bytes, self.chunk_rows, offsets)


def _copy(source: Path, lines: list[dict[str, Any]], out: Path) -> dict[str, int]:
    """Write the committed rows of `source` to a new shard; return what is in it."""
    try:
        arrays = _arrays(lines)
        counts = {name: int(lines[-1][name]) for name in ("rows", "contexts", "documents")}
    except (KeyError, TypeError, ValueError) as problem:
        raise StoreError(f"the commits of {source} are damaged: {problem!r}") from problem
    file = ShardFile(out)
    statistics: dict[str, RowStatistics] = {}
    pool = FilePool()
    try:
        for name, array in arrays.items():
            for rows in _pieces(pool, source, array):
                file.append(name, rows, attributes=array.attributes)
                dtype = array.attributes.get("logical_dtype")
                if dtype is not None:
                    seen = statistics.setdefault(name.split("/")[1], RowStatistics())
                    seen.add(layout.from_disk(rows, dtype))
        append_statistics(file, statistics)
        file.close()
    finally:
        pool.close()
        with suppress(StoreError):
            file.abandon()
    return counts


def _arrays(lines: list[dict[str, Any]]) -> dict[str, _Committed]:
    arrays: dict[str, _Committed] = {}
    for line in lines:
        for name, said in line["arrays"].items():
            array = arrays.setdefault(
                name,
                _Committed(
                    said["dtype"],
                    tuple(map(int, said["shape"])),
                    int(said["chunk_rows"]),
                    dict(said["attributes"]),
                ),
            )
            array.length = int(said["length"])
            array.offsets |= dict(enumerate(said["offsets"], int(said["first_chunk"])))
    return arrays


def _pieces(pool: FilePool, source: Path, array: _Committed) -> Iterator[NDArray[Any]]:
    chunks = array.chunks()
    size = max(1, _PIECE_BYTES // max(1, chunks.row_bytes))
    for start in range(0, max(1, array.length), size):
        rows = np.empty((min(size, array.length - start), *array.shape), array.dtype)
        if len(rows):
            read_rows(pool, source, chunks, start, rows)
        yield rows
