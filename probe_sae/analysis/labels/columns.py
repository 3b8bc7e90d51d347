"""What is known of places in the inputs, as columns that rules are made of.

Three kinds: a `Coded` column has one value a place (its token, its class), a `Window` several (the
tokens shortly before), and a test is true or false (in quotes, brighter than 0.4).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Value = str | list[str] | list[int]
"""What a coded column holds, as it stands in a rule: a text, a pair of texts, a row and column."""


@dataclass(frozen=True)
class Coded:
    """A column of one value a place."""

    codes: NDArray[np.int32]
    """[places] numbers from 0; -1 where the place has no value."""
    count: int
    """Number of different values."""
    value_of: Callable[[int], Value]
    """Code -> the value, as it is written in a rule."""
    code_of: Callable[[Any], int]
    """A value -> its code, -1 where no place has it."""
    most: int = 8
    """Values that a rule may list."""


@dataclass(frozen=True)
class Window:
    """A column of several values a place, those of another column at the places before."""

    codes: NDArray[np.int32]
    """[places, n] codes of `of`, each at most once a place; -1 fills up."""
    of: str
    """Name of the coded column whose values these are."""


@dataclass(frozen=True)
class Test:
    """A question with yes or no for an answer."""

    kind: str
    """`flag` or `number`."""
    column: str
    """Name of what is asked about."""
    wanted: bool
    """`flag`: the answer that fits; `number`: whether it must be at least `threshold` or under."""
    threshold: float = 0.0

    def rule(self) -> dict[str, Any]:
        """Return the test as a rule."""
        if self.kind == "flag":
            return {"kind": "flag", "column": self.column, "is": self.wanted}
        side = "at_least" if self.wanted else "below"
        return {"kind": "number", "column": self.column, side: self.threshold}


@dataclass(frozen=True)
class Columns:
    """Everything known of some places."""

    coded: Mapping[str, Coded]
    windows: Mapping[str, Window]
    flags: Mapping[str, NDArray[np.bool_]]
    """Name -> [places]."""
    numbers: Mapping[str, NDArray[np.float32]]
    """Name -> [places]."""
    thresholds: Mapping[str, tuple[float, ...]]
    """Name of a number -> where rules may cut it."""

    def tests(self) -> list[Test]:
        """Return every question that rules may ask."""
        flags = [Test("flag", name, wanted) for name in self.flags for wanted in (True, False)]
        cuts = [(name, cut) for name, cuts in self.thresholds.items() for cut in cuts]
        return flags + [
            Test("number", name, wanted, cut) for name, cut in cuts for wanted in (True, False)
        ]

    def answers(self, test: Test, places: NDArray[np.int64] | slice) -> NDArray[np.bool_]:
        """Tell at which of some places a test holds, [len(places)]."""
        if test.kind == "flag":
            return self.flags[test.column][places] == test.wanted
        return (self.numbers[test.column][places] >= np.float32(test.threshold)) == test.wanted


def coded_by_hash(
    hashes: NDArray[np.uint64],
    hash_of: Callable[[Any], int],
    value_at: Callable[[int], Value],
    has_value: NDArray[np.bool_] | None = None,
    most: int = 8,
) -> Coded:
    """Return a coded column from hashes of its values.

    Args:
        hashes: [places] hash of each place's value.
        hash_of: a value -> its hash.
        value_at: place -> its value.
        has_value: [places] where there is one; everywhere, unless given.
        most: values that a rule may list.
    """
    present = np.ones(len(hashes), np.bool_) if has_value is None else has_value
    places = np.flatnonzero(present)
    known, first, inverse = np.unique(hashes[places], return_index=True, return_inverse=True)
    codes = np.full(len(hashes), -1, np.int32)
    codes[places] = inverse

    def code_of(value: Any) -> int:
        wanted = np.uint64(hash_of(value))
        at = int(np.searchsorted(known, wanted))
        return at if at < len(known) and known[at] == wanted else -1

    def value_of(code: int) -> Value:
        return value_at(int(places[first[code]]))

    return Coded(codes, len(known), value_of, code_of, most)
