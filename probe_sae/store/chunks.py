"""Where a dataset's rows lie in its file, and reading them from there without HDF5.

HDF5 finds the chunks once, in a file that `open_checked` has checked; after that the rows are plain
bytes at known offsets, which any thread or forked process reads with `preadv` straight into its own
memory. Compressed datasets have no such offsets; they are read through HDF5.
"""

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from probe_sae.errors import StoreError

OPEN_FILES = 128
"""File descriptors that one store keeps open at most."""


@dataclass(frozen=True)
class RowChunks:
    """Where the rows of one dataset, [rows, width], lie in its file."""

    rows: int
    row_bytes: int
    chunk_rows: int
    offsets: NDArray[np.int64]
    """Byte at which each chunk begins, [chunks]."""


def row_chunks(data: Any, path: Path) -> RowChunks | None:
    """Return where the rows of a dataset lie; None for a compressed one.

    Args:
        data: a dataset [rows, width] of a checked file.
        path: the file, for messages.

    Raises:
        StoreError: a chunk is missing, has another size, or lies outside the file.
    """
    rows, width = data.shape
    row_bytes = width * data.dtype.itemsize
    layout = data.id.get_create_plist()
    if layout.get_nfilters():
        return None
    size = path.stat().st_size
    where = f"{path}: {data.name}"
    if layout.get_layout() == h5py.h5d.CONTIGUOUS:
        start = data.id.get_offset()
        if rows and (start is None or start + rows * row_bytes > size):
            raise StoreError(f"{where} lies outside its file; it is damaged.")
        return RowChunks(rows, row_bytes, max(rows, 1), np.array([start or 0], np.int64))
    if layout.get_layout() != h5py.h5d.CHUNKED or data.chunks[1] != width:
        return None
    chunk_rows = data.chunks[0]
    offsets = np.full(-(-rows // chunk_rows), -1, np.int64)

    def note(chunk: Any) -> None:
        index, rest = divmod(chunk.chunk_offset[0], chunk_rows)
        begin = -1 if chunk.byte_offset is None else int(chunk.byte_offset)
        fits = 0 <= begin <= size - chunk.size
        if rest or chunk.chunk_offset[1] or not 0 <= index < len(offsets) or chunk.filter_mask:
            raise StoreError(f"{where} has a chunk at {chunk.chunk_offset}; it is damaged.")
        if not fits or chunk.size != chunk_rows * row_bytes:
            raise StoreError(f"{where} has a chunk outside its file; it is damaged.")
        offsets[index] = begin

    data.id.chunk_iter(note)
    if (offsets < 0).any():
        raise StoreError(f"{where} lacks {int((offsets < 0).sum())} chunks; it is half written.")
    return RowChunks(rows, row_bytes, chunk_rows, offsets)


class FilePool:
    """Open files by path, the least used closed first; safe for threads and forked processes."""

    def __init__(self) -> None:
        self._begin()

    def __reduce__(self) -> tuple[type["FilePool"], tuple[()]]:
        """Open anew in a process that it is sent to."""
        return FilePool, ()

    def _begin(self) -> None:
        self._open: OrderedDict[Path, int] = OrderedDict()
        self._lock = threading.Lock()
        self._process = os.getpid()

    def read(self, path: Path, offset: int, out: NDArray[Any]) -> None:
        """Fill `out`, which is contiguous, with the file's bytes from `offset` on.

        Raises:
            StoreError: the file ends before, or cannot be read.
        """
        view = memoryview(out.data).cast("B")
        if self._process != os.getpid():  # forked: another thread may have held the lock
            self._begin()
        try:
            with self._lock:
                number = os.dup(self._number(path))
            try:
                done = 0
                while done < len(view):
                    got = os.preadv(number, [view[done:]], offset + done)
                    if not got:
                        raise StoreError(f"{path} ends too early; it is damaged.")
                    done += got
            finally:
                os.close(number)
        except OSError as problem:
            raise StoreError(f"cannot read {path}: {problem.strerror}.") from problem

    def _number(self, path: Path) -> int:
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._open[path] = number
        if len(self._open) > OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        return number

    def close(self) -> None:
        """Close every file."""
        with self._lock:
            while self._open:
                os.close(self._open.popitem()[1])

    def __del__(self) -> None:
        self.close()


def read_rows(
    files: FilePool, path: Path, chunks: RowChunks, start: int, out: NDArray[Any]
) -> None:
    """Fill `out`, [n, width] of the dtype on disk, with the rows from `start` on.

    Raises:
        StoreError: the file cannot be read.
    """
    done = 0
    while done < len(out):
        chunk, inside = divmod(start + done, chunks.chunk_rows)
        count = min(len(out) - done, chunks.chunk_rows - inside)
        offset = int(chunks.offsets[chunk]) + inside * chunks.row_bytes
        files.read(path, offset, out[done : done + count])
        done += count
