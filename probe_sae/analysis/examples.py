"""The firings that are shown: the strongest of each feature, some at random, some of each fifth."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis import choice_loops
from probe_sae.analysis.arrays import FIFTHS, RANDOM, TOP, Examples
from probe_sae.analysis.by_feature import ByFeature
from probe_sae.analysis.codes import Codes
from probe_sae.analysis.tally import Sample, Strongest

RANDOM_EXAMPLES = 40
FIFTH_EXAMPLES = 8

Place = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.int64]]
"""(context in the store, place in its document) -> index among the context's tokens or patches."""


@dataclass(frozen=True)
class Chosen:
    """Some firings, by feature, kind and rank."""

    feature: NDArray[np.int64]
    kind: NDArray[np.int64]
    rank: NDArray[np.int64]
    row: NDArray[np.int64]
    """Number in the store."""
    context: NDArray[np.int64]
    pos: NDArray[np.int64]
    value: NDArray[np.float32]


def sampled_firings(sample: Sample, codes: Codes) -> Chosen:
    """Return the whole sample, by feature, in its random order."""
    feature, rank = np.nonzero(sample.row >= 0)
    row = sample.row[feature, rank]
    kind = np.full(len(feature), RANDOM)
    return Chosen(feature, kind, rank, row, *_places(codes, row), sample.value[feature, rank])


def choose(strongest: Strongest, sample: Sample, codes: Codes) -> Chosen:
    """Return the firings to show of what a pass has kept.

    The strongest of a context each; the first of the sample; then, of each fifth of the sample from
    the weakest to the strongest, the first of those that are not shown yet.
    """
    feature, rank = np.nonzero(strongest.row >= 0)
    top = _Some(
        feature, np.full(len(feature), TOP), strongest.row[feature, rank],
        strongest.value[feature, rank],
    )  # fmt: skip
    some = _join(top, _random(sample))
    order = np.lexsort((-some.value, some.kind, some.feature))  # stable: equal ones as they came
    feature, kind = some.feature[order], some.kind[order]
    groups = feature * 8 + kind
    rank = np.arange(len(order)) - np.searchsorted(groups, groups)
    row = some.row[order]
    context, pos = _places(codes, row)
    return Chosen(feature, kind, rank, row, context, pos, some.value[order])


def with_surroundings(
    chosen: Chosen,
    codes: Codes,
    place: Place,
    numbers: NDArray[np.int64],
    losses: NDArray[np.float32],
) -> Examples:
    """Return the examples with every activation of the same feature in the same context.

    Args:
        chosen: the firings.
        codes: gone through once more.
        place: finds places within contexts.
        numbers: context in the store -> its number among the inputs kept, [contexts].
        losses: each firing's effect on the host's loss.
    """
    contexts = len(numbers)
    keys = chosen.feature * contexts + chosen.context
    wanted = np.unique(keys)
    key, pos, value = _around(wanted, codes, contexts)
    low = np.searchsorted(key, np.searchsorted(wanted, keys))
    lengths = np.searchsorted(key, np.searchsorted(wanted, keys), side="right") - low
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    source = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - low, lengths)
    around = np.repeat(chosen.context, lengths)
    return Examples(
        chosen.feature.astype(np.int32),
        chosen.kind.astype(np.uint8),
        chosen.rank.astype(np.int32),
        numbers[chosen.context].astype(np.int32),
        place(chosen.context, chosen.pos).astype(np.int32),
        chosen.value.astype(np.float32),
        offsets.astype(np.int64),
        place(around, pos[source]).astype(np.int32),
        value[source],
        losses,
    )


@dataclass(frozen=True)
class _Some:
    feature: NDArray[np.int64]
    kind: NDArray[np.int64]
    row: NDArray[np.int64]
    value: NDArray[np.float32]


def _join(*parts: _Some) -> _Some:
    columns = zip(*((p.feature, p.kind, p.row, p.value) for p in parts), strict=True)
    return _Some(*(np.concatenate(column) for column in columns))


def _random(sample: Sample) -> _Some:
    """Return the sample's first firings, and some of each fifth of its values from the others."""
    features, width = sample.row.shape
    there = sample.row >= 0
    kind = np.full((features, width), -1)
    kind[:, :RANDOM_EXAMPLES] = RANDOM
    by_value = np.argsort(np.where(there, sample.value, np.inf), axis=1, kind="stable")
    place = np.empty_like(by_value)
    np.put_along_axis(place, by_value, np.arange(width)[None], 1)
    fifth = place * len(FIFTHS) // np.maximum(1, there.sum(1, keepdims=True))
    for number, named in enumerate(FIFTHS):
        free = there & (fifth == number) & (kind < 0)
        kind[free & (np.cumsum(free, 1) <= FIFTH_EXAMPLES)] = named
    feature, at = np.nonzero(there & (kind >= 0))
    return _Some(feature, kind[feature, at], sample.row[feature, at], sample.value[feature, at])


def _places(codes: Codes, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return context and place of some rows of the store."""
    context, pos = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    for part in codes.rows_of_parts():
        at = np.searchsorted(part.row, rows)
        here = (at < len(part.row)) & (part.row[at.clip(0, max(0, len(part.row) - 1))] == rows)
        context[here], pos[here] = part.context[at[here]], part.pos[at[here]]
    return context, pos


def _around(
    wanted: NDArray[np.int64], codes: Codes, contexts: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return key, place and value of the firings of some features in some contexts.

    Args:
        wanted: feature * contexts + context, ascending.
        codes: where they are.
        contexts: number of contexts in the store.

    Returns:
        Keys are places in `wanted`, ascending; of equal ones, rows are.
    """
    features, context = np.divmod(wanted, contexts)
    starts = np.searchsorted(features, np.arange(codes.features + 1))
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
    for block in codes.blocks():
        firings = ByFeature.of(block, codes.features)
        found: dict[int, tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = {}

        def work(low: int, high: int, firings: ByFeature = firings, found: object = found) -> None:
            room = 1 << 14
            while True:
                lists = (
                    np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.float32)
                )  # fmt: skip
                block = firings.block
                count = choice_loops.list_around(
                    firings.starts, firings.row, firings.value, block.context, block.pos,
                    low, high, starts, context, *lists,
                )  # fmt: skip
                if count <= room:
                    found[low] = tuple(column[:count].copy() for column in lists)  # type: ignore[index]
                    return
                room = count

        firings.in_pieces(work)
        parts += [found[low] for low in sorted(found)]
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    key, pos, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(key, kind="stable")
    return key[order], pos[order], value[order]
