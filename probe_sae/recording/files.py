"""The files of a dataset on this machine: which they are, and in which order."""

import hashlib
import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from probe_sae.errors import DatasetError


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
