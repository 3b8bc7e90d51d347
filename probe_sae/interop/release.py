"""What a release calls a dictionary: some say by names alone what changes its numbers."""

from pathlib import Path
from typing import NamedTuple

from probe_sae.progress import say

_FOLDERS = 4
"""Of the deepest release: Gemma Scope's repository, layer, width and mean L0."""


class Release(NamedTuple):
    """Names of a dictionary, and how far they are to be believed."""

    path: Path
    """Where it lies."""
    names: tuple[str, ...]
    """Of the repository, the folders in it, and the file where `path` is one."""
    is_published: bool
    """Whether they are the hub's; a folder here may be called anything."""

    def say(self, what: str) -> None:
        """Say what only a name decided, where anybody may have given it."""
        if not self.is_published:
            say(f"{self.path}: {what}")


def release_of(path: Path) -> Release:
    """Return what a release calls the dictionary at a path.

    The hub's cache says where a release begins; of any other path, it is the last few parts.
    """
    parts = path.absolute().parts
    for at in range(len(parts) - 3, 0, -1):  # models--USER--NAME/snapshots/COMMIT/...
        if parts[at].startswith("models--") and parts[at + 1] == "snapshots":
            repository = parts[at].rpartition("--")[2]
            return Release(path, (repository, *parts[at + 3 :]), is_published=True)
    return Release(path, parts[1:][-_FOLDERS - path.is_file() :], is_published=False)
