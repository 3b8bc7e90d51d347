"""A recipe's TOML: what each type of source needs and takes, checked before anything is read."""

import sysconfig
import tomllib
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, cast

from probe_sae.errors import DatasetError, near

TORCHVISION = {
    "MNIST": 10,
    "FashionMNIST": 10,
    "KMNIST": 10,
    "QMNIST": 10,
    "USPS": 10,
    "CIFAR10": 10,
    "CIFAR100": 100,
}
"""torchvision's datasets of images in classes, for training and to test -> how many classes."""
_Values = type | tuple[str, ...]
"""What a key may have: text, a list of texts, or one of some words."""


class _Source(NamedTuple):
    """What a type of source is of."""

    kinds: tuple[str, ...]
    needs: dict[str, _Values]
    takes: dict[str, _Values]


SOURCES = {
    "folder": _Source(
        ("text", "image"),
        {"path": str},
        {"files": list, "exclude": list, "order": ("name", "shuffled")},
    ),
    "jsonl": _Source(("text",), {"path": str}, {"field": str}),
    "parquet": _Source(("text",), {"path": str}, {"field": str}),
    "hub": _Source(
        ("text", "image"),
        {"path": str},
        dict.fromkeys(("config", "revision", "split", "field", "label"), str),
    ),
    "sklearn_digits": _Source(("image",), {}, {}),
    "torchvision": _Source(
        ("image",), {"dataset": tuple(TORCHVISION), "split": ("train", "test")}, {"root": str}
    ),
}
"""Type of source -> what it needs and takes."""
_KEYS: dict[str, _Values] = {"name": str, "kind": ("text", "image"), "about": str, "source": dict}


def read_recipe(file: Path | Traversable) -> dict[str, Any]:
    """Return a recipe's `name`, `kind`, `about` and `source` from its TOML.

    Raises:
        DatasetError: it cannot be read, is no TOML, or a key is unknown, missing or of wrong value.
    """
    try:
        raw = tomllib.loads(file.read_text("utf-8"))
    except OSError as problem:
        raise DatasetError(f"cannot read the recipe {file}: {problem.strerror}.") from problem
    except (ValueError, RecursionError) as problem:
        raise DatasetError(f"{file} is no recipe: {problem}") from problem
    where = f"recipe {file.name}"
    _check(where, raw, {key: _KEYS[key] for key in ("name", "kind", "source")}, _KEYS)
    source = dict(raw["source"])
    _check(f"{where}, [source]", {"type": source.get("type")}, {"type": tuple(SOURCES)}, {})
    kind = SOURCES[source["type"]]
    _check(f"{where}, [source]", source, kind.needs, {"type": str, **kind.takes})
    if raw["kind"] not in kind.kinds:
        raise DatasetError(
            f"{where}: kind is {raw['kind']!r}, but a source of type {source['type']} holds "
            f"{' or '.join(kind.kinds)}."
        )
    for pattern in source.get("files", []):
        if not pattern or pattern.startswith("/") or ".." in PurePosixPath(pattern).parts:
            raise DatasetError(
                f"{where}, [source]: files has {pattern!r}; expected patterns that stay in the "
                'folder, as "**/*.txt".'
            )
    if source["type"] == "parquet":
        source.setdefault("field", "text")
    if source.get("path") == "{stdlib}":
        source["path"] = sysconfig.get_paths()["stdlib"]
    return {"about": ""} | raw | {"source": source}


def _check(
    where: str, given: dict[str, Any], needs: Mapping[str, _Values], takes: Mapping[str, _Values]
) -> None:
    """Raise unless a table has what it needs, nothing that is unknown, and values of their types.

    Raises:
        DatasetError: it has not; the message says which key.
    """
    known = {**takes, **needs}
    for key in given:
        if key not in known:
            listed = f"expected {', '.join(known)}.{near(key, known)}"
            raise DatasetError(f"{where}: unknown key {key!r}; {listed}")
    for key, wanted in known.items():
        if given.get(key) is None and key in needs:
            raise DatasetError(f"{where}: {key} is missing; expected {_named(wanted)}.")
        if key in given and not _fits(given[key], wanted):
            hint = near(str(given[key]), wanted) if isinstance(wanted, tuple) else ""
            raise DatasetError(
                f"{where}: {key} is {given[key]!r}; expected {_named(wanted)}.{hint}"
            )


def _fits(value: object, wanted: _Values) -> bool:
    if isinstance(wanted, tuple):
        return value in wanted
    if not isinstance(value, list):
        return isinstance(value, wanted)
    return wanted is list and all(isinstance(each, str) for each in cast("list[Any]", value))


def _named(wanted: _Values) -> str:
    if isinstance(wanted, tuple):
        return ", ".join(wanted)
    return {str: "text", list: 'a list of texts, as ["**/*.txt"]', dict: "a table"}[wanted]
