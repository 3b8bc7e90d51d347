"""The firings that are shown: the strongest of each feature, exactly, and a uniform sample."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.codes import Firings
from probe_sae.analysis.result import RANDOM, TOP, Examples


@dataclass(frozen=True)
class Chosen:
    """Some firings, sorted by feature and then by score, best first."""

    feature: NDArray[np.int64]
    score: NDArray[np.float64]
    context: NDArray[np.int64]
    pos: NDArray[np.int64]
    value: NDArray[np.float64]

    @classmethod
    def none(cls) -> "Chosen":
        """Return no firings."""
        whole, real = np.zeros(0, np.int64), np.zeros(0)
        return cls(whole, real, whole, whole, real)

    def best(self, count: int) -> "Chosen":
        """Return the `count` best of each feature; ties go to the earlier context and place."""
        order = np.lexsort((self.pos, self.context, -self.score, self.feature))
        feature = self.feature[order]
        rank = np.arange(len(feature)) - np.searchsorted(feature, feature)
        return self.take(order[rank < count])

    def take(self, places: NDArray[np.int64]) -> "Chosen":
        """Return the firings at some places."""
        made = (column[places] for column in self._columns())
        return Chosen(*made)

    def join(self, other: "Chosen") -> "Chosen":
        """Return the firings of both."""
        pairs = zip(self._columns(), other._columns(), strict=True)
        return Chosen(*(np.concatenate(pair) for pair in pairs))

    def _columns(self) -> tuple[NDArray[Any], ...]:
        return self.feature, self.score, self.context, self.pos, self.value


class Best:
    """The best firings of every feature, kept while blocks go by; memory is features x count."""

    def __init__(self, features: int, count: int) -> None:
        """Keep `count` firings of each of `features` features."""
        self._count, self._kept, self._pending = count, Chosen.none(), Chosen.none()
        self._limit = np.full(features, -np.inf)

    def add(self, candidates: Chosen) -> None:
        """Take in firings; those that cannot be among the best are dropped at once."""
        hopeful = np.flatnonzero(candidates.score >= self._limit[candidates.feature])
        self._pending = self._pending.join(candidates.take(hopeful))
        if len(self._pending.feature) > max(100_000, len(self._kept.feature)):
            self.result()

    def result(self) -> Chosen:
        """Return the best of what has been seen."""
        kept = self._kept.join(self._pending).best(self._count)
        self._kept, self._pending = kept, Chosen.none()
        rank = np.arange(len(kept.feature)) - np.searchsorted(kept.feature, kept.feature)
        full = rank == self._count - 1
        self._limit[kept.feature[full]] = kept.score[full]
        return kept


def strongest_of_contexts(block: Firings) -> Chosen:
    """Return, for each feature and context of a block of whole contexts, the strongest firing."""
    order = np.lexsort((block.pos, -block.value, block.context, block.feature))
    feature, context = block.feature[order], block.context[order]
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = (feature[1:] != feature[:-1]) | (context[1:] != context[:-1])
    at = order[first]
    value = block.value[at]
    return Chosen(block.feature[at], value, block.context[at], block.pos[at], value)


def lottery(block: Firings, seed: int) -> Chosen:
    """Return all firings, each with a random score that depends on seed, feature and row alone.

    The best of these are a uniform sample, whatever the blocks were.
    """
    mixed = block.feature.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= block.row.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed += np.uint64(seed * 0x165667B19E3779F9 & (2**64 - 1))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    score = (mixed ^ (mixed >> np.uint64(31))).astype(np.float64)
    return Chosen(block.feature, score, block.context, block.pos, block.value)


def with_surroundings(
    top: Chosen,
    random: Chosen,
    blocks: Iterator[Firings],
    contexts: int,
    place: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.int64]],
    numbers: NDArray[np.int64],
) -> Examples:
    """Return the examples with every activation of the same feature in the same context.

    Args:
        top: the strongest firings.
        random: the sample.
        blocks: the firings of the chosen contexts, once more.
        contexts: number of contexts in the store.
        place: (context, pos) -> index among the context's tokens or patches.
        numbers: context in the store -> its number among the inputs kept, [contexts].
    """
    by_value = np.lexsort((-random.value, random.feature))
    random = random.take(by_value)
    both = top.join(random)
    kind = np.repeat([TOP, RANDOM], [len(top.feature), len(random.feature)])
    ranks = [
        np.arange(len(part.feature)) - np.searchsorted(part.feature, part.feature)
        for part in (top, random)
    ]
    order = np.lexsort((np.concatenate(ranks), kind, both.feature))
    both, kind, rank = both.take(order), kind[order], np.concatenate(ranks)[order]
    keys = both.feature * contexts + both.context
    entry_key, entry_pos, entry_value, entry_context = _entries(np.unique(keys), blocks, contexts)
    low = np.searchsorted(entry_key, keys)
    lengths = np.searchsorted(entry_key, keys, side="right") - low
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    source = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - low, lengths)
    return Examples(
        both.feature.astype(np.int32),
        kind.astype(np.uint8),
        rank.astype(np.int32),
        numbers[both.context].astype(np.int32),
        place(both.context, both.pos).astype(np.int32),
        both.value.astype(np.float32),
        offsets.astype(np.int64),
        place(entry_context[source], entry_pos[source]).astype(np.int32),
        entry_value[source].astype(np.float32),
    )


def _entries(
    wanted: NDArray[np.int64], blocks: Iterator[Firings], contexts: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Return key, place, value, context of the firings of some (feature, context) pairs, sorted."""
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
    for block in blocks:
        keys = block.feature * contexts + block.context
        near = np.searchsorted(wanted, keys).clip(0, max(0, len(wanted) - 1))
        kept = wanted[near] == keys if len(wanted) else np.zeros(len(keys), dtype=np.bool_)
        parts.append((keys[kept], block.pos[kept], block.value[kept]))
    if not parts:
        none = np.zeros(0, np.int64)
        return none, none, np.zeros(0), none
    key, pos, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((pos, key))
    key = key[order]
    return key, pos[order], value[order], key % contexts
