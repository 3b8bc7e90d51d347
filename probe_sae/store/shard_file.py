"""One HDF5 file that grows by whole chunks, and from which a crash takes nothing that was synced.

HDF5 promises nothing about a file that was not closed. But chunks lie where they were put, so the
bytes of synced rows can be read back at the offsets that `flush` returns, whatever became of the
rest. Costs a write of the bytes, and a chunk of memory for each array.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from probe_sae.errors import ShapeError
from probe_sae.store import layout


@dataclass
class _Array:
    """An array that grows: its full chunks are in the file, the last is here."""

    chunk: NDArray[Any]
    """[chunk rows, ...] the rows since the last full chunk, and old ones after them."""
    compressed: bool
    attributes: dict[str, str]
    length: int = 0
    dataset: Any = None
    offsets: list[int] = field(default_factory=list[int])
    """Where chunks lie in the file, those that `flush` has not returned yet."""
    noted: int = 0
    """Chunks that `flush` has returned."""


class ShardFile:
    """Append rows to named arrays of one file."""

    def __init__(self, path: Path) -> None:
        """Begin the file; one that is there is replaced."""
        self.path = path
        self._file: Any = h5py.File(path, "w", locking=False)
        self._arrays: dict[str, _Array] = {}

    def append(
        self,
        name: str,
        rows: NDArray[Any],
        *,
        compressed: bool = False,
        attributes: dict[str, str] | None = None,
    ) -> None:
        """Append rows, [rows, ...], to an array, which begins with its first rows.

        Args:
            name: the array's.
            rows: more of it.
            compressed: pack the array, when it begins.
            attributes: given to the array when it begins.

        Raises:
            ShapeError: rows of another shape or type than before.
        """
        array = self._arrays.get(name)
        if array is None:
            size = layout.chunk_rows(max(1, rows.itemsize * math.prod(rows.shape[1:])))
            chunk = np.zeros((size, *rows.shape[1:]), rows.dtype.newbyteorder("<"))
            array = self._arrays[name] = _Array(chunk, compressed, attributes or {})
        if rows.shape[1:] != array.chunk.shape[1:] or rows.dtype != array.chunk.dtype:
            raise ShapeError(
                f"{name} holds {array.chunk.dtype} of {array.chunk.shape[1:]}, but then "
                f"{rows.dtype} of {rows.shape[1:]} came; inputs must be of one size."
            )
        taken = 0
        while taken < len(rows):
            filled = array.length % len(array.chunk)
            count = min(len(rows) - taken, len(array.chunk) - filled)
            array.chunk[filled : filled + count] = rows[taken : taken + count]
            array.length += count
            taken += count
            if filled + count == len(array.chunk):
                self._write_chunk(name, array, array.length - len(array.chunk))

    def flush(self) -> dict[str, Any]:
        """Write what was appended, and return where it lies: what changed since last time.

        It is safe once `sync` has returned for the file.
        """
        arrays: dict[str, Any] = {}
        for name, array in self._arrays.items():
            filled = array.length % len(array.chunk)
            if filled:
                self._write_chunk(name, array, array.length - filled)
            arrays[name] = {
                "dtype": array.chunk.dtype.str,
                "shape": array.chunk.shape[1:],
                "chunk_rows": len(array.chunk),
                "length": array.length,
                "first_chunk": array.noted,
                "offsets": array.offsets,
                "attributes": array.attributes,
            }
            whole = array.length // len(array.chunk) - array.noted
            array.offsets, array.noted = array.offsets[whole:], array.noted + whole
        return arrays

    def close(self) -> None:
        """Finish the file; it is safe once `sync` has returned for it."""
        for name, array in self._arrays.items():
            filled = array.length % len(array.chunk)
            if array.dataset is None:
                self._create(name, array, array.length)[...] = array.chunk[: array.length]
                continue
            if filled:
                self._write_chunk(name, array, array.length - filled)
            array.dataset.resize(array.length, 0)
        self._file.close()

    def abandon(self) -> None:
        """Close the file as it is, after an error."""
        try:
            self._file.close()
        except (OSError, RuntimeError):  # the error came before
            self._file = None

    def _create(self, name: str, array: _Array, chunk: int) -> Any:
        """Make the dataset, of one chunk of so many rows; nothing of them is written yet."""
        shape = (chunk, *array.chunk.shape[1:])
        options: dict[str, Any] = {}
        if array.compressed:
            options = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        if all(shape):
            options |= {"chunks": shape, "maxshape": (None, *shape[1:])}
        else:
            options = {}
        array.dataset = self._file.create_dataset(name, shape, array.chunk.dtype, **options)
        for key, value in array.attributes.items():
            array.dataset.attrs[key] = value
        return array.dataset

    def _write_chunk(self, name: str, array: _Array, start: int) -> None:
        """Write the chunk whose first row is `start`, perhaps once more."""
        size = len(array.chunk)
        dataset = self._create(name, array, size) if array.dataset is None else array.dataset
        if dataset.shape[0] < start + size:
            dataset.resize(start + size, 0)
        place = (start, *(0 for _ in array.chunk.shape[1:]))
        if array.compressed:
            dataset[start : start + size] = array.chunk
            return
        dataset.id.write_direct_chunk(place, array.chunk)
        if start // size >= array.noted + len(array.offsets):
            array.offsets.append(dataset.id.get_chunk_info_by_coord(place).byte_offset)
