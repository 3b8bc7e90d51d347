"""Find out whether few features of a penalised dictionary fire, and which.

Where few do, a training step needs one matrix product, the encoder's, as that of TopK does; else
the dense formulas are faster. The choice depends on rows and weights alone, so that a run can be
repeated to the bit.
"""

import torch
from torch import Tensor

from probe_sae.sae.kernels import WORTHWHILE, Flat, SparseCodes, in_rows, kernels_for, reference
from probe_sae.sae.selection import PreActivations

FIRST_ROWS = 256
"""Rows that tell how many firings there will be."""
FEW = 1 / 8
"""Share of pre-activations up to which firings are few: a sparse step breaks even at a sixth."""
MOST_PLACES = {"cpu": 1 << 21, "cuda": 1 << 24}
"""Places that codes may take, as wide as their longest row: a step keeps some 60 bytes for each."""


def few_over(x: Tensor, W_enc: Tensor, b_enc: Tensor, limits: Tensor) -> SparseCodes | None:
    """Return the pre-activations over their feature's limit, where they are few; else None.

    Args:
        x: what the encoder sees, [rows, d].
        W_enc: [features, d].
        b_enc: [features].
        limits: [features].
    """
    if not is_worthwhile(W_enc, len(x)):
        return None
    parts: list[Flat] = []
    most = MOST_PLACES[x.device.type]
    for start, rows in zip((0, FIRST_ROWS), x.tensor_split([FIRST_ROWS]), strict=True):
        found = PreActivations(rows, W_enc, b_enc).over(limits)
        if len(found.values) > FEW * len(rows) * len(W_enc) or _longest(found) * len(x) > most:
            return None  # before all of them are listed: that takes memory too
        parts.append(Flat(found.rows + start, found.features, found.values))
    every = Flat(*(torch.cat(column) for column in zip(*parts, strict=True)))
    return in_rows(every, len(x))


def _longest(found: Flat) -> int:
    """Return the firings of the row that has most: codes are as wide."""
    return int(torch.bincount(found.rows, minlength=1).max())


def is_worthwhile(W_enc: Tensor, rows: int) -> bool:
    """Return whether there are loops for weights [features, d] and so many rows that pay."""
    return kernels_for(W_enc, rows) is not reference and W_enc.numel() * rows >= WORTHWHILE
