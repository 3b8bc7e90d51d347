"""What a manifest must say for its store to be opened: values of the right kinds, no wild ones."""

import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from probe_sae.store import layout
from probe_sae.store.journal import ShardLine

_TABLES, _LISTS = ("host", "dataset", "settings"), ("special", "grid", "classes")
"""What of the provenance is looked at, where it is there."""
_MOST = 2**31
_short = reprlib.repr


def check_manifest(manifest: Mapping[str, Any], lines: Sequence[ShardLine]) -> None:
    """Check what is written in a manifest, but for its digests.

    Raises:
        ValueError: a value is none that was ever written there; the message says which.
        KeyError, TypeError, AttributeError, OverflowError: the same.
    """
    if manifest["kind"] not in ("text", "image"):
        raise ValueError(f"kind is {_short(manifest['kind'])}")
    if type(manifest["recording"]) is not str:
        raise ValueError(f"recording is {_short(manifest['recording'])}, expected text")
    if not isinstance(manifest["shuffled"], dict | None):
        raise ValueError(f"shuffled is {_short(manifest['shuffled'])}, expected a table")
    _check_counts(manifest, lines)
    if not manifest["sites"]:
        raise ValueError("there are no sites")
    for name, site in manifest["sites"].items():
        _check_site(name, site)
        _check_statistics(name, manifest["statistics"][name], site["width"], manifest["rows"])
    _check_provenance(manifest["provenance"])


def _check_counts(manifest: Mapping[str, Any], lines: Sequence[ShardLine]) -> None:
    counts = {
        "rows": sum(line.rows for line in lines),
        "contexts": sum(line.contexts for line in lines),
        "documents": max((line.document_base + line.documents for line in lines), default=0),
    }
    for name, count in counts.items():
        if type(manifest[name]) is not int or manifest[name] != count:
            raise ValueError(f"its shards hold {count} {name}, it says {_short(manifest[name])}")
    if not counts["rows"]:
        raise ValueError("there are no rows")


def _check_site(name: str, site: Mapping[str, Any]) -> None:
    if site["dtype"] not in layout.DTYPES:
        raise ValueError(f"{name} has dtype {_short(site['dtype'])}")
    if type(site["width"]) is not int or not 0 < site["width"] < _MOST:
        raise ValueError(f"{name} has width {_short(site['width'])}")
    if "/" in name or name in ("", ".", ".."):
        raise ValueError(f"{name!r} is no name of a site")


def _check_statistics(name: str, seen: Mapping[str, Any], width: int, rows: int) -> None:
    if type(seen["count"]) is not int or seen["count"] != rows:
        raise ValueError(f"{name} has statistics of {_short(seen['count'])} rows of {rows}")
    for what in ("mean", "scatter"):
        if type(seen[what]) is not list or len(seen[what]) != width:
            raise ValueError(f"{name} has statistics of another width")
    sizes = [seen["largest"], seen["norm_sum"], *seen["scatter"]]
    for value in (*sizes, *seen["mean"]):
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(
                f"{name} has {_short(value)} in its statistics, expected finite numbers"
            )
    if min(sizes) < 0:
        raise ValueError(f"{name} has {min(sizes)} in its statistics, expected at least 0")


def _check_provenance(provenance: Mapping[str, Any]) -> None:
    if not isinstance(provenance, dict):
        raise ValueError(f"provenance is {_short(provenance)}, expected a table")
    for names, kind in ((_TABLES, dict), (_LISTS, list)):
        for name in names:
            if not isinstance(provenance.get(name, kind()), kind):
                raise ValueError(f"{name} is {_short(provenance[name])} in the provenance")
    numbers = {name: provenance.get(name, []) for name in ("special", "grid")}
    for name, values in numbers.items():
        if any(type(value) is not int or not 0 <= value < _MOST for value in values):
            raise ValueError(f"{name} is {_short(values)} in the provenance, expected numbers")
    if len(numbers["grid"]) not in (0, 2):
        raise ValueError(f"grid is {numbers['grid']!r} in the provenance, expected two numbers")
    if any(type(name) is not str for name in provenance.get("classes", [])):
        raise ValueError(
            f"classes are {_short(provenance['classes'])} in the provenance, expected names"
        )
