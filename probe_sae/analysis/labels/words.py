"""Rules in words that a person reads: short, one line, every odd character as a sign."""

import unicodedata
from collections.abc import Callable
from typing import Any

from probe_sae.analysis.contexts import visible
from probe_sae.analysis.labels.rules import Rule

LONGEST_LABEL = 120
"""Characters of a label."""
LONGEST_VALUE = 24
"""Characters of a token or class shown in it."""
_SHOWN = 4
"""Values that a label lists."""

_LEADS = {
    "token": ("token ", "tokens "),
    "exact token": ("exactly ", "exactly "),
    "token before": ("after ", "after "),
    "token after": ("before ", "before "),
    "word so far": ("word so far ", "word so far "),
    "line's first token": ("on a line that starts with ", "on a line that starts with "),
}
_NUMBERS: dict[str, tuple[Callable[[float], str], Callable[[float], str]]] = {
    "position": (
        lambda n: "first token" if n <= 1 else f"first {n:g} tokens",
        lambda n: f"after the first {n:g} tokens" if n > 1 else "not the first token",
    ),
    "place in the line": (
        lambda n: "line start" if n <= 1 else f"first {n:g} tokens of a line",
        lambda n: f"after the first {n:g} tokens of a line" if n > 1 else "not at a line start",
    ),
    "indentation": (
        lambda n: "not indented" if n <= 1 else f"indented by less than {n:g}",
        lambda n: "indented" if n <= 1 else f"indented by {n:g} or more",
    ),
    "brackets open": (
        lambda n: "outside brackets" if n <= 1 else f"in less than {n:g} brackets",
        lambda n: "in brackets" if n <= 1 else f"in {n:g} or more brackets",
    ),
    "row": (
        lambda n: "top row" if n <= 1 else f"top {n:g} rows",
        lambda n: "under the top row" if n <= 1 else f"under the top {n:g} rows",
    ),
    "column": (
        lambda n: "left column" if n <= 1 else f"left {n:g} columns",
        lambda n: "right of the left column" if n <= 1 else f"right of the left {n:g} columns",
    ),
    "brightness": (
        lambda n: f"dark (under {n:g})" if n <= 0.5 else f"not bright (under {n:g})",
        lambda n: f"bright ({n:g} or more)" if n >= 0.5 else f"not dark ({n:g} or more)",
    ),
}
"""Name -> how `below` and `at_least` read."""


def describe(rule: Rule) -> str:
    """Return a rule in words, at most `LONGEST_LABEL` characters on one line."""
    return clip(_described(rule), LONGEST_LABEL)


def _described(rule: Rule) -> str:
    if rule["kind"] == "all":
        return ", ".join(_described(part) for part in rule["parts"])
    if rule["kind"] == "flag":
        name = plain(rule["column"])
        return name if rule.get("is", True) else f"not {name}"
    if rule["kind"] == "number":
        return _number(rule)
    return _values(rule["column"], rule["values"])


def _number(rule: Rule) -> str:
    column = rule["column"]
    is_floor = "at_least" in rule
    bound = rule["at_least" if is_floor else "below"]
    if column in _NUMBERS:
        return _NUMBERS[column][is_floor](bound)
    if column.startswith("brightness "):
        side = column.removeprefix("brightness ").replace("of the image", "image")
        tone = _NUMBERS["brightness"][is_floor](bound)
        return f"{side}: {tone}"
    return f"{plain(column)} {bound:g} or more" if is_floor else f"{plain(column)} under {bound:g}"


def _values(column: str, values: list[Any]) -> str:
    if column == "pair":
        return listed([f"{quoted(value[1])} after {quoted(value[0])}" for value in values])
    if column == "class":
        return "class " + listed([plain(str(value)) for value in values])
    if column == "patch":
        return grid_places(values)
    if column.startswith("end of"):
        return "ends in " + listed([f"-{plain(value)}" for value in values])
    if column.startswith("beginning of"):
        return "begins with " + listed([f"{plain(value)}-" for value in values])
    if column.startswith("within"):
        far = column.removeprefix("within ")
        return f"within {far} tokens after " + listed([quoted(value) for value in values])
    return _LEADS[column][len(values) > 1] + listed([quoted(value) for value in values])


def grid_places(places: list[list[int]]) -> str:
    """Return places on a grid, [row, column] from 0, in words that count from 1."""
    rows: dict[int, list[int]] = {}
    for y, x in places:
        rows.setdefault(y, []).append(x)
    return listed([f"row {y + 1} column {_runs(sorted(rows[y]))}" for y in sorted(rows)])


def _runs(numbers: list[int]) -> str:
    """Return numbers from 0 as counted from 1, those in a row as `2-4`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return "+".join(f"{a + 1}" if a == b else f"{a + 1}-{b + 1}" for a, b in runs)


def listed(items: list[str]) -> str:
    """Return a few items as a phrase: `a, b or c`, `a, b, c, d or 3 more`."""
    shown = items if len(items) <= _SHOWN + 1 else items[:_SHOWN]
    if len(shown) < len(items):
        return f"{', '.join(shown)} or {len(items) - len(shown)} more"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"


def quoted(text: str) -> str:
    """Return a text in quotes as a label shows it."""
    return f'"{plain(text)}"'


def plain(text: str, longest: int = LONGEST_VALUE) -> str:
    """Return a text on one line, without a character that could act on what shows it.

    Spaces at the ends and line ends are signs, as everywhere; control characters have the signs
    that Unicode has for them; others that are invisible, lone halves of characters, and marks that
    turn the direction of writing become U+FFFD.
    """
    return "".join(_sign(char) for char in visible(clip(text, longest)))


def clip(text: str, longest: int) -> str:
    """Return a text of at most so many characters; one that was cut ends in an ellipsis."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _sign(char: str) -> str:
    if ord(char) < 0x20:
        return chr(0x2400 + ord(char))
    if char == "\x7f":
        return "\u2421"
    kind = unicodedata.category(char)
    if kind == "Zs" and char != " ":
        return "␣"
    return "\ufffd" if kind[0] == "C" or kind in ("Zl", "Zp") else char
