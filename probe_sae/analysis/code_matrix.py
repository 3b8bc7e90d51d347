"""Codes as sparse matrices, [rows, features]: what fires is stored, and nothing else."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.errors import SettingsError
from probe_sae.sae import SAE

BLOCK_ROWS = 4096
"""Rows that are encoded at a time."""
POOLS = ("mean", "max")


@torch.no_grad()
def code_matrix(sae: SAE, x: Tensor) -> Any:
    """Return the codes of raw activations as a SciPy CSR matrix, [rows, features] float64.

    Activations too small to count as firings are left out.

    Args:
        sae: the dictionary.
        x: what it encodes, [rows, d_model].
    """
    from scipy.sparse import csr_matrix, vstack

    parts: list[Any] = [csr_matrix((0, sae.features))]
    for some in x.split(BLOCK_ROWS):
        codes = sae.encode_sparse(some.to(sae.input_scale.device, torch.float32))
        fires = sae.fires(codes.values).cpu().numpy()
        place, slot = np.nonzero(fires)
        values = codes.values.cpu().numpy()[place, slot].astype(np.float64)
        features = codes.indices.cpu().numpy()[place, slot]
        parts.append(csr_matrix((values, (place, features)), shape=(len(some), sae.features)))
    return vstack(parts, format="csr")


def pooled_codes(codes: Any, owner: NDArray[np.int64], count: int, how: str) -> Any:
    """Return one line for each owner of rows: the mean or the largest of its rows' codes.

    Args:
        codes: CSR, [rows, features].
        owner: whose each row is, [rows], counted from 0.
        count: number of owners; one without rows has zeros.
        how: `mean` or `max`; the largest is that of the firings, 0 where there is none.

    Raises:
        SettingsError: `how` is something else.
    """
    from scipy.sparse import csr_matrix

    check_pool(how)
    if how == "mean":
        sizes = np.maximum(1, np.bincount(owner, minlength=count))
        weights = csr_matrix(
            (1 / sizes[owner], (owner, np.arange(len(owner)))), shape=(count, len(owner))
        )
        return weights @ codes
    entries = codes.tocoo()
    keys = owner[entries.row] * codes.shape[1] + entries.col
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], entries.data[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    largest = np.maximum.reduceat(values, starts) if len(starts) else values
    row, feature = np.divmod(keys[starts], codes.shape[1])
    return csr_matrix((largest, (row, feature)), shape=(count, codes.shape[1]))


def pooled_rows(rows: Tensor, owner: NDArray[np.int64], count: int, how: str) -> Tensor:
    """Return one row for each owner: the mean or the largest of its rows, each dimension alone.

    Args:
        rows: [rows, width].
        owner: whose each row is, [rows], counted from 0.
        count: number of owners.
        how: `mean` or `max`.

    Raises:
        SettingsError: `how` is something else.
    """
    check_pool(how)
    places = torch.from_numpy(owner)[:, None].expand_as(rows)
    empty = rows.new_zeros(count, rows.shape[1])
    reduce = "mean" if how == "mean" else "amax"
    return empty.scatter_reduce(0, places, rows, reduce, include_self=False)


def check_pool(how: str) -> None:
    """Raise unless a way to pool is known.

    Raises:
        SettingsError: it is not.
    """
    if how not in POOLS:
        raise SettingsError(f"cannot pool by {how!r}; expected {' or '.join(POOLS)}.")
