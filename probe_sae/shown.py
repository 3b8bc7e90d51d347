"""How results show themselves: names and values in a console, a small table in a notebook.

Short whatever they hold: an array is its shape and range. What a value is, its formula included,
comes from the docstring under its field, or from the result's own definitions. Markup in names and
values is text, and nothing is script.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import fields
from functools import cache
from html import escape
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

_LONGEST = 100
"""Characters of a value."""
_FEW = 5
"""Entries of a list that are shown one by one."""
_MAIN_METRICS = ("fraction_unexplained", "l0", "dead_fraction", "loss_recovered")
_LINES = 12
"""Lines of a table that are shown."""
_LARGE = 1 << 22
"""Entries of an array from which on its range is not looked for."""


class Fact(NamedTuple):
    """A value with its name, and what it is."""

    name: str
    value: Any
    about: str = ""


class Shown:
    """What shows itself by its facts; by default a dataclass's fields.

    A dataclass has to be made with `repr=False`, as its own would print whole arrays.
    """

    def _facts(self) -> Iterable[Fact]:
        known: Any = self
        about = field_docstrings(type(self))
        return [Fact(f.name, getattr(self, f.name), about.get(f.name, "")) for f in fields(known)]

    def _title(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        found = [(plain(fact.name), as_text(fact.value)) for fact in _known(self._facts())]
        width = max((len(name) for name, _ in found), default=0)
        return "\n  ".join([self._title(), *(f"{n:<{width}}  {v}" for n, v in found)])

    def _repr_html_(self) -> str:
        return table_html(self._facts(), self._title())


class Tabled(Shown):
    """What shows itself as a table of its own: the first lines, below what is a single value.

    `table` gives a pandas DataFrame.
    """

    def table(self) -> Any:
        """Return one line a thing as a pandas DataFrame."""
        raise NotImplementedError

    def _facts(self) -> Iterable[Fact]:
        single = (str, int, float, np.generic)
        return [fact for fact in super()._facts() if isinstance(fact.value, single)]

    def __repr__(self) -> str:
        table = self.table()
        lines = (
            table.head(_LINES)
            .map(_printable)
            .to_string(max_colwidth=40, float_format="{:.4g}".format)
        )
        more = f"\n  … {len(table) - _LINES:,} lines more" if len(table) > _LINES else ""
        return f"{super().__repr__()}\n{textwrap.indent(lines, '  ')}{more}"

    def _repr_html_(self) -> str:
        lines = self.table().head(_LINES).map(_printable).to_html(float_format="{:.4g}".format)
        return f"{super()._repr_html_()}{lines}"


def _printable(cell: Any) -> Any:
    return plain(cell) if isinstance(cell, str) else cell


def table_html(facts: Iterable[Fact], title: str = "") -> str:
    """Return facts as an HTML table of names, values, and what they are."""
    lines = [
        f"<tr><th style='text-align:left'>{_escaped(fact.name)}</th>"
        f"<td style='text-align:left'>{_escaped(as_text(fact.value))}</td>"
        f"<td style='text-align:left'>{_escaped(fact.about)}</td></tr>"
        for fact in _known(facts)
    ]
    caption = f"<caption style='text-align:left'>{_escaped(title)}</caption>" if title else ""
    return f"<table>{caption}{''.join(lines)}</table>"


def as_text(value: Any) -> str:
    """Return a value as one short line."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return _array(value)
    if isinstance(value, Mapping):
        return _several([f"{plain(str(k))}: {as_text(v)}" for k, v in _first(value.items())], value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return _several([as_text(entry) for entry in _first(value)], value)
    if isinstance(value, Shown):
        return f"{type(value).__name__}(…)"
    return _cut(plain(str(value)))


def flat(nested: Mapping[str, Any], outer: str = "") -> dict[str, Any]:
    """Return the values of nested mappings, their names joined by points."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        whole = f"{outer}.{name}" if outer else str(name)
        found |= flat(value, whole) if isinstance(value, Mapping) else {whole: value}
    return found


def name_in(provenance: Any) -> str | None:
    """Return the name in what is known of a host or dataset, or the name itself."""
    found = provenance.get("name") if isinstance(provenance, Mapping) else provenance
    return None if found is None else str(found)


def main_metrics(info: Mapping[str, Any]) -> list[Fact]:
    """Return the metrics that tell most, of what has `metrics` and `definitions`."""
    metrics, about = info.get("metrics") or {}, info.get("definitions") or {}
    return [Fact(name, metrics.get(name), about.get(name, "")) for name in _MAIN_METRICS]


def clean(text: str) -> str:
    """Return the text with lone surrogates, which no file can hold, replaced by U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def plain(text: str) -> str:
    """Return text without line ends and signs that change how what stands around it is read."""
    return "".join(char if char.isprintable() else " " for char in clean(text))


@cache
def field_docstrings(kind: type) -> dict[str, str]:
    """Return the docstring under each field of a class, as one line; none without its source."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__[:-1]):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
        except (OSError, TypeError, SyntaxError):
            continue
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for field, below in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                match below:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        found[field.target.id] = " ".join(text.split())
                    case _:
                        pass
    return found


def _known(facts: Iterable[Fact]) -> list[Fact]:
    return [fact for fact in facts if fact.value is not None]


def _array(array: Any) -> str:
    shape = ", ".join(map(str, array.shape))
    text = f"[{shape}] {str(array.dtype).removeprefix('torch.')}"
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf" or array.size > _LARGE:
        return text
    numbers = array[np.isfinite(array)]
    return f"{text}, {as_text(numbers.min())} to {as_text(numbers.max())}" if len(numbers) else text


def _first(entries: Iterable[Any]) -> list[Any]:
    return [entry for entry, _ in zip(entries, range(_FEW), strict=False)]


def _several(shown: list[str], entries: Sized) -> str:
    more = len(entries) - len(shown)
    return _cut(", ".join(shown)) + (f", … ({len(entries):,} in all)" if more else "")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _escaped(text: str) -> str:
    return escape(plain(text), quote=True)
