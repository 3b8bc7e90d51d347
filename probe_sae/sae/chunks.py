"""Compute with dense codes in chunks of rows, so that a batch of them is never in memory."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_VALUES = 1 << 23
"""Activations of a chunk: 32 MB, of which a step holds several kinds."""


def by_rows(
    compute: Callable[[Tensor], tuple[Tensor, ...]], rows: Tensor, features: int
) -> tuple[Tensor, ...]:
    """Return what a function gives for rows, computed for some of them at a time.

    What it gives for each row, the first result, is put together; the others are summed. Larger
    batches are computed once more in the backward pass, a third more work, and take the memory of
    one chunk.

    Args:
        compute: rows -> ([rows, ...], what can be summed over rows, ...).
        rows: [rows, d_model].
        features: activations of a row.
    """
    size = max(1, CHUNK_VALUES // features)
    if len(rows) <= size:
        return compute(rows)
    parts = [checkpoint(compute, part, use_reentrant=False) for part in rows.split(size)]
    first, *others = zip(*parts, strict=True)
    return torch.cat(first), *(torch.stack(column).sum(0) for column in others)
