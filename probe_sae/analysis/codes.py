"""The codes of a store's rows, block by block: whole contexts, never a dense matrix."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.progress import progress
from probe_sae.sae import SAE
from probe_sae.store import Store

BLOCK_ROWS = 8192


@dataclass(frozen=True)
class Firings:
    """The firings of some rows as flat lists, sorted by feature, then by row."""

    rows: int
    """Rows looked at, those without any firing included."""
    feature: NDArray[np.int64]
    """[firings]"""
    row: NDArray[np.int64]
    """[firings] the row's number in the store."""
    value: NDArray[np.float64]
    """[firings] its activation; of features that can be negative, the magnitude."""
    context: NDArray[np.int64]
    """[firings]"""
    pos: NDArray[np.int64]
    """[firings] the row's place in its document, or its patch."""
    token: NDArray[np.int64]
    """[firings] token or class of the row, -1 where there is none."""
    row_tokens: NDArray[np.int64]
    """[rows] token or class of every row."""
    total: NDArray[np.float64]
    """[features] sum of all activations, those too small to count as firings included."""

    def starts(self, features: int) -> NDArray[np.int64]:
        """Return where the firings of each feature start, [features + 1]."""
        return np.searchsorted(self.feature, np.arange(features + 1))


def firings(
    sae: SAE,
    store: Store,
    sites: Sequence[str],
    contexts: NDArray[np.bool_],
    labels: NDArray[np.int64] | None = None,
    *,
    what: str = "analyse",
) -> Iterator[Firings]:
    """Yield the firings of the rows of chosen contexts, in the order in which they were recorded.

    Args:
        sae: the dictionary.
        store: where the rows are.
        sites: those that the dictionary was trained on.
        contexts: which contexts count, [contexts].
        labels: for images, the class of each context, [contexts].
        what: the work, for the progress bar.
    """
    with progress(what, store.rows) as advance:
        for block in store.blocks(BLOCK_ROWS):
            context = block.columns["context"]
            wanted = np.flatnonzero(contexts[context])
            if len(wanted):
                token = block.columns.get("token")
                tokens = _classes(context, labels) if token is None else token
                yield _firings(
                    sae,
                    _read(sae, store, sites, block.start, block.stop),
                    wanted,
                    block.start,
                    context,
                    block.columns["pos"].astype(np.int64),
                    tokens.astype(np.int64),
                )
            advance(block.stop - block.start)


def _read(sae: SAE, store: Store, sites: Sequence[str], start: int, stop: int) -> Tensor:
    """Return what is encoded of some rows."""
    rows = torch.cat([store.read(site, start, stop) for site in sites], 1)
    return sae.split(rows)[0]


def _classes(context: NDArray[np.int64], labels: NDArray[np.int64] | None) -> NDArray[np.int64]:
    return np.full(len(context), -1) if labels is None else labels[context]


@torch.no_grad()
def _firings(
    sae: SAE,
    rows: Tensor,
    wanted: NDArray[np.int64],
    first_row: int,
    context: NDArray[np.int64],
    pos: NDArray[np.int64],
    token: NDArray[np.int64],
) -> Firings:
    """Encode the wanted rows of a block and return their firings, sorted by feature."""
    codes = sae.encode_sparse(rows[torch.from_numpy(wanted)])
    values, indices = codes.values.numpy(), codes.indices.numpy()
    local, place = np.nonzero(sae.fires(codes.values).numpy())
    feature = indices[local, place]
    order = np.argsort(feature, kind="stable")
    feature, local, place = feature[order], local[order], place[order]
    at = wanted[local]
    return Firings(
        len(wanted),
        feature.astype(np.int64),
        at + first_row,
        np.abs(values[local, place].astype(np.float64)),
        context[at],
        pos[at],
        token[at],
        token[wanted],
        np.bincount(
            indices.ravel(), values.ravel().astype(np.float64), minlength=sae.features
        ).astype(np.float64),
    )
