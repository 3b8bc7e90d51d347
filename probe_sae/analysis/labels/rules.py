"""Rules that say where a feature fires: plain dictionaries, written to JSON and applied again.

`{"kind": "values", "column": "token", "values": ["buffer"]}`: the token is one of these.
`{"kind": "flag", "column": "in quotes", "is": true}`: yes, or no.
`{"kind": "number", "column": "position", "below": 1}`: under, or `"at_least"`.
`{"kind": "all", "parts": [rule, rule]}`: all of these hold.
"""

import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.contexts import ImageInputs, TextInputs
from probe_sae.analysis.labels.columns import Columns, Test
from probe_sae.analysis.labels.image_columns import image_columns
from probe_sae.analysis.labels.text_columns import text_columns
from probe_sae.errors import SettingsError, ShapeError, near

Rule = Mapping[str, Any]
"""A rule, as above."""

_DEEPEST = 4
"""How deep `all` may be nested."""


def rule_matches(
    rule: Rule,
    inputs: TextInputs | ImageInputs,
    context: NDArray[np.int64],
    position: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Tell where a rule holds, [places].

    Args:
        rule: a rule.
        inputs: the texts or images.
        context: which of them each place is in, [places].
        position: token, or y * grid width + x, [places].

    Raises:
        SettingsError: the rule is none, or names a column that there is not.
        ShapeError: a place is outside the inputs.
    """
    columns = columns_of(inputs, context, position)
    return matches(rule, columns, np.arange(len(context)))


def columns_of(
    inputs: TextInputs | ImageInputs, context: NDArray[np.int64], position: NDArray[np.int64]
) -> Columns:
    """Return what is known of some places.

    Raises:
        ShapeError: a place is outside the inputs.
    """
    is_text = isinstance(inputs, TextInputs)
    count = len(inputs.offsets) - 1 if is_text else len(inputs.thumbnails)
    if len(context) != len(position):
        raise ShapeError(f"{len(context)} contexts, but {len(position)} positions.")
    if len(context) and not (context.min() >= 0 and context.max() < count):
        raise ShapeError(f"rows lie in contexts up to {context.max()}, but there are {count}.")
    context, position = context.astype(np.int64), position.astype(np.int64)
    if not is_text:
        return image_columns(inputs, context, position)
    lengths = np.diff(inputs.offsets)[context]
    outside = np.flatnonzero((position < 0) | (position >= lengths))
    if len(outside):
        first = outside[0]
        raise ShapeError(
            f"position {position[first]} of context {context[first]} is beyond its "
            f"{lengths[first]} tokens."
        )
    return text_columns(inputs, context, position)


def matches(rule: Rule, columns: Columns, places: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell at which of some places of columns a rule holds, [len(places)].

    Raises:
        SettingsError: the rule is none, or names a column that there is not.
    """
    return _matches(rule, columns, places, 0)


def _matches(
    rule: Rule, columns: Columns, places: NDArray[np.int64], depth: int
) -> NDArray[np.bool_]:
    kind = rule.get("kind") if isinstance(rule, Mapping) else None  # pyright: ignore[reportUnnecessaryIsInstance]
    if kind == "values":
        return _has_value(rule, columns, places)
    if kind == "flag":
        flag = _named(columns.flags, rule, "flag")
        return flag[places] == bool(rule.get("is", True))
    if kind == "number":
        return _compared(rule, columns, places)
    parts = rule.get("parts") if kind == "all" else None
    if not isinstance(parts, list) or not parts or depth >= _DEEPEST:
        raise SettingsError(
            f"{reprlib.repr(rule)} is no rule: its kind is values, flag, number, or all with parts."
        )
    holds = np.ones(len(places), np.bool_)
    for part in parts:
        holds &= _matches(part, columns, places, depth + 1)
    return holds


def _has_value(rule: Rule, columns: Columns, places: NDArray[np.int64]) -> NDArray[np.bool_]:
    found = _named({**columns.coded, **columns.windows}, rule, "column of values")
    coded = columns.coded[found.of] if not hasattr(found, "code_of") else found
    values = rule.get("values")
    if not isinstance(values, list):
        raise SettingsError(f"a rule about {rule['column']!r} needs a list `values`.")
    codes = found.codes[places]
    holds = np.zeros(codes.shape, np.bool_)
    for value in values:
        try:
            code = coded.code_of(value)
        except (TypeError, ValueError, IndexError, AttributeError) as problem:
            raise SettingsError(
                f"{reprlib.repr(value)} is no value of {rule['column']!r}."
            ) from problem
        if code >= 0:
            holds |= codes == code
    return holds if holds.ndim == 1 else np.logical_or.reduce(holds, axis=1)


def _compared(rule: Rule, columns: Columns, places: NDArray[np.int64]) -> NDArray[np.bool_]:
    _named(columns.numbers, rule, "number")
    sides = [side for side in ("below", "at_least") if side in rule]
    if len(sides) != 1 or not isinstance(rule[sides[0]], int | float):
        raise SettingsError(
            f"a rule about {rule['column']!r} needs a number `below` or `at_least`."
        )
    wanted = sides[0] == "at_least"
    return columns.answers(Test("number", rule["column"], wanted, float(rule[sides[0]])), places)


def _named(table: Mapping[str, Any], rule: Rule, what: str) -> Any:
    name = rule.get("column")
    if not isinstance(name, str) or name not in table:
        raise SettingsError(
            f"these inputs have no {what} {name!r:.100}; there are {', '.join(table)}."
            f"{near(str(name), table)}"
        )
    return table[name]
