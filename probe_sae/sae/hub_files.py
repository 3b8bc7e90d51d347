"""Which files of a repository on the Hugging Face hub make up a dictionary."""

import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from probe_sae.errors import FormatError, near
from probe_sae.progress import say
from probe_sae.sae.hub_access import Access
from probe_sae.sae.hub_ids import Place

_TEXTS = (".json", ".jsonl", ".yaml", ".yml")
_TENSORS = (".safetensors", ".npz")
_TORCH = (".pt", ".pth", ".bin")
"""Fetched only where a folder has no file of tensors; whoever reads them takes tensors alone."""
_INNER = "checkpoints"
"""A folder inside a dictionary's that may hold its weights."""
MAX_TEXT = 1 << 26
MAX_FILES = 500
SPARE = 1 << 28
"""Bytes that a download leaves free."""


def wanted_files(api: Any, place: Place, only: Sequence[str]) -> dict[str, int]:
    """Return the paths of a place's files and their sizes.

    Raises:
        FormatError: there are none.
    """
    from huggingface_hub.errors import EntryNotFoundError

    try:
        entries = _listed(api, place, place.path)
    except EntryNotFoundError:
        entries = {}
    if place.path and not entries:
        return _file(api, place)
    files = {path: size for path, size in entries.items() if size is not None}
    if only:
        found = {path: n for path, n in files.items() if PurePosixPath(path).name in only}
    else:
        inner = f"{place.path}/{_INNER}".lstrip("/")
        if inner in entries:
            more = _listed(api, place, inner)
            files |= {path: size for path, size in more.items() if size is not None}
        found = _of_a_dictionary(files)
    if not found:
        folders = [path for path, size in entries.items() if size is None]
        some = f" It has the folders {', '.join(folders[:5])}: name one." if folders else ""
        wanted = ", ".join(only) or "weights (.safetensors, .npz, .pt)"
        raise FormatError(f"{place} holds no dictionary: no {wanted}.{some}")
    return found


def _file(api: Any, place: Place) -> dict[str, int]:
    """Return a file that a place names, with the texts beside it.

    Raises:
        FormatError: there is none.
    """
    from huggingface_hub.errors import EntryNotFoundError

    above = _above(place.path)
    try:
        beside = _listed(api, place, above)
    except EntryNotFoundError:
        beside = {}
    size = beside.get(place.path)
    if size is None or not place.path.endswith((*_TENSORS, *_TORCH)):
        known = beside or _listed(api, place, "")
        raise FormatError(
            f"{place.repository} has no folder or file of weights "
            f"{place.path!r}.{near(place.path, known)}"
        )
    texts = {path: n for path, n in beside.items() if n is not None and path.endswith(_TEXTS)}
    return {place.path: size} | {path: n for path, n in texts.items() if n <= MAX_TEXT}


def _listed(api: Any, place: Place, folder: str) -> dict[str, int | None]:
    """Return what a folder of a repository holds: path -> size, None for a folder.

    Raises:
        FormatError: an entry lies elsewhere, or there are too many.
    """
    found: dict[str, int | None] = {}
    listing = api.list_repo_tree(
        place.repository, folder or None, recursive=False, revision=place.revision
    )
    for entry in listing:
        is_odd = "\\" in entry.path or PurePosixPath(entry.path).name in ("", "..")
        if _above(entry.path) != folder or is_odd:
            raise FormatError(f"{place.repository} lists {entry.path!r} in {folder or '/'!r}.")
        found[entry.path] = getattr(entry, "size", None)
    return found


def _above(path: str) -> str:
    """Return the folder that a path lies in; empty for the repository itself."""
    parent = str(PurePosixPath(path).parent)
    return "" if parent == "." else parent


def _of_a_dictionary(files: dict[str, int]) -> dict[str, int]:
    """Return the weights among files, and the texts beside them; nothing without weights."""
    for kinds in (_TENSORS, _TORCH):
        weights = {path: size for path, size in files.items() if path.endswith(kinds)}
        if weights:
            return weights | {p: size for p, size in files.items() if p.endswith(_TEXTS)}
    return {}


def check_sizes(files: dict[str, int], place: Place, access: Access) -> None:
    """Say what is downloaded.

    Raises:
        FormatError: it is more than a dictionary can be, or than the disk takes.
    """
    from huggingface_hub import constants

    for path, size in files.items():
        if path.endswith(_TEXTS) and size > MAX_TEXT:
            raise FormatError(
                f"{place.repository}: {path} has {size:,} bytes; expected {MAX_TEXT:,} at most."
            )
    if len(files) > MAX_FILES:
        raise FormatError(
            f"{place} holds {len(files)} files; a dictionary has {MAX_FILES} at most. "
            "Name a folder or file in it."
        )
    total = sum(files.values())
    folder = Path(access.cache_dir or constants.HF_HUB_CACHE).expanduser().resolve()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if total > free - SPARE:
        raise FormatError(
            f"{place} has {total / 1e9:.1f} GB, but {folder} has {free / 1e9:.1f} GB free; "
            "give another cache_dir (HF_HUB_CACHE)."
        )
    say(f"{place}: {len(files)} files, {total / 1e6:,.1f} MB, from the hub or its cache.")
