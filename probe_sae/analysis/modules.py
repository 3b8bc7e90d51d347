"""Modules: communities of features that fire together, and how far they can be trusted."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.cofiring import CoFiring, Pairs, p_values, phi, significant

LEAST_PHI = 0.2
"""Pairs with a smaller phi coefficient do not bind features into a module.

On 2,048 features over source text, modules of two halves of the contexts agree with each other
(adjusted mutual information) by 0.41, 0.54 and 0.80 at 0.1, 0.15 and 0.2.
"""
RESOLUTION = 4.0
"""Of the community detection: at 1, modules of up to 46 features were chains of loose pairs."""
BINDING_PARTNERS = 10
"""Strongest partners of a feature that count."""
SMALLEST = 3
SEEDS = 5
"""Runs with other seeds that a module is compared with."""
FALSE_PAIRS = 0.01
"""Share of the pairs called significant that may be false."""
SHOWN_MEMBERS = 200
"""Members of a module whose counts are compared with each other, the commonest ones."""


@dataclass(frozen=True)
class Module:
    """A community of features that fire together."""

    module: int
    """0 is the largest."""
    size: int
    cohesion: float
    """Mean phi coefficient of all pairs of its members (of the 200 commonest, if it has more)."""
    separation: float
    """Share of the weight of its members' binding pairs that stays inside."""
    stability: float
    """Mean over other seeds of the largest Jaccard overlap with a community found there."""
    density: float
    """Mean share of rows on which a member fires."""


@dataclass(frozen=True)
class Modules:
    """All modules, and what each feature belongs to."""

    of_feature: NDArray[np.int32]
    """[features] -1 for none."""
    found: list[Module]
    binding: NDArray[np.bool_]
    """[pairs] which pairs bind: among a feature's strongest, phi large enough, significant."""
    summary: dict[str, Any]
    """`modularity`; `seed_agreement`, the mean adjusted mutual information with other seeds, on
    features that are in a module in both; `binding_pairs`; `share_of_features`; thresholds."""

    def table(self) -> list[dict[str, Any]]:
        """Return the modules as plain tables."""
        return [asdict(module) for module in self.found]


def modules_of(cofiring: CoFiring, pairs: Pairs, seed: int) -> Modules:
    """Return the communities of the graph of features that fire together.

    Pairs bind where they are significant (Fisher's exact test, false discovery rate 1 % of all
    pairs there are), have a phi of `LEAST_PHI` or more, and are among the ten strongest of one of
    the two. Communities by Louvain's method, the best of `SEEDS` runs.

    Args:
        cofiring: counts of common rows.
        pairs: the strongest partners of each feature.
        seed: of the community detection.

    Source: Blondel et al. 2008 (Louvain, networkx); Benjamini and Hochberg 1995.
    """
    features = cofiring.features
    binding = _binding(cofiring, pairs)
    runs = _runs(pairs, binding, features, seed)
    if not runs:
        return Modules(np.full(features, -1, np.int32), [], binding, _thresholds(0, 0.0, 0, 1.0))
    quality = [_modularity(run, pairs, binding, RESOLUTION) for run in runs]
    best = int(np.argmax(quality))
    chosen, others = runs[best], [run for i, run in enumerate(runs) if i != best]
    found = [
        _described(number, chosen, others, cofiring, pairs, binding)
        for number in range(int(chosen.max(initial=-1)) + 1)
    ]
    share = float((chosen >= 0).mean())
    agreement = float(np.mean([agreement_of(chosen, other) for other in others]))
    modularity = _modularity(chosen, pairs, binding, 1.0)
    summary = _thresholds(int(binding.sum()) // 2, share, modularity, agreement)
    return Modules(chosen, found, binding, summary)


def agreement_of(one: NDArray[np.int32], other: NDArray[np.int32]) -> float:
    """Return the adjusted mutual information of two groupings, on what is in a group in both.

    1 where they say the same, 0 for chance. NaN where there is nothing to compare.

    Source: Vinh, Epps and Bailey 2010 (scikit-learn).
    """
    from sklearn.metrics import adjusted_mutual_info_score

    both = (one >= 0) & (other >= 0)
    return float(adjusted_mutual_info_score(one[both], other[both])) if both.any() else float("nan")


def _binding(cofiring: CoFiring, pairs: Pairs) -> NDArray[np.bool_]:
    rank = np.arange(len(pairs.first)) - np.searchsorted(pairs.first, pairs.first)
    strong = np.flatnonzero((pairs.phi >= LEAST_PHI) & (rank < BINDING_PARTNERS))
    fired = cofiring.fired
    one, two = fired[pairs.first[strong]], fired[pairs.second[strong]]
    p = p_values(pairs.count[strong], one, two, cofiring.rows)
    tests = cofiring.features * (cofiring.features - 1)
    binding = np.zeros(len(pairs.first), np.bool_)
    binding[strong[significant(p, tests, FALSE_PAIRS)]] = True
    return binding


def _runs(
    pairs: Pairs, binding: NDArray[np.bool_], features: int, seed: int
) -> list[NDArray[np.int32]]:
    """Return the communities of several seeds, large ones first."""
    import networkx

    edges = zip(
        pairs.first[binding].tolist(),
        pairs.second[binding].tolist(),
        pairs.phi[binding].tolist(),
        strict=True,
    )
    graph: Any = networkx.Graph()
    graph.add_weighted_edges_from(edges)
    if not graph:
        return []
    runs: list[NDArray[np.int32]] = []
    for number in range(SEEDS):
        communities = networkx.community.louvain_communities(
            graph, seed=seed + number, resolution=RESOLUTION
        )
        large = [sorted(group) for group in communities if len(group) >= SMALLEST]
        large.sort(key=lambda group: (-len(group), group[0]))
        module = np.full(features, -1, np.int32)
        for i, group in enumerate(large):
            module[group] = i
        runs.append(module)
    return runs


def _modularity(
    module: NDArray[np.int32], pairs: Pairs, binding: NDArray[np.bool_], resolution: float
) -> float:
    """Return Newman's modularity of a grouping, features in no module each by itself."""
    if not binding.any():
        return 0.0
    first, second, weight = pairs.first[binding], pairs.second[binding], pairs.phi[binding]
    total = 2 * weight.sum()  # a pair may stand here once or twice; so may what it is compared with
    group = np.where(module >= 0, module, len(module) + np.arange(len(module)))
    _, group = np.unique(group, return_inverse=True)
    degree = np.bincount(group[first], weight, group.max() + 1)
    degree += np.bincount(group[second], weight, group.max() + 1)
    inside = 2 * weight[group[first] == group[second]].sum()
    return float(inside / total - resolution * np.square(degree / total).sum())


def _described(
    number: int,
    chosen: NDArray[np.int32],
    others: list[NDArray[np.int32]],
    cofiring: CoFiring,
    pairs: Pairs,
    binding: NDArray[np.bool_],
) -> Module:
    members = np.flatnonzero(chosen == number)
    common = members[np.argsort(-cofiring.fired[members], kind="stable")][:SHOWN_MEMBERS]
    touching = binding & (chosen[pairs.first] == number)
    inside = touching & (chosen[pairs.second] == number)
    return Module(
        number,
        len(members),
        _mean_phi(cofiring, common),
        float(pairs.phi[inside].sum() / max(1e-12, pairs.phi[touching].sum())),
        float(np.mean([_overlap(members, other) for other in others])) if others else 1.0,
        float(cofiring.fired[members].mean() / max(1, cofiring.rows)),
    )


def _mean_phi(cofiring: CoFiring, members: NDArray[np.int64]) -> float:
    low, high = np.triu_indices(len(members), 1)
    both = cofiring.between(members)[low, high]
    fired = cofiring.fired[members]
    return float(phi(both, fired[low], fired[high], cofiring.rows).mean())


def _overlap(members: NDArray[np.int64], other: NDArray[np.int32]) -> float:
    """Return the largest Jaccard overlap of some features with a module of another run."""
    there = other[members]
    candidates = np.unique(there[there >= 0])
    sizes = np.bincount(other[other >= 0], minlength=int(other.max(initial=0)) + 1)
    overlaps = [
        (there == c).sum() / (len(members) + sizes[c] - (there == c).sum()) for c in candidates
    ]
    return float(max(overlaps, default=0.0))


def _thresholds(pairs: int, share: float, modularity: float, agreement: float) -> dict[str, Any]:
    return {
        "modularity": modularity,
        "seed_agreement": agreement,
        "binding_pairs": pairs,
        "share_of_features": share,
        "least_phi": LEAST_PHI,
        "resolution": RESOLUTION,
        "false_pairs": FALSE_PAIRS,
        "smallest": SMALLEST,
        "seeds": SEEDS,
    }
