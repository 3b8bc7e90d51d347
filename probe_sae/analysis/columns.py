"""The columns of an analysis, an entry a feature each: from counts and from directions."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from probe_sae.analysis.arrays import Features
from probe_sae.analysis.codes import Codes
from probe_sae.analysis.cofiring import CoFiring, Pairs, jaccard, npmi, partners, phi
from probe_sae.analysis.counting import Counted
from probe_sae.analysis.logit_effects import logit_effects
from probe_sae.analysis.modules import SHOWN_MEMBERS, Modules, agreement_of, modules_of
from probe_sae.analysis.neurons import neurons_of, sampled_contexts
from probe_sae.analysis.source import Source
from probe_sae.analysis.structure import (
    Groups,
    Map,
    Nearest,
    direction_groups,
    feature_map,
    nearest,
)
from probe_sae.host import Host

FOLLOWED = 4
"""Features of the next dictionary that are kept of each."""
_KINDS = {
    "firings": np.int64,
    "density": np.float64,
    "histogram": np.int64,
    "cofiring_counts": np.int64,
    "token_undercount": np.int64,
    "places": np.int64,
    "logit_histogram": np.int64,
}
_WHOLE = ("cluster", "group", "module", "part")


class Made(NamedTuple):
    """What was found of the features."""

    features: Features
    pairs: Pairs
    modules: Modules
    tree: NDArray[np.int32]
    structure: dict[str, Any]
    neuron_rows: int


class _Directions(NamedTuple):
    """What the directions of all dictionaries say, one after the other."""

    near: Nearest
    places: Map
    groups: Groups
    norms: NDArray[np.float32]


def columns_of(
    source: Source,
    codes: Codes,
    counted: Counted,
    host: Host | None,
    neurons: list[str],
    seed: int,
) -> Made:
    """Return everything that an analysis says of each feature.

    Args:
        source: what was encoded.
        codes: the codes.
        counted: what a pass over them has left.
        host: for effects on its logits.
        neurons: sites whose dimensions are correlated with features.
        seed: of maps, clusters and communities.
    """
    tally, cofiring = counted.tally, counted.cofiring
    strongest = cofiring.pairs()
    modules = modules_of(cofiring, strongest, seed)
    directions = _directions(source, tally.count > 0, seed)
    some = sampled_contexts(source.contexts, codes.rows, seed=seed)
    driven = neurons_of(codes, source.store, neurons, some)
    single = len(source.saes) == 1
    effects = logit_effects(
        source.saes[0].directions() if single else torch.zeros(source.features, 0),
        _unembedding(host, list(source.sites[0])) if single else None,
    )
    columns: dict[str, NDArray[Any]] = {
        **tally.columns(),
        "mean_activation": codes.total() / max(1, codes.rows),
        "nearest_ids": directions.near.ids,
        "nearest_cosines": directions.near.cosines,
        **_partners(strongest, cofiring),
        **_followed(source, cofiring),
        "neuron_ids": driven.ids,
        "neuron_correlations": driven.correlations,
        "part": np.repeat(np.arange(len(source.saes)), [sae.features for sae in source.saes]),
        "decoder_norm": directions.norms,
        **directions.places._asdict(),
        "group": directions.groups.group,
        "pca_x": directions.groups.pca_x,
        "pca_y": directions.groups.pca_y,
        "module": modules.of_feature,
        **effects._asdict(),
    }
    for name, column in columns.items():
        is_whole = name in _WHOLE or name.endswith("ids")
        kind = _KINDS.get(name, np.int32 if is_whole else np.float32)
        columns[name] = column.astype(kind, copy=False)
    structure = {
        "agreement_with_clusters": agreement_of(modules.of_feature, directions.places.cluster),
        "agreement_with_groups": agreement_of(modules.of_feature, directions.groups.group),
        "pca_explained": list(directions.groups.explained),
    }
    pairs = _with_modules(strongest, modules, cofiring)
    tree = directions.groups.tree
    return Made(Features(**columns), pairs, modules, tree, structure, driven.rows)


def _directions(source: Source, alive: NDArray[np.bool_], seed: int) -> _Directions:
    """Return what directions say: of all together where they are equally wide, else one by one."""
    every = [sae.directions() for sae in source.saes]
    norms = torch.cat([some.norm(dim=1) for some in every]).numpy()
    near = _beside([nearest(some) for some in every], source.firsts)
    if len({some.shape[1] for some in every}) == 1:
        joined = torch.cat(every)
        groups = direction_groups(joined, alive, near, seed)
        return _Directions(near, feature_map(joined, alive, seed), groups, norms)
    x: list[NDArray[Any]] = []
    y: list[NDArray[Any]] = []
    cluster: list[NDArray[Any]] = []
    right, clusters = 0.0, 0
    for some, first in zip(every, source.firsts, strict=True):
        made = feature_map(some, alive[first : first + len(some)], seed)
        left = float(np.nanmin(made.x)) if np.isfinite(made.x).any() else 0.0
        x.append(made.x - left + right)
        y.append(made.y)
        cluster.append(np.where(made.cluster >= 0, made.cluster + clusters, -1))
        right = float(np.nanmax(x[-1])) + 2 if np.isfinite(x[-1]).any() else right
        clusters += int(made.cluster.max(initial=-1)) + 1
    none = np.full(source.features, np.nan, np.float32)
    groups = Groups(
        np.full(source.features, -1, np.int32), none, none, np.zeros((0, 2), np.int32), (0.0, 0.0)
    )
    joined = Map(np.concatenate(x), np.concatenate(y), np.concatenate(cluster))
    return _Directions(near, joined, groups, norms)


def _beside(every: list[Nearest], firsts: list[int]) -> Nearest:
    """Return neighbours of several dictionaries by their common numbers."""
    ids = [np.where(n.ids >= 0, n.ids + first, -1) for n, first in zip(every, firsts, strict=True)]
    return Nearest(np.concatenate(ids), np.concatenate([n.cosines for n in every]))


def _partners(pairs: Pairs, cofiring: CoFiring) -> dict[str, NDArray[Any]]:
    together = partners(pairs, cofiring.features)
    there = together.ids >= 0
    mine = np.broadcast_to(cofiring.fired[:, None], together.ids.shape)
    theirs = np.where(there, cofiring.fired[together.ids], 0)
    shared = npmi(together.counts, mine, theirs, cofiring.rows)
    return {
        "cofiring_ids": together.ids,
        "cofiring_phis": together.phis,
        "cofiring_counts": together.counts,
        "cofiring_jaccards": jaccard(together.counts, mine, theirs),
        "cofiring_npmis": np.where(there, shared, np.nan),
    }


def _followed(source: Source, cofiring: CoFiring) -> dict[str, NDArray[Any]]:
    """Return the features of the next dictionary that each goes with most."""
    features = source.features
    width = FOLLOWED if len(source.saes) > 1 else 0
    ids = np.full((features, width), -1, np.int32)
    phis = np.zeros((features, width), np.float32)
    cosines = np.full((features, width), np.nan, np.float32)
    bounds = [*source.firsts, features]
    for number in range(len(source.saes) - 1):
        of = range(bounds[number], bounds[number + 1])
        others = range(bounds[number + 1], bounds[number + 2])
        found = partners(cofiring.pairs(2, FOLLOWED, (of, others)), features, FOLLOWED)
        ids[of.start : of.stop] = found.ids[of.start : of.stop]
        phis[of.start : of.stop] = found.phis[of.start : of.stop]
        mine, theirs = source.saes[number].directions(), source.saes[number + 1].directions()
        if mine.shape[1] == theirs.shape[1]:
            part = ids[of.start : of.stop]
            cosines[of.start : of.stop] = _cosines(mine, theirs, part - others.start, part >= 0)
    return {"followed_ids": ids, "followed_phis": phis, "followed_cosines": cosines}


def _cosines(
    mine: Tensor, theirs: Tensor, ids: NDArray[np.int32], there: NDArray[np.bool_]
) -> NDArray[np.float32]:
    one, other = normalize(mine.float(), dim=1), normalize(theirs.float(), dim=1)
    picked = other[torch.from_numpy(np.where(there, ids, 0).astype(np.int64))]
    cosines = (one[:, None] * picked).sum(2).numpy()
    return np.where(there, cosines, np.nan)


def _with_modules(pairs: Pairs, modules: Modules, cofiring: CoFiring) -> Pairs:
    """Return the strongest pairs, and all among a module's commonest members, both ways."""
    firsts, seconds = [pairs.first], [pairs.second]
    counts = [pairs.count]
    for module in modules.found:
        members = np.flatnonzero(modules.of_feature == module.module)
        members = members[np.argsort(-cofiring.fired[members], kind="stable")][:SHOWN_MEMBERS]
        table = cofiring.between(members)
        np.fill_diagonal(table, 0)
        one, two = np.nonzero(table)
        firsts.append(members[one])
        seconds.append(members[two])
        counts.append(table[one, two])
    first, second, both = (np.concatenate(c) for c in (firsts, seconds, counts))
    _, kept = np.unique(first * cofiring.features + second, return_index=True)
    first, second, both = first[kept], second[kept], both[kept]
    value = phi(both, cofiring.fired[first], cofiring.fired[second], cofiring.rows)
    order = np.lexsort((second, -value, first))
    return Pairs(first[order], second[order], value[order], both[order])


def _unembedding(host: Host | None, sites: list[str]) -> Tensor | None:
    """Return the host's unembedding where features write to its residual stream."""
    parts = ("resid", "embed", "attn_out", "mlp_out")
    on_stream = len(sites) == 1 and any(part in sites[0] for part in parts)
    return host.unembedding() if host is not None and on_stream else None
