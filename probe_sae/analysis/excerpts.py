"""Pieces of text around a token, for a language model: what it learns from, and is asked about."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.contexts import TextInputs
from probe_sae.analysis.labels.rows import BackgroundRows, SampledFirings, is_scoring
from probe_sae.errors import SettingsError

BEFORE, AFTER = 24, 8
"""Tokens shown before and after the one in question."""
_LONGEST_PIECE = 256
"""Bytes of a token that are shown."""
_MARKS = str.maketrans({"⟦": "[", "⟧": "]"})


@dataclass(frozen=True)
class Excerpt:
    """A token and what stands around it."""

    before: str
    token: str
    after: str

    def marked(self) -> str:
        """Return the excerpt with the token between marks that occur nowhere else in it."""
        before, token, after = (
            part.translate(_MARKS) for part in (self.before, self.token, self.after)
        )
        return f"{before}⟦{token}⟧{after}"

    def cut(self) -> str:
        """Return the excerpt up to the token."""
        return self.before + self.token


@dataclass(frozen=True)
class Questions:
    """Excerpts with the truth about each, in random order."""

    excerpts: list[Excerpt]
    fires: NDArray[np.bool_]
    """[excerpts] whether the feature fires on the token."""
    context: NDArray[np.int64]
    """[excerpts]"""


def excerpts(inputs: TextInputs, context: NDArray[Any], position: NDArray[Any]) -> list[Excerpt]:
    """Return the text around some tokens.

    Args:
        inputs: the contexts.
        context: [tokens] index into them.
        position: [tokens] place in the context.
    """
    places = zip(context.tolist(), position.tolist(), strict=True)
    return [_excerpt(inputs, *place) for place in places]


def examples_of(
    feature: int,
    firings: SampledFirings,
    background: BackgroundRows,
    inputs: TextInputs,
    count: int,
    seed: int,
) -> tuple[list[Excerpt], list[Excerpt]]:
    """Return excerpts of the finding half in which a feature fires, and in which it does not.

    Half of the firings are the strongest of the sample, half are drawn; strongest first.
    """
    _check(inputs)
    generator = np.random.default_rng([seed, feature, 0])
    own = _firings_of(feature, firings, seed, scoring=False)
    own = own[np.argsort(-firings.value[own], kind="stable")]
    strongest, rest = own[: (count + 1) // 2], own[(count + 1) // 2 :]
    shown = np.concatenate([strongest, _some(rest, count - len(strongest), generator)])
    shown = shown[np.argsort(-firings.value[shown], kind="stable")]
    quiet = _some(_quiet_rows(feature, background, seed, scoring=False), count, generator)
    return (
        excerpts(inputs, firings.context[shown], firings.position[shown]),
        excerpts(inputs, background.context[quiet], background.position[quiet]),
    )


def questions_of(
    kind: str,
    feature: int,
    firings: SampledFirings,
    background: BackgroundRows,
    inputs: TextInputs,
    count: int,
    seed: int,
) -> Questions:
    """Return `count` firings and as many other rows of the scoring half, in random order.

    For `fuzzing` the other rows are of contexts in which the feature fires, where there are such.
    """
    _check(inputs)
    generator = np.random.default_rng([seed, feature, 1 + (kind == "fuzzing")])
    own = _firings_of(feature, firings, seed, scoring=True)
    quiet = generator.permutation(_quiet_rows(feature, background, seed, scoring=True))
    if kind == "fuzzing":
        is_near = np.isin(background.context[quiet], firings.context[own])
        quiet = quiet[np.argsort(~is_near, kind="stable")]
    own, quiet = _some(own, count, generator), quiet[:count]
    context = np.concatenate([firings.context[own], background.context[quiet]])
    position = np.concatenate([firings.position[own], background.position[quiet]])
    order = generator.permutation(len(context))
    return Questions(
        excerpts(inputs, context[order], position[order]),
        order < len(own),
        context[order],
    )


def _check(inputs: object) -> None:
    if not isinstance(inputs, TextInputs):
        raise SettingsError("a language model explains features of texts; these inputs are images.")


def _firings_of(
    feature: int, firings: SampledFirings, seed: int, scoring: bool
) -> NDArray[np.int64]:
    own = np.arange(*np.searchsorted(firings.feature, [feature, feature + 1]))
    return own[is_scoring(firings.context[own], seed) == scoring]


def _quiet_rows(
    feature: int, background: BackgroundRows, seed: int, scoring: bool
) -> NDArray[np.int64]:
    chosen = is_scoring(background.context, seed) == scoring
    chosen[background.row_of_entry()[background.feature == feature]] = False
    return np.flatnonzero(chosen)


def _some(
    places: NDArray[np.int64], count: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    return generator.permutation(places)[:count]


def _excerpt(inputs: TextInputs, context: int, position: int) -> Excerpt:
    start, stop = inputs.offsets[context : context + 2].tolist()
    at = start + position
    return Excerpt(
        _text(inputs, inputs.tokens[max(start, at - BEFORE) : at]),
        _text(inputs, inputs.tokens[at : at + 1]),
        _text(inputs, inputs.tokens[at + 1 : min(stop, at + 1 + AFTER)]),
    )


def _text(inputs: TextInputs, tokens: NDArray[np.int32]) -> str:
    special = set(inputs.special)
    pieces = [
        inputs.pieces[token][:_LONGEST_PIECE]
        for token in tokens.tolist()
        if token not in special and 0 <= token < len(inputs.pieces)
    ]
    return b"".join(pieces).decode("utf-8", "replace")
