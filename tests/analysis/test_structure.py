"""Clusters of directions are those that were planted."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from probe_sae.analysis.modules import agreement_of
from probe_sae.analysis.structure import direction_groups, feature_map, nearest
from probe_sae.analysis.structure import quiet_umap as real_umap


def planted(clusters: int, size: int) -> tuple[torch.Tensor, NDArray[Any]]:
    generator = torch.Generator().manual_seed(0)
    centres = normalize(torch.randn(clusters, 32, generator=generator), dim=1)
    spread = 0.05 * torch.randn(clusters * size, 32, generator=generator)
    directions = normalize(centres.repeat_interleave(size, 0) + spread, dim=1)
    return directions, np.repeat(np.arange(clusters), size).astype(np.int32)


def test_hierarchical_clusters_are_the_planted_ones() -> None:
    directions, truth = planted(6, 40)
    alive = np.ones(240, np.bool_)
    groups = direction_groups(directions, alive, nearest(directions), 0)

    assert agreement_of(groups.group, truth) > 0.95


def test_density_clusters_of_the_map_are_the_planted_ones() -> None:
    directions, truth = planted(6, 40)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("probe_sae.analysis.structure.quiet_umap", real_umap)
        found = feature_map(directions, np.ones(240, np.bool_), 0)

    assert (found.cluster >= 0).mean() > 0.9
    assert agreement_of(found.cluster, truth) > 0.95


def test_dead_features_are_in_no_cluster() -> None:
    directions, _ = planted(6, 40)
    alive = np.arange(240) % 5 > 0
    groups = direction_groups(directions, alive, nearest(directions), 0)

    assert (groups.group[~alive] == -1).all()
    assert np.isnan(groups.pca_x[~alive]).all()
    assert (groups.group[alive] >= 0).all()


def test_umap_is_given_what_is_near_and_its_compiled_code_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise it calls Python for every pair, and is compiled anew in every process."""
    from umap import layouts, umap_

    def never(*_: Any, **__: Any) -> None:
        raise RuntimeError("all pairs")

    monkeypatch.setattr(umap_, "pairwise_distances", never)
    monkeypatch.setattr(umap_, "fast_knn_indices", never)
    directions, _ = planted(6, 40)

    places = real_umap(directions.numpy(), 0)

    assert np.isfinite(places).all()
    step: Any = layouts._nb_optimize_layout_euclidean_single_epoch
    compiled: list[Any] = [umap_.smooth_knn_dist, umap_.compute_membership_strengths, step]
    assert all(function.stats.cache_path for function in compiled)
