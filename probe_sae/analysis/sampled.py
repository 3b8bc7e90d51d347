"""Some whole contexts with all their codes: for heat maps, explorers, labels and maps of rows."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.codes import Block, Codes, join
from probe_sae.analysis.examples import Place
from probe_sae.shown import Shown

SAMPLE_ROWS = 20_000
"""Rows that are kept with all their codes, about."""
MAPPED_ROWS = 2000
"""Of these, rows that are placed on maps."""


@dataclass(frozen=True, repr=False)
class SampledRows(Shown):
    """Rows of contexts drawn at random, all rows of each, with everything that fires on them."""

    context: NDArray[np.int32]
    """[rows] index into the inputs."""
    position: NDArray[np.int32]
    """[rows] place in the context: token index, or y * grid width + x."""
    offsets: NDArray[np.int64]
    """[rows + 1] where the firings of each row start."""
    feature: NDArray[np.int32]
    """[firings]"""
    value: NDArray[np.float32]
    """[firings] activation, with its sign."""
    mapped: NDArray[np.int32]
    """[mapped] rows, by their place here, that the maps show."""
    pca: NDArray[np.float32]
    """[mapped, 2] their codes along the two axes of most variance."""
    umap: NDArray[np.float32]
    """[mapped, 2] a UMAP, by cosine, of their codes' 32 strongest components."""


def sampled_rows(
    codes: Codes,
    contexts: NDArray[np.bool_],
    place: Place,
    numbers: NDArray[np.int64],
    seed: int,
) -> SampledRows:
    """Return the rows of some contexts with their codes.

    Args:
        codes: where they are.
        contexts: which, [contexts].
        place: finds places within contexts.
        numbers: context in the store -> its number among the inputs kept, [contexts].
        seed: of the maps.
    """
    parts = [block.of_rows(contexts[block.context]) for block in codes.blocks()]
    parts = [part for part in parts if len(part)]
    none = np.zeros(0, np.int64)
    empty = Block(none, none, none, none, np.zeros(1, np.int64), none.astype(np.int32), np.zeros(0))  # type: ignore[arg-type]
    block = join(parts) if parts else empty
    mapped, pca, umap = _maps(block, codes.features, seed)
    return SampledRows(
        numbers[block.context].astype(np.int32),
        place(block.context, block.pos).astype(np.int32),
        block.starts.astype(np.int64),
        block.feature,
        block.value.astype(np.float32),
        mapped.astype(np.int32),
        pca.astype(np.float32),
        umap.astype(np.float32),
    )


def _maps(
    block: Block, features: int, seed: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return which rows are placed, and where, by principal axes and by UMAP."""
    from scipy import sparse
    from sklearn.decomposition import PCA

    from probe_sae.analysis.structure import quiet_umap

    rows = np.flatnonzero(np.diff(block.starts))
    if len(rows) > MAPPED_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MAPPED_ROWS, replace=False))
    if len(rows) < 64 or features < 3:
        return rows[:0], np.zeros((0, 2)), np.zeros((0, 2))
    shape = (len(block), features)
    codes: Any = sparse.csr_matrix((block.value, block.feature, block.starts), shape)[rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        count = min(32, min(codes.shape) - 1)
        pca: Any = PCA(count, svd_solver="arpack", random_state=seed).fit_transform(codes)
    lengths = np.linalg.norm(pca, axis=1, keepdims=True)
    return rows, pca[:, :2], quiet_umap(pca / np.maximum(lengths, 1e-12), seed)
