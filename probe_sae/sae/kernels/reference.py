"""The plain formulas, by torch: for every device and dtype; what the others are compared with."""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, linear

from probe_sae.sae.kernels.firings import Errors, Flat, SparseCodes

CHUNK_ROWS = 512
"""Rows encoded at once on a CPU: their pre-activations stay near the cache."""
CHUNK_VALUES = 1 << 27
"""Pre-activations in memory at once on other devices."""


def top(x: Tensor, W: Tensor, b: Tensor, k: int) -> SparseCodes:
    """See `Kernels.top`."""
    parts = [_linear(rows, W, b).topk(k, -1, sorted=False) for rows in x.split(_chunk(W))]
    values, indices = (torch.cat(column) for column in zip(*parts, strict=True))
    return SparseCodes(values.relu_(), indices)


def over(x: Tensor, W: Tensor, b: Tensor, limits: Tensor) -> Flat:
    """See `Kernels.over`."""
    parts: list[Flat] = []
    size = _chunk(W)
    for start in range(0, len(x), size):
        pre = _linear(x[start : start + size], W, b)
        rows, features = (pre > limits).nonzero(as_tuple=True)
        parts.append(Flat(rows + start, features, pre[rows, features]))
    if not parts:
        none = torch.zeros(0, dtype=torch.int64, device=x.device)
        return Flat(none, none, x.new_zeros(0))
    return Flat(*(torch.cat(column) for column in zip(*parts, strict=True)))


def weighted_sums(codes: SparseCodes, W: Tensor) -> Tensor:
    """See `Kernels.weighted_sums`."""
    rows, features, places = _entries(codes)
    return embedding_bag(
        features,
        W,
        _starts(rows, len(codes.values)),
        mode="sum",
        per_sample_weights=codes.values.flatten()[places],
    )


def dots(codes: SparseCodes, W: Tensor, x: Tensor) -> Tensor:
    """See `Kernels.dots`."""
    rows, features, places = _entries(codes)
    found = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        x.contiguous(), W, features, _starts(rows, len(codes.values)), rows, 0
    )
    flat = codes.values.new_zeros(codes.values.numel()).index_put_((places,), found)
    return flat.view_as(codes.values)


def errors(codes: SparseCodes, W: Tensor, bias: Tensor, target: Tensor) -> Errors:
    """See `Kernels.errors`."""
    x_hat = weighted_sums(codes, W) + bias
    error = x_hat - target
    return Errors(x_hat, error, dots(codes, W, error))


def sums_by_feature(
    codes: SparseCodes, weights: Tensor, x: Tensor, out: Tensor, totals: Tensor | None = None
) -> Tensor:
    """See `Kernels.sums_by_feature`."""
    rows, numbers, places = _entries(codes)
    order = numbers.to(torch.int32).argsort(stable=True)
    sums = embedding_bag(
        rows[order],
        x,
        _starts(numbers[order], len(out)),
        mode="sum",
        per_sample_weights=weights.flatten()[places][order],
    )
    if totals is not None:
        totals.copy_(total_weights(codes, weights, len(out)))
    return out.copy_(sums)


def total_weights(codes: SparseCodes, weights: Tensor, features: int) -> Tensor:
    """See `Kernels.total_weights`."""
    fires = torch.where(codes.values != 0, weights, 0).flatten()
    return fires.new_zeros(features).index_add_(0, codes.indices.flatten(), fires)


def fired(codes: SparseCodes, features: int) -> Tensor:
    """See `Kernels.fired`."""
    fires = (codes.values != 0).flatten().long()
    return fires.new_zeros(features).index_add_(0, codes.indices.flatten(), fires)


def keep_lengths(weights: Tensor, grad: Tensor) -> None:
    """See `Kernels.keep_lengths`."""
    parts = zip(grad.split(_PIECE), weights.split(_PIECE), strict=True)
    for slopes, rows in parts:  # what is made of a piece stays in the cache
        slopes.addcmul_(rows, torch.linalg.vecdot(slopes, rows)[:, None], value=-1)


def unit_rows(weights: Tensor) -> None:
    """See `Kernels.unit_rows`."""
    for rows in weights.split(_PIECE):
        rows.div_(rows.norm(dim=1, keepdim=True).clamp_min(1e-12))


_PIECE = 1024


def _chunk(W: Tensor) -> int:
    """Return how many rows are encoded at once."""
    return CHUNK_ROWS if W.device.type == "cpu" else max(1, CHUNK_VALUES // len(W))


def _linear(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """Return x @ W.T + b; in the weights' precision, whatever autocast multiplies in."""
    return linear(x, W, b).to(W.dtype)


def _entries(codes: SparseCodes) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows and features of what fires, and where it lies in the flattened [rows, width]."""
    places = codes.values.flatten().nonzero().squeeze(1)
    return places // codes.values.shape[1], codes.indices.flatten()[places], places


def _starts(sorted_ids: Tensor, count: int) -> Tensor:
    """Return where each id starts in a sorted list of ids, [count]."""
    counts = torch.bincount(sorted_ids, minlength=count)
    return counts.cumsum(0) - counts
