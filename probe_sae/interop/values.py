"""Words and numbers of other libraries' files, each checked: JSON has Infinity and NaN as well."""

import math
from typing import Any

from probe_sae.errors import FormatError


def word(value: Any, name: str) -> str:
    """Return a word from a configuration.

    Raises:
        FormatError: it is none.
    """
    if not isinstance(value, str):
        raise FormatError(f"{name} is {value!r:.60}, expected a word.")
    return value


def number(value: Any, name: str) -> float:
    """Return a finite number from a configuration.

    Raises:
        FormatError: it is none.
    """
    try:
        if not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value):
            return float(value)
    except OverflowError:  # a whole number too large for a float
        pass
    raise FormatError(f"{name} is {value!r:.60}, expected a finite number.")


def positive(value: Any, name: str) -> float:
    """Return a finite number over 0 from a configuration.

    Raises:
        FormatError: it is none.
    """
    found = number(value, name)
    if found <= 0:
        raise FormatError(f"{name} is {found}, expected a number over 0.")
    return found


def whole(value: Any, name: str) -> int:
    """Return a whole number from a configuration.

    Raises:
        FormatError: it is none.
    """
    is_whole = value.is_integer() if isinstance(value, float) else isinstance(value, int)
    if isinstance(value, bool) or not is_whole:
        raise FormatError(f"{name} is {value!r:.60}, expected a whole number.")
    return int(value)
