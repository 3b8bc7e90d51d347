"""How often chance does as much: levels dealt anew within groups, and what is left of many tests.

Features whose answer is clear after the first deals are not dealt for again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import lgamma
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Statistic = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]
"""(levels, [deals, inputs]; numbers of features) -> [deals, features], large where strong."""
_CLEAR = 20
"""Deals that did as much, after which a feature is let go. Source: Besag and Clifford 1991."""
_MOST = 50
"""Rounds at most."""
_AT_ONCE = 100
_EQUAL = 1e-9
"""Share by which a deal may fall short and still be as much: sums are rounded."""


@dataclass(frozen=True)
class Design:
    """Which level and group each input has."""

    level: NDArray[np.int64]
    """[inputs] from 0."""
    group: NDArray[np.int64]
    """[inputs] from 0."""
    levels: int
    is_ordered: bool

    @property
    def groups(self) -> int:
        """Number of groups."""
        return int(self.group.max(initial=-1)) + 1

    @property
    def noise_freedom(self) -> int:
        """Degrees of freedom of what neither level nor group explains."""
        return len(self.level) - self.groups - len(np.unique(self.level)) + 1

    @property
    def lowest_p(self) -> float:
        """The lowest p that any values can have, however many deals.

        All deals of which one is as strong as the strongest; but names of levels that change
        places in all groups alike change nothing, nor does turning an order round.
        """
        sizes = np.bincount(self.group)
        deals = sum(lgamma(size + 1) for size in sizes)
        for group in range(len(sizes)):
            alike = np.bincount(self.level[self.group == group])
            deals -= sum(lgamma(count + 1) for count in alike)
        same = np.log(2) if self.is_ordered else lgamma(self.levels + 1)
        return float(min(1.0, np.exp(same - deals)))


def between_levels(
    values: NDArray[np.float64], level: NDArray[np.int64], levels: int
) -> NDArray[np.float64]:
    """Return the sum of squares between levels, [features], of values whose mean is 0.

    Args:
        values: [inputs, features].
        level: [inputs].
        levels: how many there are.
    """
    dealt = _one_hot(level[None], levels)
    return _between(dealt, values, np.bincount(level, minlength=levels))[0]


def permutation_p(
    values: NDArray[np.float64],
    ranks: NDArray[np.float64] | None,
    design: Design,
    *,
    permutations: int,
    tests: int,
    seed: int,
) -> NDArray[np.float64]:
    """Return for each feature how often chance does as much, [features].

    Levels are dealt anew within groups. `p` is of the sum of squares between levels; where the
    levels are ordered, twice the smaller of that and of the p of |Spearman's rho|, so that both a
    trend and a peak are seen. (1 + as strong) / (1 + deals), so never 0.

    Args:
        values: [inputs, features], the mean of each group taken from it.
        ranks: [inputs, features] standardised ranks of the values; None where levels have no order.
        design: levels and groups.
        permutations: deals of a round.
        tests: features that are tested in all: the more, the finer their p must be.
        seed: of the deals.
    """
    statistics: list[_Statistic] = []
    if design.noise_freedom > 0:
        sizes = np.bincount(design.level, minlength=design.levels)
        statistics.append(
            lambda level, some: _between(_one_hot(level, design.levels), values[:, some], sizes)
        )
    if ranks is not None:
        own = np.zeros(design.levels)
        own[design.level] = standard_ranks(design.level[:, None])[:, 0]
        statistics.append(lambda level, some: np.abs(own[level] @ ranks[:, some]))
    found = [
        _as_strong(statistic, values.shape[1], design, permutations, tests, seed)
        for statistic in statistics
    ]
    p = np.min([*found, np.ones(values.shape[1])], 0)
    return np.minimum(1, max(1, len(found)) * p)


def standard_ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return ranks down each column, ties sharing theirs, with mean 0 and length 1; 0 if equal."""
    from scipy.stats import rankdata

    ranks = rankdata(values, axis=0)
    ranks = ranks - ranks.mean(0)
    length = np.sqrt((ranks**2).sum(0))
    return ranks / np.where(length > 0, length, 1)


def benjamini_hochberg(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the false discovery rate at which each test would be taken, [tests].

    Source: Benjamini and Hochberg 1995.
    """
    from scipy.stats import false_discovery_control

    return np.asarray(false_discovery_control(p)) if len(p) else p


def deals(design: Design, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return levels dealt anew within groups, [count, inputs]."""
    base = np.argsort(design.group, kind="stable")
    keys = design.group + generator.random((count, len(design.group)))
    dealt = np.empty((count, len(base)), np.int64)
    dealt[:, base] = design.level[np.argsort(keys, axis=1)]
    return dealt


def _as_strong(
    statistic: _Statistic, count: int, design: Design, permutations: int, tests: int, seed: int
) -> NDArray[np.float64]:
    """Return how often deals have as large a statistic, [features]."""
    everything = np.arange(count)
    observed = statistic(design.level[None], everything)[0]
    bar = observed - _EQUAL * np.abs(observed) - 1e-300
    strong, dealt = np.zeros(count, np.int64), np.zeros(count, np.int64)
    wanted = min(_MOST * permutations, max(permutations, 40 * tests))
    generator = np.random.default_rng([seed, 11])
    active, done = everything, 0
    while done < wanted and len(active):
        size = min(_AT_ONCE, wanted - done)
        found = statistic(deals(design, size, generator), active)
        strong[active] += (found >= bar[active]).sum(0)
        dealt[active] += size
        done += size
        if done >= permutations:
            active = active[strong[active] < _CLEAR]
    return (1 + strong) / (1 + dealt)


def _one_hot(level: NDArray[np.int64], levels: int) -> NDArray[np.float64]:
    """Return [deals, levels, inputs] of 0 and 1."""
    return (level[:, None, :] == np.arange(levels)[None, :, None]).astype(np.float64)


def _between(
    dealt: NDArray[np.float64], values: NDArray[np.float64], sizes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the sum of squares between levels of each deal, [deals, features]."""
    count, levels, inputs = dealt.shape
    sums = (dealt.reshape(-1, inputs) @ values).reshape(count, levels, -1)
    return (sums**2 / np.maximum(1, sizes)[None, :, None]).sum(1)
