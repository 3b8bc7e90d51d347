"""Whole numbers written as formulas over a model's config, such as `n_inner | 4*n_embd`.

Grammar, no code: alternatives `|` (the first whose names the config has), sums `+`, products `*`;
a factor is a number, a config entry (`vision_config.hidden_size`), one entry of a list
(`hidden_sizes[s]`) or a power (`2^s`), where one-letter names are counters of blocks and stages.
"""

import re
from collections.abc import Mapping
from typing import Any

_FACTOR = re.compile(r"([0-9]{1,9})(?:\^([a-z]))?|([A-Za-z_][\w.]*)(?:\[([a-z])\])?")


def config_number(formula: str, config: Any, counters: Mapping[str, int]) -> int | None:
    """Return the formula's value; None where the config lacks what each alternative needs.

    Args:
        formula: see above; empty gives None.
        config: any object with attributes, or None.
        counters: value of each one-letter name.
    """
    for alternative in formula.split("|"):
        value = _sum(alternative, config, counters)
        if value is not None:
            return value
    return None


def is_formula(text: str) -> bool:
    """Tell whether `text` keeps the grammar."""
    return all(
        _FACTOR.fullmatch(factor.strip())
        for alternative in text.split("|")
        for term in alternative.split("+")
        for factor in term.split("*")
    )


def config_entry(config: Any, name: str) -> Any:
    """Return the entry at a dotted name; None where there is none."""
    for part in name.split("."):
        config = getattr(config, part, None)
    return config


def _sum(text: str, config: Any, counters: Mapping[str, int]) -> int | None:
    total = 0
    for term in text.split("+"):
        product = 1
        for factor in term.split("*"):
            value = _factor(factor.strip(), config, counters)
            if value is None:
                return None
            product *= value
        total += product
    return total


def _factor(text: str, config: Any, counters: Mapping[str, int]) -> int | None:
    match = _FACTOR.fullmatch(text)
    if match is None:
        return None
    number, power, name, index = match.groups()
    if number is not None:
        exponent = counters.get(power, 99) if power else 1
        return int(number) ** exponent if exponent < 32 else None
    value = config_entry(config, name)
    if index is not None:
        place = counters.get(index, -1)
        is_there = isinstance(value, (list, tuple)) and 0 <= place < len(value)
        value = value[place] if is_there else None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
