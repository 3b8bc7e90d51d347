"""Which dimensions of the host each feature goes with."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from probe_sae.analysis.codes import Codes
from probe_sae.store import Store

MOST_PLACES = 1 << 28
"""Features times dimensions beyond which there is no table of correlations: 2 GiB."""
SAMPLE_ROWS = 1 << 17
"""Rows that correlations are computed on at most, whole contexts drawn at random."""
_STEP = 4096


class Neurons(NamedTuple):
    """Dimensions of a site that go with each feature most, by magnitude; n = 0 where not looked."""

    ids: NDArray[np.int32]
    """[features, n] counted through all sites looked at, one after the other; -1 for dead."""
    correlations: NDArray[np.float32]
    """[features, n] Pearson correlation of activation (0 where silent) and dimension."""
    rows: int
    """On how many rows."""


def neurons_of(
    codes: Codes, store: Store, sites: Sequence[str], contexts: NDArray[np.bool_], count: int = 8
) -> Neurons:
    """Return the dimensions of some sites that each feature correlates with most.

    Rows are those of `contexts`; a feature that fires on none of them has none.

    Args:
        codes: of the store's rows.
        store: where the sites are.
        sites: which, such as the one that was encoded, or a hidden layer recorded beside it.
        contexts: whose rows count, [contexts].
        count: dimensions of a feature.
    """
    width = sum(store.site(site).width for site in sites)
    if codes.features * width > MOST_PLACES:
        none = np.zeros((codes.features, 0))
        return Neurons(none.astype(np.int32), none.astype(np.float32), 0)
    together = torch.zeros(codes.features, width, dtype=torch.float64)
    sums, squares = np.zeros(codes.features), np.zeros(codes.features)
    x_sum = torch.zeros(width, dtype=torch.float64)
    x_square = torch.zeros(width, dtype=torch.float64)
    shift: torch.Tensor | None = None
    rows = 0
    for block in codes.blocks():
        block = block.of_rows(contexts[block.context])
        for low in range(0, len(block), _STEP):
            part = slice(low, min(low + _STEP, len(block)))
            x = torch.cat([store[site][block.row[part]].double() for site in sites], 1)
            shift = x.mean(0) if shift is None else shift
            x -= shift  # a large common part takes no digits then
            firings = slice(int(block.starts[part.start]), int(block.starts[part.stop]))
            feature = torch.from_numpy(block.feature[firings].astype(np.int64))
            value = torch.from_numpy(np.abs(block.value[firings]).astype(np.float64))
            local = torch.from_numpy(block.local[firings]) - low
            for some in torch.arange(len(feature)).split(1 << 16):
                together.index_add_(0, feature[some], x[local[some]] * value[some, None])
            sums += np.bincount(feature, value, codes.features)
            squares += np.bincount(feature, value**2, codes.features)
            x_sum, x_square = x_sum + x.sum(0), x_square + x.square().sum(0)
            rows += len(x)
    return _strongest(together.numpy(), sums, squares, x_sum.numpy(), x_square.numpy(), rows, count)


def sampled_contexts(
    contexts: NDArray[np.bool_], rows: int, most: int = SAMPLE_ROWS, seed: int = 0
) -> NDArray[np.bool_]:
    """Mark some contexts drawn at random, of those that are marked, with about `most` rows.

    Args:
        contexts: which may be drawn, [contexts].
        rows: how many rows they have.
        most: rows wanted.
        seed: of the drawing.
    """
    from probe_sae.store import is_held_out

    if rows <= most:
        return contexts.copy()
    drawn = contexts & is_held_out(np.arange(len(contexts)), most / rows, seed + 1_000_003)
    if not drawn.any():
        drawn[np.flatnonzero(contexts)[:1]] = True
    return drawn


def _strongest(
    together: NDArray[np.float64],
    sums: NDArray[np.float64],
    squares: NDArray[np.float64],
    x_sum: NDArray[np.float64],
    x_square: NDArray[np.float64],
    rows: int,
    count: int,
) -> Neurons:
    features, width = together.shape
    count, n = min(count, width), max(1, rows)
    spread = np.sqrt(np.maximum(squares - sums**2 / n, 0))
    x_spread = np.sqrt(np.maximum(x_square - x_sum**2 / n, 0))
    ids, values = np.full((features, count), -1, np.int32), np.zeros((features, count), np.float32)
    for low in range(0, features, 1024):
        part = slice(low, low + 1024)
        over = together[part] - sums[part, None] * x_sum / n
        scale = spread[part, None] * x_spread
        r = np.divide(over, scale, out=np.zeros_like(over), where=scale > 0)
        order = np.argsort(-np.abs(r), axis=1, kind="stable")[:, :count]
        ids[part], values[part] = order, np.take_along_axis(r, order, 1)
    ids[spread == 0] = -1
    values[spread == 0] = 0
    return Neurons(ids, values, rows)
