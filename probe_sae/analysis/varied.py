"""Inputs that vary in one factor: what a feature does then is due to it, or to noise beside it.

Each level of the factor meets the same surroundings: the same templates, the same images. Inputs
that share their surroundings are a group, and levels are compared within groups.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from string import Formatter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.errors import SettingsError, near
from probe_sae.shown import Shown

KINDS = ("text", "image", "tensor")


@dataclass(frozen=True, repr=False)
class Varied(Shown):
    """Inputs and which level of the factor each has; `vary` and its kin make it."""

    kind: str
    """`text` (strings), `image` ([height, width, channels] uint8) or `tensor` (as a model takes it,
    without the batch axis)."""
    factor: str
    levels: tuple[Any, ...]
    inputs: tuple[Any, ...]
    level: NDArray[np.int64]
    """[inputs] index into `levels`."""
    group: NDArray[np.int64]
    """[inputs] the template or image that each was made from."""
    is_ordered: bool
    """Whether the levels go from little to much."""
    spans: tuple[tuple[int, int], ...] | None = None
    """Text: first and last character, plus one, of the factor in each input."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SettingsError(f"kind is {self.kind!r}; expected {', '.join(KINDS)}.")
        sizes = {len(self.inputs), len(self.level), len(self.group)}
        if len(sizes) > 1 or (self.spans is not None and len(self.spans) != len(self.inputs)):
            raise SettingsError("inputs, level, group and spans must be of one length.")
        if len(self.levels) < 2:
            raise SettingsError(f"{self.factor} has {len(self.levels)} level; expected at least 2.")
        if set(self.level.tolist()) - set(range(len(self.levels))):
            raise SettingsError(f"a level is none of the {len(self.levels)} of {self.factor}.")

    def __len__(self) -> int:
        """Number of inputs."""
        return len(self.inputs)

    def __repr__(self) -> str:
        groups = len(set(self.group.tolist()))
        order = " in order" if self.is_ordered else ""
        return (
            f"Varied({len(self)} {self.kind}s: {len(self.levels)} levels of {self.factor}{order} "
            f"in {groups} surroundings)"
        )


def vary(template: str | Sequence[str], **slots: Iterable[Any]) -> Varied:
    """Return texts that differ in one factor, in each of several surroundings.

    `vary("The {animal} sat on the {thing}.", animal=["cat", "dog"], thing=["mat", "sofa"])`: the
    first slot named is the factor. Templates, and all values of the other slots, are its
    surroundings: paraphrases that tell the factor's effect from that of a single wording.

    Args:
        template: texts with slots in braces, as for `str.format`; `{n:03d}` works, `{{` is a brace.
        slots: values of each slot. Levels that are all numbers are ordered, smallest first.

    Raises:
        SettingsError: a slot has no values or is in no template, the factor is not in each
            template, or has fewer than two levels.
    """
    templates = [template] if isinstance(template, str) else list(template)
    values = {name: _values(name, given) for name, given in slots.items()}
    if not templates or not values:
        raise SettingsError("expected a template and at least one slot, such as n=range(1, 20).")
    _check_slots(templates, values)
    factor, *others = values
    levels, is_ordered = _levels(factor, values[factor])
    texts: list[str] = []
    spans: list[tuple[int, int]] = []
    level: list[int] = []
    group: list[int] = []
    number = 0
    for one in templates:
        used = [name for name in others if name in _slots(one)]
        for beside in product(*(values[name] for name in used)):
            for i, value in enumerate(levels):
                filled = dict(zip(used, beside, strict=True)) | {factor: value}
                text, span = _filled(one, filled, factor)
                texts.append(text)
                spans.append(span)
                level.append(i)
                group.append(number)
            number += 1
    return Varied(
        "text",
        factor,
        levels,
        tuple(texts),
        np.array(level, np.int64),
        np.array(group, np.int64),
        is_ordered,
        tuple(spans),
    )


def vary_tensors(
    tensors: Tensor | Sequence[Tensor],
    change: Callable[[Tensor, Any], Tensor],
    levels: Iterable[Any],
    *,
    factor: str = "level",
) -> Varied:
    """Return tensors that a function changes by each level, for a model that takes tensors.

    Args:
        tensors: inputs without the batch axis; or with it, [inputs, ...].
        change: (tensor, level) -> tensor of the same shape.
        levels: of the factor; numbers are ordered, smallest first.
        factor: what to call it.

    Raises:
        SettingsError: there are fewer than two levels, or no tensors.
    """
    originals = list(tensors)
    if not originals:
        raise SettingsError("there is no tensor to vary.")
    known, is_ordered = _levels(factor, _values(factor, levels))
    made = [change(tensor.clone(), value) for tensor in originals for value in known]
    return crossed("tensor", factor, known, made, is_ordered)


def crossed(
    kind: str, factor: str, levels: tuple[Any, ...], made: Sequence[Any], is_ordered: bool
) -> Varied:
    """Return inputs that were made of one original after the other, each at every level."""
    number = np.arange(len(made))
    group, level = np.divmod(number, len(levels))
    return Varied(kind, factor, levels, tuple(made), level, group, is_ordered)


def ordered_levels(factor: str, levels: Iterable[Any]) -> tuple[tuple[Any, ...], bool]:
    """Return distinct levels, sorted where they are numbers, and whether they are."""
    return _levels(factor, _values(factor, levels))


def _levels(factor: str, values: list[Any]) -> tuple[tuple[Any, ...], bool]:
    if len(values) < 2:
        raise SettingsError(f"{factor} has {len(values)} level; expected at least 2.")
    are_numbers = all(
        isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
        for value in values
    )
    return tuple(sorted(values) if are_numbers else values), are_numbers


def _values(name: str, given: Iterable[Any]) -> list[Any]:
    values = [given] if isinstance(given, str) else list(given)
    if not values:
        raise SettingsError(f"slot {name} has no values.")
    if len(set(map(repr, values))) < len(values):
        raise SettingsError(f"slot {name} has a value twice.")
    return values


def _slots(template: str) -> set[str]:
    """Return the names of a template's slots.

    Raises:
        SettingsError: it is no template.
    """
    try:
        return {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    except ValueError as problem:
        raise SettingsError(f"{template!r} is no template: {problem}.") from problem


def _check_slots(templates: list[str], values: Mapping[str, list[Any]]) -> None:
    factor = next(iter(values))
    for template in templates:
        slots = _slots(template)
        if factor not in slots:
            raise SettingsError(f"{template!r} has no slot {{{factor}}}, which is the factor.")
        for name in slots:
            if name not in values:
                raise SettingsError(
                    f"{template!r} has a slot {{{name}}} without values.{near(name, values)}"
                )
    for name in values:
        if not any(name in _slots(template) for template in templates):
            raise SettingsError(f"no template has a slot {{{name}}}.")


def _filled(template: str, values: Mapping[str, Any], factor: str) -> tuple[str, tuple[int, int]]:
    """Return the text, and from where to where the factor (its last place) stands in it."""
    text, span = "", (0, 0)
    formatter = Formatter()
    for literal, name, form, conversion in formatter.parse(template):
        text += literal
        if name is None:
            continue
        value = formatter.convert_field(values[name], conversion or None)
        try:
            made = formatter.format_field(value, form or "")
        except (ValueError, TypeError) as problem:
            raise SettingsError(f"{template!r} cannot show {value!r}: {problem}.") from problem
        if name == factor:
            span = (len(text), len(text) + len(made))
        text += made
    return text, span
