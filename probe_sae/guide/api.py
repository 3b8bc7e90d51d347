"""The page of all public names, made from signatures and docstrings whenever it is asked for."""

import dataclasses
import inspect
import re
from typing import Any

import probe_sae
from probe_sae.shown import field_docstrings

_ROOMS = {
    "host": "Look into a host: load it, tap its sites, edit them",
    "recording": "Record: datasets, captures, worlds whose dictionary is known",
    "store": "Rows on disk",
    "training": "Train",
    "sae": "Dictionaries: architectures, codes, refinement",
    "interop": "Other libraries' dictionaries",
    "evaluation": "Measure, compare",
    "analysis": "Analyse, label, probe, change inputs and outputs",
    "reporting": "Report",
    "errors": "Errors",
}


def api_page() -> str:
    """Return every public name as Markdown, by what it is for; functions first."""
    names: dict[str, list[str]] = {room: [] for room in _ROOMS}
    for name in probe_sae.__all__:
        names.setdefault(getattr(probe_sae, name).__module__.split(".")[1], []).append(name)
    parts = ["# Every public name\n\n`import probe_sae as ps`; `help(ps.train)` says more."]
    for room, found in names.items():
        found.sort(key=lambda name: (inspect.isclass(getattr(probe_sae, name)), name.lower()))
        parts += [f"## {_ROOMS.get(room, room)}", *map(_entry, found)]
    return "\n\n".join(parts) + "\n"


def _entry(name: str) -> str:
    thing = getattr(probe_sae, name)
    lines = [f"### `{name}{_signature(thing)}`", _first_line(thing)]
    if inspect.isclass(thing) and not issubclass(thing, Exception):
        lines += _members(thing)
    return "\n".join(lines)


def _members(kind: type) -> list[str]:
    """Return the fields, methods and properties that a class, or a base of ours, defines."""
    found: dict[str, Any] = {}
    for owner in reversed(kind.__mro__):
        if owner.__module__.startswith("probe_sae."):
            found |= {name: member for name, member in vars(owner).items() if name[0] != "_"}
    about = field_docstrings(kind) if dataclasses.is_dataclass(kind) else {}
    lines = [f"- `{name}`: {text}" for name, text in about.items() if name[0] != "_"]
    for name, member in found.items():
        plain = getattr(member, "__func__", member)
        if inspect.isfunction(plain):
            lines.append(f"- `.{name}{_signature(plain)}`: {_first_line(plain)}")
        elif isinstance(member, property):
            lines.append(f"- `.{name}`: {_first_line(member)}")
    return lines


def _signature(thing: Any) -> str:
    """Return what it is called with: names and defaults, without types."""
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return ""
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    kept = [
        given.replace(annotation=given.empty, default=_default(given.default))
        for name, given in found.parameters.items()
        if name not in ("self", "cls") and not name.startswith("_")
    ]
    return str(found.replace(parameters=kept, return_annotation=found.empty))


class _Written:
    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _default(value: Any) -> Any:
    """Return a default that is written as one would write it."""
    if value is inspect.Parameter.empty:
        return value
    if repr(value).startswith("<"):  # a factory's, or an object without a text of its own
        return _Written("...")
    if dataclasses.is_dataclass(value):
        return _Written(f"{type(value).__name__}()")
    return value


def _first_line(thing: Any) -> str:
    first = (inspect.getdoc(thing) or "").partition("\n\n")[0]
    return re.sub(r"\s+", " ", first)
