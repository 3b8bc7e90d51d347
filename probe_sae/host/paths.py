"""Module paths with placeholders: counters (`{i}`) and names of other paths (`{block}`)."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from probe_sae.errors import FormatError, near
from probe_sae.host.hook_map import PathRule

PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Place:
    """A module of a model, and which of its kind it is."""

    path: str
    counters: Mapping[str, int]
    """Value of each counter, from 0."""


def places_of(
    rule: PathRule, modules: Mapping[str, nn.Module], paths: Mapping[str, list[Place]], family: str
) -> list[Place]:
    """Return every module that a path rule stands for, its counters counted from 0."""
    places: list[Place] = []
    for text, outer in filled(rule.at, paths, family):
        counters, pattern = _pattern(text)
        ranks: dict[tuple[str, ...], dict[str, int]] = {}
        for path, module in modules.items():
            match = pattern.fullmatch(path)
            if match is None or (rule.classes and type(module).__name__ not in rule.classes):
                continue
            numbers = dict(outer)
            values = [match[name] for name in counters]
            for depth, name in enumerate(counters):
                rank = ranks.setdefault(tuple(values[:depth]), {})
                numbers[name] = rank.setdefault(values[depth], len(rank))
            places.append(Place(path, numbers))
    return places


def _pattern(text: str) -> tuple[list[str], re.Pattern[str]]:
    """Return the counters in a path, and what it matches; a counter is a number such as 0 or 5b."""
    counters: list[str] = []
    pattern = ""
    for i, part in enumerate(PLACEHOLDER.split(text)):
        if i % 2 == 0:
            pattern += re.escape(part)
        elif part in counters:
            pattern += f"(?P={part})"
        else:
            counters.append(part)
            pattern += f"(?P<{part}>[0-9]+[a-z]?)"
    return counters, re.compile(pattern)


def filled(
    text: str, paths: Mapping[str, list[Place]], family: str
) -> Iterator[tuple[str, Mapping[str, int]]]:
    """Yield `text` with the names of paths filled in, once for every place of theirs."""
    names = [name for name in PLACEHOLDER.findall(text) if len(name) > 1]
    if not names:
        yield text.lstrip("."), {}
        return
    name = names[0]
    if name not in paths:
        raise FormatError(f"hook map {family}: {text!r} names no path.{near(name, paths)}")
    for place in paths[name]:
        for rest, counters in filled(text.replace(f"{{{name}}}", place.path), paths, family):
            merged = dict(place.counters) | dict(counters)
            if all(merged[key] == value for key, value in place.counters.items()):
                yield rest, merged


def numbered(pattern: str, counters: Mapping[str, int], family: str) -> str:
    """Return `pattern` with its counters' values in place.

    Raises:
        FormatError: it counts what is not counted.
    """
    try:
        return PLACEHOLDER.sub(lambda match: str(counters[match[1]]), pattern)
    except KeyError as problem:
        raise FormatError(
            f"hook map {family}: {pattern!r} counts {problem}, which its path does not."
        ) from problem


def numbered_by(pattern: str, numbers: tuple[int, ...]) -> str:
    """Return `pattern` with its counters' values in place, in their order."""
    values = iter(numbers)
    return PLACEHOLDER.sub(lambda _: str(next(values)), pattern)
