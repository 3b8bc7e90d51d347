"""Open HDF5 files that may come from a stranger, and write them whole.

Nothing outside a file is ever read. HDF5 can link to other files, map parts of them, load filter
plugins and declare terabytes that are not there. A checked file has none of these: hard links only,
plain little-endian numbers, known filters, and data that fit the file's size. Costs one walk over
the objects, not over the data.
"""

import io
import json
import math
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from probe_sae.errors import StoreError

ALLOWED_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
MAX_OBJECTS = 100_000
MAX_EXPANSION = 1100
"""gzip packs at most about 1032 to 1: a file that declares more is a bomb."""
MAX_CHUNK = 64 << 20
"""Bytes that one packed chunk may unpack to: HDF5 unpacks a chunk at once."""


@contextmanager
def write_hdf5(path: Path) -> Generator[Any]:
    """Yield a new file, which is there, whole, once the block has ended; it is in memory till then.

    Where HDF5 itself cannot write, as on a full disk, the process crashes when it ends.
    """
    made = io.BytesIO()
    with h5py.File(made, "w") as file:
        yield file
    beside = path.with_name(f"{path.name}.writing")
    beside.write_bytes(made.getbuffer())
    beside.replace(path)


@contextmanager
def open_checked(path: Path, error: type[Exception] = StoreError) -> Generator[Any]:
    """Open an HDF5 file for reading after checking every object in it.

    Args:
        path: the file.
        error: what to raise, with one clear message, when the file is damaged or hostile.

    Raises:
        error: unreadable, or it holds links, external or virtual data, unknown filters, types that
            are not plain numbers, or more data than the file's size allows.
    """
    try:
        file = reopen(path)
    except (OSError, RuntimeError) as problem:
        raise error(f"{path} is not a readable HDF5 file ({problem}); make it anew.") from problem
    with file:
        try:
            _check_group(file, path, error, path.stat().st_size)
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as problem:
            raise error(f"{path} is damaged: {problem}") from problem
        yield file


def reopen(path: Path) -> Any:
    """Return a file that `open_checked` has checked, open for reading (h5py carries no types).

    Without HDF5's own lock, which network file systems lack, unless this process has the file open
    with it already.
    """
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as problem:
        if "locking flag" not in str(problem):
            raise
        return h5py.File(path, "r")


def _check_group(root: h5py.File, path: Path, error: type[Exception], size: int) -> None:
    """Walk every link of `root`; raise `error` at the first object that is not plain data."""
    pending: list[Any] = [root]
    declared = seen = 0
    while pending:
        group = pending.pop()
        for name in group:
            seen += 1
            if seen > MAX_OBJECTS:
                raise error(f"{path} holds over {MAX_OBJECTS} objects, this is no store; refused.")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise error(f"{path}: {name!r} links elsewhere; refused.")
            item = group[name]
            if isinstance(item, h5py.Group):
                pending.append(item)
            elif isinstance(item, h5py.Dataset):
                declared += _check_dataset(item, path, error, size)
            else:
                raise error(f"{path}: {item.name!r} is neither group nor dataset; refused.")
    if declared > size * MAX_EXPANSION:
        raise error(f"{path} declares {declared} bytes in a file of {size}; refused.")


def _check_dataset(data: h5py.Dataset, path: Path, error: type[Exception], size: int) -> int:
    """Return the bytes that `data` declares; raise `error` unless it is plain numbers inside."""
    where = f"{path}: {data.name!r}"
    if data.external or data.is_virtual:
        raise error(f"{where} keeps its data in another file; refused.")
    kind: np.dtype[Any] = data.dtype
    if kind.kind not in "iuf" or kind.itemsize > 8 or kind.fields or kind.subdtype:
        raise error(f"{where} has type {kind}; expected plain integers or floats.")
    layout = data.id.get_create_plist()
    filters = [layout.get_filter(i)[0] for i in range(layout.get_nfilters())]
    for number in filters:
        if number not in ALLOWED_FILTERS:
            raise error(
                f"{where} needs filter {number}, expected {sorted(ALLOWED_FILTERS.values())}."
            )
    declared = int(data.size or 0) * kind.itemsize
    if filters and math.prod(data.chunks or ()) * kind.itemsize > MAX_CHUNK:
        raise error(f"{where} unpacks to chunks of {data.chunks}; refused.")
    if not filters and declared > size + (1 << 20):
        raise error(f"{where} declares {declared} bytes in a file of {size}; it is half written.")
    return declared


def write_json(group: h5py.Group, name: str, value: object) -> None:
    """Write `value` as UTF-8 JSON bytes: no HDF5 strings, which are objects in disguise."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True).encode("utf-8", "surrogatepass")
    group.create_dataset(name, data=np.frombuffer(text, dtype=np.uint8))


def read_json(group: h5py.Group, name: str) -> Any:
    """Read what `write_json` wrote.

    Raises:
        ValueError: it is not JSON.
        KeyError: there is no such dataset.
    """
    return json.loads(bytes(np.asarray(group[name])).decode("utf-8", "surrogatepass"))
