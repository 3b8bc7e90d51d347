"""Some entries of weights, their lengths, and sums of firings, with gradients that cost little."""

from typing import Any

import torch
from torch import Tensor

from probe_sae.sae.kernels import SparseCodes, kernels_for


def rows_of(weight: Tensor, rows: Tensor) -> Tensor:
    """Return `weight[rows]`, whose gradient is added to others in place, and takes no more memory.

    That of indexing is as large as the weight, and nearly all of it zero.

    Args:
        weight: [features, ...].
        rows: which, each once and in order.
    """
    return _Rows.apply(weight, rows)  # type: ignore[return-value]


def of_firings(per_feature: Tensor, indices: Tensor) -> Tensor:
    """Return what belongs to the feature of each firing, of the shape of `indices`.

    The gradient of indexing sorts them first; this one adds up, in a fixed order.
    """
    return _OfFirings.apply(per_feature, indices)  # type: ignore[return-value]


def totals(values: Tensor, indices: Tensor, features: int) -> Tensor:
    """Return what the firings of each feature add up to, [features]; differentiable.

    Args:
        values: [rows, width].
        indices: features they belong to, [rows, width].
        features: how many there are.
    """
    return _Totals.apply(values, indices, features)  # type: ignore[return-value]


def lengths_of(weight: Tensor) -> Tensor:
    """Return the lengths of rows, [features]; that of a row of zeros has no slope.

    torch's own gradient goes over the weight four times.

    Args:
        weight: [features, d].
    """
    return _Lengths.apply(weight)  # type: ignore[return-value]


def _spread(per_feature: Tensor, indices: Tensor) -> Tensor:
    return per_feature.index_select(0, indices.flatten()).view_as(indices)


def _add_up(values: Tensor, indices: Tensor, features: int) -> Tensor:
    codes = SparseCodes(values, indices)
    return kernels_for(values, 0).total_weights(codes, values, features)


class _OfFirings(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, per_feature: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.features = len(per_feature)
        return _spread(per_feature, indices)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (indices,) = ctx.saved_tensors
        return _add_up(grads[0], indices, ctx.features), None


class _Totals(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, features: int) -> Tensor:
        ctx.save_for_backward(indices)
        return _add_up(values, indices, features)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (indices,) = ctx.saved_tensors
        return _spread(grads[0], indices), None, None


class _Lengths(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        lengths = weight.norm(dim=1)
        ctx.save_for_backward(weight, lengths)
        return lengths

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        weight, lengths = ctx.saved_tensors
        return weight * torch.where(lengths > 0, grads[0] / lengths, 0)[:, None]


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = weight.shape
        return weight[rows]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (rows,) = ctx.saved_tensors
        with torch.sparse.check_sparse_tensor_invariants(False):  # torch 2.11 warns otherwise
            grad = torch.sparse_coo_tensor(rows[None], grads[0], ctx.shape, is_coalesced=True)
        return grad, None
