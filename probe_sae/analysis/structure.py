"""How features hang together: nearest directions, the map, its clusters, modules of co-firing."""

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from probe_sae.analysis.cofiring import Pairs

MODULE_PHI = 0.15
"""Pairs with a smaller phi coefficient do not bind features into a module."""
MODULE_PARTNERS = 10
"""Strongest partners of a feature that count."""
SMALLEST_MODULE = 3


class Nearest(NamedTuple):
    """Features with the nearest decoder directions; -1 where there are fewer."""

    ids: NDArray[np.int32]
    cosines: NDArray[np.float32]


def nearest(W_dec: Tensor, count: int = 8) -> Nearest:
    """Return the features with the largest decoder cosine to each, [features, count]."""
    directions = normalize(W_dec.float(), dim=1)
    features = len(directions)
    width = min(count, features - 1)
    ids = np.full((features, count), -1, np.int32)
    cosines = np.zeros((features, count), np.float32)
    for start in range(0, features, 1024):
        part = directions[start : start + 1024] @ directions.T
        own = torch.arange(start, start + len(part))
        part[torch.arange(len(part)), own] = -2.0
        values, indices = part.topk(width, -1)
        ids[start : start + len(part), :width] = indices.numpy()
        cosines[start : start + len(part), :width] = values.numpy()
    return Nearest(ids, cosines)


class Map(NamedTuple):
    """Places on a plane; NaN and -1 for dead features."""

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    cluster: NDArray[np.int32]


def feature_map(W_dec: Tensor, alive: NDArray[np.bool_], seed: int) -> Map:
    """Return a UMAP of the decoder directions by cosine, and density clusters on it.

    With few features, where UMAP has no neighbourhoods to keep, the two first principal axes.

    Source: McInnes et al. 2018 (umap-learn); Campello et al. 2013 (HDBSCAN, scikit-learn).
    """
    features = len(alive)
    x, y = np.full(features, np.nan, np.float32), np.full(features, np.nan, np.float32)
    cluster = np.full(features, -1, np.int32)
    numbers = np.flatnonzero(alive)
    directions = normalize(W_dec[torch.from_numpy(numbers)].float(), dim=1).numpy()
    if len(numbers) < 3:
        x[numbers], y[numbers] = np.arange(len(numbers)), 0
        return Map(x, y, cluster)
    if len(numbers) < 32:
        from sklearn.decomposition import PCA

        places = PCA(2, random_state=seed).fit_transform(directions)
    else:
        places = _umap(directions, seed)
    x[numbers], y[numbers] = places[:, 0], places[:, 1]
    if len(numbers) >= 32:
        from sklearn.cluster import HDBSCAN

        smallest = max(5, len(numbers) // 400)
        options: dict[str, Any] = {"min_cluster_size": smallest, "copy": True}
        cluster[numbers] = HDBSCAN(**options).fit_predict(places)
    return Map(x, y, cluster)


def _umap(directions: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    import umap

    mapper: Any = umap.UMAP(
        n_components=2,
        metric="cosine",
        n_neighbors=min(15, len(directions) - 1),
        min_dist=0.1,
        random_state=seed,
        n_jobs=1,
    )
    threads = torch.get_num_threads()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(mapper.fit_transform(directions), dtype=np.float32)
    finally:  # numba sets OpenMP's threads for the whole process, and sums round by their number
        torch.set_num_threads(threads)


def modules(pairs: Pairs, features: int, seed: int) -> NDArray[np.int32]:
    """Return each feature's module, [features]: -1 for none, 0 the largest.

    Communities of the graph of each feature's strongest partners, weighted by phi.

    Source: Blondel et al. 2008 (Louvain, networkx).
    """
    import networkx

    rank = np.arange(len(pairs.first)) - np.searchsorted(pairs.first, pairs.first)
    kept = (pairs.phi >= MODULE_PHI) & (rank < MODULE_PARTNERS)
    graph: Any = networkx.Graph()
    graph.add_weighted_edges_from(
        zip(
            pairs.first[kept].tolist(),
            pairs.second[kept].tolist(),
            pairs.phi[kept].tolist(),
            strict=True,
        )
    )
    result = np.full(features, -1, np.int32)
    found: list[set[int]] = networkx.community.louvain_communities(graph, seed=seed)
    large = [sorted(group) for group in found if len(group) >= SMALLEST_MODULE]
    for number, group in enumerate(sorted(large, key=lambda group: (-len(group), group[0]))):
        result[group] = number
    return result


class LogitEffects(NamedTuple):
    """Tokens that a feature's direction makes likelier and less likely, [features, n] each."""

    promoted_ids: NDArray[np.int32]
    promoted_values: NDArray[np.float32]
    suppressed_ids: NDArray[np.int32]
    suppressed_values: NDArray[np.float32]


def logit_effects(directions: Tensor, unembedding: Tensor | None, count: int = 10) -> LogitEffects:
    """Return the direct effect of each feature on the logits, up to the final norm's scaling.

    Args:
        directions: what one unit of activation adds to the site, [features, width].
        unembedding: [tokens, width]; None, or another width, gives n = 0.
        count: tokens in each direction.
    """
    features = len(directions)
    if unembedding is None or unembedding.shape[1] != directions.shape[1]:
        whole, real = np.zeros((features, 0), np.int32), np.zeros((features, 0), np.float32)
        return LogitEffects(whole, real, whole, real)
    parts: list[list[NDArray[Any]]] = []
    table = unembedding.detach().cpu().float()
    count = min(count, len(table))
    for part in directions.float().split(1024):
        effect = part @ table.T
        effect -= effect.mean(1, keepdim=True)
        up, down = effect.topk(count, -1), (-effect).topk(count, -1)
        parts.append(
            [
                up.indices.int().numpy(),
                up.values.numpy(),
                down.indices.int().numpy(),
                -down.values.numpy(),
            ]
        )
    return LogitEffects(*(np.concatenate(column) for column in zip(*parts, strict=True)))
