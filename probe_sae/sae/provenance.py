"""What a saved dictionary says of its origin: words of anybody's, checked before they are used."""

from typing import Any

_TABLES = ("trained_on", "host", "store")
"""Parts that are read by name."""


def checked_provenance(found: Any) -> dict[str, Any]:
    """Return the provenance in a configuration; parts that nothing reads stay as they are.

    Raises:
        ValueError: a part is of another form than what is saved.
    """
    if not isinstance(found, dict):
        raise ValueError(f"provenance is {found!r:.60}, expected an object.")
    if isinstance(found.get("host"), str):  # of a store written elsewhere
        found = found | {"host": {"name": found["host"]}}
    for name in _TABLES:
        if not isinstance(found.get(name) or {}, dict):
            raise ValueError(f"provenance.{name} is {found[name]!r:.60}, expected an object.")
    trained_on: dict[str, Any] = found.get("trained_on") or {}
    for name, sites in (("sites", found.get("sites")), ("hooks", trained_on.get("hooks"))):
        if sites is not None and not _are_words(sites):
            raise ValueError(f"{name} of provenance are {sites!r:.60}, expected a list of names.")
    split = found.get("split")
    if split is not None and not _is_split(split):
        raise ValueError(f"provenance.split is {split!r:.60}, expected held_out and seed.")
    return dict(found)


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_split(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and type(value.get("seed")) is int
        and type(value.get("held_out")) in (int, float)
    )
