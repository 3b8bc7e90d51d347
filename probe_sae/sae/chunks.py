"""Compute with dense codes in chunks of rows, so that a batch of them is never in memory."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_VALUES = 1 << 23
"""Activations of a chunk: 32 MB, of which a step holds several kinds."""
KEPT_VALUES = 1 << 26
"""Activations that may be kept for the backward pass: 256 MB."""


def by_rows(
    compute: Callable[[Tensor], tuple[Tensor, ...]],
    rows: Tensor,
    features: int,
    *,
    is_light: bool = False,
) -> tuple[Tensor, ...]:
    """Return what a function gives for rows, computed for some of them at a time.

    What it gives for each row, the first result, is put together; the others are summed. Larger
    batches are computed once more in the backward pass, a sixth more work, and take the memory of
    one chunk.

    Args:
        compute: rows -> ([rows, ...], what can be summed over rows, ...).
        rows: [rows, d_model].
        features: activations of a row.
        is_light: the backward pass wants no more than the activations: it may keep those of a
            batch that is not too large.
    """
    size = max(1, CHUNK_VALUES // features)
    if len(rows) <= size:
        return compute(rows)
    if is_light and len(rows) * features <= KEPT_VALUES:
        parts = [compute(part) for part in rows.split(size)]
    else:
        parts = [checkpoint(compute, part, use_reentrant=False) for part in rows.split(size)]
    first, *others = zip(*parts, strict=True)
    return torch.cat(first), *(torch.stack(column).sum(0) for column in others)
