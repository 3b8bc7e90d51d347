"""Synthetic worlds: rows that are sums of directions which are known, to see what is found again.

Sampling costs what fires, not what could: a feature's next firing is drawn, not every row's coin.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

from probe_sae.errors import SettingsError
from probe_sae.shown import Fact, Shown, field_docstrings

_CHUNK_ROWS = 8192
"""Rows that one seed draws."""


@dataclass(frozen=True)
class WorldSettings:
    """What a world is like; the defaults are a small one in superposition."""

    features: int = 1024
    """Number of true directions."""
    d_model: int = 128
    """Length of a row."""
    l0: float = 8.0
    """Mean number of them on a row, before trees and exclusion make it smaller."""
    zipf: float = 0.75
    """Exponent: the i-th commonest fires i^-zipf as often as the first."""
    commonest: float = 0.25
    """Largest rate of all."""
    grouped: float = 0.5
    """Share of the features outside trees that fire only in groups, each when its gate is open."""
    group: int = 8
    """Features of a group."""
    roots: int = 0
    """Number of trees: a feature in a tree fires only where its parent does."""
    branching: int = 4
    """Children of a node."""
    depth: int = 3
    """Levels of a tree below its root."""
    is_exclusive: bool = False
    """Whether of the children of a node at most one fires."""
    strengths: tuple[float, float] = (1.0, 1.0)
    """Mean strength of the commonest and of the rarest; between them it falls evenly."""
    spread: float = 0.25
    """Standard deviation of strengths; they are not negative."""
    noise: float = 0.01
    """Standard deviation of what is added to each dimension."""
    offset: float = 0.0
    """Length of what is added to all rows."""
    seed: int = 0
    """Of directions, rates and trees. They are drawn by numpy, a dictionary's weights by torch:
    equal seeds have nothing in common."""

    def __post_init__(self) -> None:
        for name in ("features", "d_model", "group", "branching"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; expected at least 1.")
        for name in ("grouped", "commonest"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; expected 0 to 1.")
        for name in ("roots", "depth", "noise", "spread", "offset", "seed", "zipf"):
            if getattr(self, name) < 0:
                raise SettingsError(f"{name} is {getattr(self, name)}; expected at least 0.")
        if not 0 < self.l0 <= self.features * self.commonest:
            raise SettingsError(
                f"l0 is {self.l0}; {self.features} features that fire at most {self.commonest:g} "
                f"of the time give up to {self.features * self.commonest:g}."
            )
        if self.in_trees > self.features:
            raise SettingsError(
                f"{self.roots} trees of {self.branching} children down to depth {self.depth} have "
                f"{self.in_trees} nodes; there are {self.features} features."
            )

    @property
    def in_trees(self) -> int:
        """Number of features that belong to a tree."""
        return self.roots * sum(self.branching**level for level in range(self.depth + 1))


def like_synthsaebench(seed: int = 0) -> WorldSettings:
    """Return a world of the shape of SynthSAEBench-16k, but for its correlations of rank 25.

    Source: Chanin et al. 2026, "SynthSAEBench".
    """
    return WorldSettings(
        features=16_384,
        d_model=768,
        l0=68.0,  # of which trees and exclusion leave half
        zipf=0.5,
        commonest=0.4,
        grouped=0.0,
        roots=128,
        is_exclusive=True,
        strengths=(5.0, 4.0),
        spread=0.5,
        noise=0.0,
        offset=0.5,
        seed=seed,
    )


class Firings(NamedTuple):
    """Which true features fire, and how strongly; sorted by row."""

    starts: NDArray[np.int64]
    """[rows + 1] where the firings of each row start."""
    features: NDArray[np.int64]
    """[firings]"""
    strengths: NDArray[np.float32]
    """[firings]"""


class World(Shown):
    """Rows whose dictionary is known; also a stream to train on."""

    def __init__(self, settings: WorldSettings | None = None, rows: int = 1_000_000) -> None:
        """Draw directions, rates and trees.

        Args:
            settings: what the world is like.
            rows: of an epoch; every epoch's are new.
        """
        self.settings = settings = settings or WorldSettings()
        self.row_count, self.widths = rows, (settings.d_model,)
        generator = np.random.default_rng([settings.seed, 77])
        drawn = generator.standard_normal((settings.features, settings.d_model))
        self.directions: Tensor = normalize(torch.from_numpy(drawn).float(), dim=1)
        """[features, d_model], of length 1."""
        self._offset = torch.from_numpy(generator.standard_normal(settings.d_model)).float()
        self._offset *= settings.offset / self._offset.norm()
        self._nodes = _grown(settings, generator)
        self.rates: NDArray[np.float64] = self._nodes.rates()
        """[features] how often each fires, exactly."""

    def _facts(self) -> list[Fact]:
        about = field_docstrings(WorldSettings)
        known = [Fact(name, value, about[name]) for name, value in vars(self.settings).items()]
        return [*known, Fact("directions", self.directions)]

    def firings(self, count: int, seed: int) -> Firings:
        """Return what fires on so many rows; the same for the same seed.

        Args:
            count: number of rows.
            seed: of these rows alone.
        """
        from probe_sae.recording.synthetic_loops import fire  # compiles

        generator = np.random.default_rng([self.settings.seed, 78, seed])
        nodes = self._nodes
        features, rows = fire(
            generator, count, nodes.roots, nodes.chances, nodes.features, nodes.children_start,
            nodes.children, self.settings.is_exclusive,
        )  # fmt: skip
        order = np.argsort(rows, kind="stable")
        rows, features = rows[order], features[order]
        starts = np.searchsorted(rows, np.arange(count + 1))
        first, last = self.settings.strengths
        mean = first + (last - first) * nodes.ranks[features] / max(1, self.settings.features - 1)
        strengths = mean + self.settings.spread * generator.standard_normal(len(features))
        return Firings(starts, features, np.abs(strengths).astype(np.float32))

    def rows(self, firings: Firings, seed: int) -> Tensor:
        """Return the rows that belong to firings, [rows, d_model], noise drawn from a seed."""
        rows = embedding_bag(
            torch.from_numpy(firings.features),
            self.directions,
            torch.from_numpy(firings.starts[:-1]),
            mode="sum",
            per_sample_weights=torch.from_numpy(firings.strengths),
        )
        if self.settings.noise:
            generator = torch.Generator().manual_seed(1_000_003 * (self.settings.seed + 1) + seed)
            rows += self.settings.noise * torch.randn(rows.shape, generator=generator)
        return rows.add_(self._offset)

    def epoch(self, number: int, batch: int, start: int = 0) -> Iterator[Tensor]:
        """Yield [batch, d_model] tensors; see `Stream.epoch`."""
        skip, held = start * batch, torch.zeros(0, self.settings.d_model)
        for chunk in range(skip // _CHUNK_ROWS, -(-self.row_count // _CHUNK_ROWS)):
            begin = chunk * _CHUNK_ROWS
            rows = self._drawn(min(_CHUNK_ROWS, self.row_count - begin), number, chunk)
            held = torch.cat([held, rows[max(0, skip - begin) :]])
            while len(held) >= batch:
                yield held[:batch]
                held = held[batch:]
        if len(held):
            yield held

    def sample(self, count: int) -> Tensor:
        """Return rows that no epoch holds, [rows, d_model] float32."""
        parts = [
            self._drawn(min(_CHUNK_ROWS, count - begin), 1 << 20, begin // _CHUNK_ROWS)
            for begin in range(0, count, _CHUNK_ROWS)
        ]
        return torch.cat(parts)

    def _drawn(self, count: int, epoch: int, chunk: int) -> Tensor:
        seed = (epoch << 24) + chunk
        return self.rows(self.firings(count, seed), seed)


class _Nodes(NamedTuple):
    """What can fire: features, and gates that open for a group of them."""

    chances: NDArray[np.float64]
    """[nodes] of firing; where there is a parent, given that it fires."""
    features: NDArray[np.int64]
    """[nodes] number of the feature; -1 for a gate."""
    roots: NDArray[np.int64]
    """Nodes without a parent."""
    children_start: NDArray[np.int64]
    """[nodes + 1]"""
    children: NDArray[np.int64]
    """Nodes below each, one list after the other."""
    ranks: NDArray[np.int64]
    """[features] 0 for the commonest."""

    def rates(self) -> NDArray[np.float64]:
        """Return how often each feature fires."""
        rates = np.zeros(len(self.ranks))
        waiting: list[tuple[int, float]] = [(int(node), 1.0) for node in self.roots]
        while waiting:
            node, of_parent = waiting.pop()
            rate = of_parent * float(self.chances[node])
            if self.features[node] >= 0:
                rates[self.features[node]] = rate
            below = self.children[self.children_start[node] : self.children_start[node + 1]]
            waiting += [(int(child), rate) for child in below]
        return rates


def _grown(settings: WorldSettings, generator: np.random.Generator) -> _Nodes:
    """Arrange features, commonest first, into trees, groups and such as fire alone."""
    count = settings.features
    wanted = (np.arange(count) + 1.0) ** -settings.zipf
    for _ in range(60):  # to the wanted mean under the cap
        wanted = np.minimum(wanted * settings.l0 / wanted.sum(), settings.commonest)
    below: list[list[int]] = [[] for _ in range(count)]
    parent = np.full(count, -1)
    rate = wanted.tolist()
    for node in range(settings.roots, settings.in_trees):
        above = (node - settings.roots) // settings.branching
        below[above].append(node)
        parent[node] = above
    alone = generator.permutation(np.arange(settings.in_trees, count))
    grouped = np.sort(alone[: round(len(alone) * settings.grouped)])
    for start in range(0, len(grouped) - settings.group + 1, settings.group):
        members = grouped[start : start + settings.group].tolist()
        # open more often than any member fires, so that members also fire without each other
        rate.append(min(0.9, 4 * max(rate[member] for member in members)))
        below.append(members)
        parent = np.append(parent, -1)
        parent[members] = len(rate) - 1
    chances = np.array(rate)
    for node, members in enumerate(below):
        if members:
            given = np.minimum(0.9, np.array([rate[m] for m in members]) / rate[node])
            if settings.is_exclusive and node < count:
                given /= max(1.0, given.sum())
            chances[members] = given
    number = generator.permutation(count)
    features = np.full(len(rate), -1)
    features[:count] = number
    ranks = np.empty(count, np.int64)
    ranks[number] = np.arange(count)
    starts = np.cumsum([0, *(len(members) for members in below)])
    children = np.array([m for members in below for m in members], np.int64)
    roots = np.flatnonzero(parent < 0)
    return _Nodes(chances, features.astype(np.int64), roots, starts, children, ranks)


def truth_of(firings: Firings, features: int) -> NDArray[np.bool_]:
    """Return which features fire on which rows, [rows, features] booleans."""
    fires = np.zeros((len(firings.starts) - 1, features), bool)
    rows = np.repeat(np.arange(len(fires)), np.diff(firings.starts))
    fires[rows, firings.features] = True
    return fires
