"""Values brought to the types that the fields of a settings class have, or refused."""

import types
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, cast, get_args, get_origin, get_type_hints

import numpy as np

from probe_sae.errors import SettingsError


def take_types(settings: Any) -> None:
    """Bring the plain fields of a frozen dataclass to their types, numbers of numpy too.

    Fields of other types, which an architecture of one's own may have, are left alone; None stays
    where the type allows it.

    Raises:
        SettingsError: a value is of another type.
    """
    for field in fields(settings):
        if field.type in _PLAIN + _OPTIONAL:
            value = _as(field.type, field.name, getattr(settings, field.name))
            object.__setattr__(settings, field.name, value)


_PLAIN = (bool, str, int, float, tuple[int, ...], tuple[float, ...])
_OPTIONAL = (bool | None, str | None, int | None, float | None)


def typed(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values for the fields of a settings class, each of its field's type.

    Whole numbers may be written as 1e6, one number may stand for a list of one, and a list may come
    from JSON or TOML.

    Raises:
        SettingsError: a value is of another type.
    """
    wanted = get_type_hints(kind)
    return {name: _as(wanted[name], name, value) for name, value in values.items()}


def _as(kind: Any, name: str, value: Any) -> Any:
    if isinstance(value, np.generic):
        return _as(kind, name, value.item())
    if get_origin(kind) is types.UnionType:
        if value is None:
            return None
        kind = next(part for part in get_args(kind) if part is not types.NoneType)
    if get_origin(kind) is tuple:
        parts = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_as(get_args(kind)[0], name, part) for part in parts)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is str and isinstance(value, str):
        return value
    if kind is float and is_number:
        return value
    if kind is int and type(value) is int:
        return value
    if kind is int and is_number:
        number = float(cast(Any, value))
        if not number.is_integer():  # nor is what is not finite
            raise SettingsError(f"{name} is {value}; expected a whole number.")
        return int(number)
    words = {bool: "true or false", str: "a word", float: "a number", int: "a whole number"}
    raise SettingsError(f"{name} is {value!r}; expected {words.get(kind, kind)}.")
