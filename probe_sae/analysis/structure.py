"""How features hang together by their directions: the nearest, the map, clusters."""

import warnings
from contextlib import suppress
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

MOST_GROUPED = 32_768
"""Features up to which hierarchical clusters are made."""
FEATURES_A_GROUP = 40
_SMALL_MAP = 4096
"""Rows from which on umap looks for near ones itself."""


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
        places = quiet_umap(directions, seed)
    x[numbers], y[numbers] = places[:, 0], places[:, 1]
    if len(numbers) >= 32:
        from sklearn.cluster import HDBSCAN

        smallest = max(5, len(numbers) // 400)
        options: dict[str, Any] = {"min_cluster_size": smallest, "copy": True}
        cluster[numbers] = HDBSCAN(**options).fit_predict(places)
    return Map(x, y, cluster)


def quiet_umap(rows: NDArray[Any], seed: int) -> NDArray[np.float32]:
    """Return rows of length 1 on a plane, [rows, 2]: UMAP by their distances.

    Those rise with the angle as the cosine does. Of fewer than 4,096 rows umap would compute all,
    calling Python for every pair, and compile a sort: it is given the nearest, from products.

    Source: McInnes et al. 2018 (umap-learn).
    """
    import umap
    from sklearn.neighbors import NearestNeighbors
    from umap import layouts, umap_

    _keep_compiled(umap_, layouts)
    count = min(15, len(rows) - 1)
    known: dict[str, Any] = {}
    if len(rows) < _SMALL_MAP:
        index = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(rows)
        distances, near = index.kneighbors(rows)
        known["precomputed_knn"] = (near, distances)
    mapper: Any = umap.UMAP(
        n_components=2,
        metric="euclidean",
        n_neighbors=count,
        min_dist=0.1,
        random_state=seed,
        n_jobs=1,
        **known,
    )
    threads = torch.get_num_threads()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(mapper.fit_transform(rows), dtype=np.float32)
    finally:  # numba sets OpenMP's threads for the whole process, and sums round by their number
        torch.set_num_threads(threads)


def _keep_compiled(*modules: ModuleType) -> None:
    """Let numba keep what it compiles of a library's modules in their `__pycache__`, as of ours.

    Without it umap is compiled anew in every process, which takes as long as a map of 10,000 rows.
    """
    from numba.core.dispatcher import Dispatcher

    for module in modules:
        for function in vars(module).values():
            if isinstance(function, Dispatcher):
                with suppress(RuntimeError):  # there is no folder that may be written to
                    function.enable_caching()


class Groups(NamedTuple):
    """Hierarchical clusters of decoder directions, and their two strongest axes."""

    group: NDArray[np.int32]
    """[features] -1 for dead features."""
    pca_x: NDArray[np.float32]
    """[features] NaN for dead features."""
    pca_y: NDArray[np.float32]
    """[features]"""
    tree: NDArray[np.int32]
    """[merges, 2] which two nodes each merge joins: below n, the n living features in order;
    n + i is what merge i has made."""
    explained: tuple[float, float]
    """Shares of the variance of the living directions along the two axes."""


def direction_groups(W_dec: Tensor, alive: NDArray[np.bool_], near: Nearest, seed: int) -> Groups:
    """Return principal axes of the directions, and clusters of the nearest of them.

    Ward's method on the first 32 principal components, joining only features that are among the
    eight nearest of each other's; about one cluster for 40 features. None beyond
    `MOST_GROUPED` features.

    Source: Ward 1963 (scikit-learn).
    """
    features, numbers = len(alive), np.flatnonzero(alive)
    group = np.full(features, -1, np.int32)
    x, y = np.full(features, np.nan, np.float32), np.full(features, np.nan, np.float32)
    tree = np.zeros((0, 2), np.int32)
    if len(numbers) < 8:
        return Groups(group, x, y, tree, (0.0, 0.0))
    from sklearn.decomposition import PCA

    directions = normalize(W_dec[torch.from_numpy(numbers)].float(), dim=1).numpy()
    axes = PCA(min(32, *directions.shape), svd_solver="randomized", random_state=seed)
    places = np.asarray(axes.fit_transform(directions))
    x[numbers], y[numbers] = places[:, 0], places[:, 1]
    explained: Any = axes.explained_variance_ratio_
    if len(numbers) <= MOST_GROUPED:
        group[numbers], tree = _ward(places, _neighbours(near, numbers, features))
    return Groups(group, x, y, tree, (float(explained[0]), float(explained[1])))


def _neighbours(near: Nearest, numbers: NDArray[np.int64], features: int) -> Any:
    """Return which living features are near each other, as a sparse symmetric matrix."""
    from scipy import sparse

    place = np.full(features + 1, -1)
    place[numbers] = np.arange(len(numbers))
    second = place[near.ids[numbers]]
    first = np.broadcast_to(np.arange(len(numbers))[:, None], second.shape)
    there = second >= 0
    ones = np.ones(int(there.sum()))
    shape = (len(numbers), len(numbers))
    graph: Any = sparse.csr_matrix((ones, (first[there], second[there])), shape)
    return graph.maximum(graph.T)


def _ward(
    places: NDArray[np.float32], neighbours: Any
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    from sklearn.cluster import AgglomerativeClustering

    count = max(2, len(places) // FEATURES_A_GROUP)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # several parts of the graph are joined, as they should be
        how: dict[str, Any] = {"connectivity": neighbours, "compute_full_tree": True}
        made: Any = AgglomerativeClustering(count, **how).fit(places)
    return made.labels_.astype(np.int32), made.children_.astype(np.int32)
