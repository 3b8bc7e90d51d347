"""The files of a dataset on this machine: which they are, in which order, and what they hold."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

from probe_sae.errors import DatasetError

WHOLE_BYTES = 1 << 20
"""Files up to this size are digested whole."""
BLOCK_BYTES, BLOCKS = 1 << 16, 16
"""Of larger ones so many blocks of such a size are."""


class LocalFile(NamedTuple):
    """A file of a dataset."""

    name: str
    """Does not tell where the dataset lies."""
    path: Path


def folder_files(source: dict[str, Any]) -> list[LocalFile]:
    """Return the files of a source of type `folder`, in the recipe's order.

    They are called by their paths in the folder, with forward slashes.

    Raises:
        DatasetError: there is no such folder, or its files cannot be listed by that pattern.
    """
    root = Path(source["path"])
    if not root.is_dir():
        raise DatasetError(f"there is no folder {root}; expected one of texts or images.")
    found: set[str] = set()
    exclude = source.get("exclude", [])
    for pattern in source.get("files", ["**/*"]):
        try:
            found.update(_found(root, pattern, exclude))
        except (ValueError, NotImplementedError) as problem:
            raise DatasetError(
                f"{root} cannot be searched for {pattern!r}: {problem}; expected a pattern as "
                '"**/*.txt".'
            ) from problem
    wanted = (name for name in found if not any(_matches(name, each) for each in exclude))
    names = sorted(name for name in wanted if (root / name).is_file())
    if source.get("order") == "shuffled":
        names.sort(key=lambda name: hashlib.sha256(name.encode("utf-8", "replace")).digest())
    return [LocalFile(name, root / name) for name in names]


def local_files(source: dict[str, Any]) -> list[LocalFile]:
    """Return the files that a source reads on this machine; none of one that comes otherwise.

    Raises:
        DatasetError: see `folder_files`.
    """
    kind, path = source["type"], Path(source.get("path", ""))
    if kind == "folder":
        return folder_files(source)
    if kind in ("jsonl", "parquet") and path.is_file():
        return [LocalFile(path.name, path)]
    if kind == "parquet":  # the library takes patterns too, and pathlib none that is absolute
        parts = map(Path, sorted(glob(source["path"], recursive=True)))  # noqa: PTH207
        return [LocalFile(part.name, part) for part in parts if part.is_file()]
    if kind == "hub" and path.is_dir():
        inside = sorted((p.relative_to(path).as_posix(), p) for p in path.rglob("*") if p.is_file())
        shown = (each for each in inside if not any(s.startswith(".") for s in each[0].split("/")))
        return [LocalFile(*each) for each in shown]  # what is hidden the library does not read
    return []


def digest_of(files: Iterable[LocalFile]) -> str:
    """Return SHA-256 of files' names, sizes and content, in their order.

    A file of up to 1 MiB counts whole. Of a larger one 16 blocks of 64 KiB do, evenly spaced, the
    first and the last among them: what changes between them, and leaves the size, is not seen.

    Raises:
        DatasetError: a file cannot be read.
    """
    whole = hashlib.sha256()
    for file in files:
        whole.update(json.dumps([file.name, *_size_and_digest(file.path)]).encode())
    return whole.hexdigest()


def _size_and_digest(path: Path) -> tuple[int, str]:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= WHOLE_BYTES:
                digest.update(file.read())
            else:
                for block in range(BLOCKS):
                    file.seek((size - BLOCK_BYTES) * block // (BLOCKS - 1))
                    digest.update(file.read(BLOCK_BYTES))
    except OSError as problem:
        raise DatasetError(f"cannot read {path}: {problem.strerror}.") from problem
    return size, digest.hexdigest()


def _found(root: Path, pattern: str, exclude: list[str]) -> Iterator[str]:
    """Yield what matches a pattern, as `root.glob` does; what is left out may be missing."""
    everywhere, _, last = pattern.partition("/")
    if everywhere != "**" or not last or "/" in last or "**" in last:
        yield from (path.relative_to(root).as_posix() for path in root.glob(pattern))
        return
    # A walk by hand enters no folder that is left out, such as all that pip has installed.
    whole = [each for each in exclude if each.endswith("/**")]
    for folder, inner, files in os.walk(root):
        at = Path(folder).relative_to(root).as_posix()
        before = "" if at == "." else f"{at}/"
        inner[:] = [i for i in inner if not any(_matches(f"{before}{i}/", w) for w in whole)]
        yield from (before + name for name in files if fnmatchcase(name, last))


def _matches(name: str, pattern: str) -> bool:
    """Tell whether a relative path matches a glob in which `**/` may also stand for nothing."""
    return fnmatchcase(name, pattern) or (
        pattern.startswith("**/") and fnmatchcase(name, pattern.removeprefix("**/"))
    )
