"""Names of dictionaries on the Hugging Face hub: `hf:USER/NAME/FOLDER@REVISION`, or SAELens'.

Nothing here goes online.
"""

import importlib.util
import re
from pathlib import Path
from typing import Any, NamedTuple

from probe_sae.errors import FormatError, ProbeSaeError, near

SCHEMES = ("hf:", "saelens:")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[\w][\w./-]{0,254}", re.ASCII)


class Place(NamedTuple):
    """A folder or a file of a repository on the hub."""

    repository: str
    """`user/name`."""
    path: str
    """Folder or file in it, with forward slashes; empty for all of it."""
    revision: str | None = None
    """Branch, tag or commit; the main branch when absent."""

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"hf:{self.repository}{'/' if self.path else ''}{self.path}{at}"


def is_hub_id(name: object) -> bool:
    """Tell whether a name says that it is one of the hub: `hf:...` or `saelens:...`."""
    return isinstance(name, str) and name.startswith(SCHEMES)


def place_of(name: str) -> Place:
    """Return what an id stands for.

    Args:
        name: `hf:user/name`, `hf:user/name/folder`, with `@revision` behind it where wanted; or
            `saelens:RELEASE/ID`, which an installed sae_lens knows.

    Raises:
        FormatError: it is no id, or sae_lens does not know it.
        ProbeSaeError: sae_lens is not installed.
    """
    scheme, _, rest = name.partition(":")
    rest, _, revision = rest.partition("@")
    if scheme == "saelens":
        repository, path = _of_saelens(rest)
    else:
        user, _, after = rest.partition("/")
        folder, _, path = after.partition("/")
        repository = f"{user}/{folder}"
    place = Place(checked_repository(repository, name), _checked_path(path, name))
    return at_revision(place, revision) if revision else place


def at_revision(place: Place, revision: str) -> Place:
    """Return a place at a branch, tag or commit.

    Raises:
        FormatError: that can be none.
    """
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise FormatError(
            f"{place}: {revision!r} is no revision; expected a branch, tag or commit."
        )
    return place._replace(revision=revision)


def checked_repository(repository: str, name: str) -> str:
    """Return `user/name`.

    Raises:
        FormatError: it is none.
    """
    if not _REPOSITORY.fullmatch(repository) or repository.endswith((".git", ".")):
        raise FormatError(
            f"{name!r} names no repository of the Hugging Face hub; expected user/name, or "
            "hf:user/name/folder to load from."
        )
    return repository


def _checked_path(path: str, name: str) -> str:
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if any(part == ".." or "\\" in part or not part.isprintable() for part in parts):
        raise FormatError(f"{name!r}: the folder {path!r} leads out of the repository.")
    return "/".join(parts)


def _of_saelens(rest: str) -> tuple[str, str]:
    """Return repository and path of a release and an id, as SAELens' own table has them."""
    release, _, wanted = rest.partition("/")
    table = _saelens_table()
    if release not in table:
        raise FormatError(f"sae_lens has no release {release!r}.{near(release, table)}")
    try:
        paths = {str(each["id"]): str(each["path"]) for each in table[release]["saes"]}
        repository = str(table[release]["repo_id"])
    except (KeyError, TypeError) as problem:
        raise FormatError(f"sae_lens' table has {release!r} in another form: {problem!r}.") from (
            problem
        )
    if wanted not in paths:
        hint = near(wanted, paths) or f" The first of {len(paths)}: {', '.join([*paths][:3])}."
        raise FormatError(f"{release} of sae_lens has no dictionary {wanted!r}.{hint}")
    return repository, paths[wanted]


def _saelens_table() -> dict[str, Any]:
    """Read the table of names of an installed sae_lens, without importing it (seconds).

    Raises:
        ProbeSaeError: it is not installed, or has no such table.
    """
    import yaml  # comes with transformers

    spec = importlib.util.find_spec("sae_lens")
    folders = (spec.submodule_search_locations if spec is not None else None) or []
    for folder in folders:
        path = Path(folder) / "pretrained_saes.yaml"
        if path.is_file():
            loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
            with path.open("rb") as file:
                table: Any = yaml.load(file, loader)  # a safe loader
            return dict(table)
    raise ProbeSaeError(
        "names of SAELens are looked up in an installed sae_lens, and there is none: pip install "
        "sae-lens, or give the repository and folder: hf:USER/NAME/FOLDER."
    )
