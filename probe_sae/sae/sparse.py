"""The sparse half of a step: after the top-k only rows x k entries are touched.

`encode`, `decode` and `squared_error` are differentiable; their gradients equal those of the dense
formulas (tested against autograd in float64). A step costs one matrix product, the encoder's; both
weight gradients are sums over entries sorted by feature.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from probe_sae.sae.kernels import SparseCodes, kernels_for
from probe_sae.sae.selection import PreActivations, Select


def all_of(values: Tensor) -> SparseCodes:
    """Return dense codes, [rows, features], as sparse ones that leave nothing out."""
    places = torch.arange(values.shape[1], device=values.device)
    return SparseCodes(values, places.expand(len(values), -1))


def encode(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, select: Select, centre: Tensor | None = None
) -> SparseCodes:
    """Return the chosen codes of `x - centre`, differentiable in all of them.

    Args:
        x: [rows, d_model].
        W_enc: [features, d_model].
        b_enc: [features].
        select: chooses the firings, such as `top_k`.
        centre: [d_model] what is taken from all rows; nothing by default. Its gradient costs less
            than that of `x`: what all rows add up to is known from that of `b_enc`.
    """
    return SparseCodes(*_Encode.apply(x, W_enc, b_enc, centre, select))  # type: ignore[misc]


def decode(codes: SparseCodes, W_dec: Tensor) -> Tensor:
    """Return the sum of the firing features' decoder rows, [rows, d_model]; differentiable."""
    return _Decode.apply(codes.values, codes.indices, W_dec)  # type: ignore[return-value]


def squared_error(
    codes: SparseCodes,
    W_dec: Tensor,
    bias: Tensor,
    target: Tensor,
    silent: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return x_hat = `decode(codes, W_dec) + bias` and sum((x_hat - target)^2); differentiable.

    Faster than the formulas: errors and the gradient of the codes come of one pass.

    Args:
        codes: of some rows.
        W_dec: [features, d].
        bias: [d].
        target: [rows, d].
        silent: [rows, width] not zero where codes that are zero are to have a gradient as well;
            nowhere by default.
    """
    return _SquaredError.apply(  # type: ignore[return-value]
        codes.values, codes.indices, W_dec, bias, target, silent
    )


def to_dense(codes: SparseCodes, features: int) -> Tensor:
    """Return the codes with their zeros, [rows, features]; differentiable in the values."""
    dense = codes.values.new_zeros(len(codes.values), features)
    return dense.scatter_add(1, codes.indices, codes.values)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, centre: Tensor | None, select: Select
    ) -> Any:
        x = x if centre is None else x - centre
        codes = select(PreActivations(x, W_enc, b_enc))
        ctx.save_for_backward(x, W_enc, codes.values, codes.indices)
        ctx.mark_non_differentiable(codes.indices)
        return codes.values, codes.indices

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, W_enc, values, indices = ctx.saved_tensors
        features, kernels = len(W_enc), kernels_for(W_enc, len(x))
        slopes = torch.where(values != 0, grads[0], 0)
        marked = SparseCodes(slopes, indices)  # what has no slope adds nothing
        grad_W = grad_x = grad_centre = None
        if ctx.needs_input_grad[1]:
            grad_b = slopes.new_empty(features)
            grad_W = kernels.sums_by_feature(marked, slopes, x, _gradient_of(W_enc), grad_b)
        else:
            grad_b = kernels.total_weights(marked, slopes, features)
        if ctx.needs_input_grad[0]:
            grad_x = kernels.weighted_sums(marked, W_enc)
        if ctx.needs_input_grad[3]:
            grad_centre = -(grad_b @ W_enc)
        return grad_x, grad_W, grad_b, grad_centre, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, W_dec: Tensor) -> Tensor:
        ctx.save_for_backward(values, indices, W_dec)
        return kernels_for(W_dec, len(values)).weighted_sums(SparseCodes(values, indices), W_dec)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        values, indices, W_dec = ctx.saved_tensors
        codes, kernels = SparseCodes(values, indices), kernels_for(W_dec, len(values))
        grad_W = None
        if ctx.needs_input_grad[2]:
            grad_W = kernels.sums_by_feature(codes, values, grads[0], _gradient_of(W_dec))
        return kernels.dots(codes, W_dec, grads[0]), None, grad_W


class _SquaredError(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        indices: Tensor,
        W_dec: Tensor,
        bias: Tensor,
        target: Tensor,
        silent: Tensor | None,
    ) -> Any:
        kernels = kernels_for(W_dec, len(target))
        found = kernels.errors(SparseCodes(values, indices), W_dec, bias, target)
        dots = found.dots
        if silent is not None:
            marked = SparseCodes(torch.where(values != 0, 0, silent), indices)
            dots = dots + kernels.dots(marked, W_dec, found.error)
            silent = torch.where(values != 0, values, silent)
        ctx.save_for_backward(values, indices, W_dec, found.error, dots, silent)
        ctx.set_materialize_grads(False)
        error = found.error.flatten()
        return found.x_hat, error.dot(error)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        values, indices, W_dec, error, dots, marks = ctx.saved_tensors
        codes, kernels = SparseCodes(values, indices), kernels_for(W_dec, len(error))
        of_x_hat, of_sum = grads
        if of_x_hat is None:
            # all is proportional to the error: the factor goes where there is least to multiply
            scale, slope = 2 * of_sum, error
            grad_values = dots * scale
        else:
            scale = torch.ones((), dtype=error.dtype, device=error.device)
            slope = of_x_hat if of_sum is None else of_x_hat + 2 * of_sum * error
            marked = codes if marks is None else SparseCodes(marks, indices)
            grad_values = kernels.dots(marked, W_dec, slope)
        grad_W = grad_bias = grad_target = None
        if ctx.needs_input_grad[2]:
            out = _gradient_of(W_dec)
            grad_W = kernels.sums_by_feature(codes, values * scale, slope, out)
        if ctx.needs_input_grad[3]:
            grad_bias = slope.sum(0) * scale
        if ctx.needs_input_grad[4] and of_sum is not None:
            grad_target = -2 * of_sum * error
        return grad_values, None, grad_W, grad_bias, grad_target, None


def release_gradients(parameters: Iterable[Tensor]) -> None:
    """Forget gradients, but keep the memory of those that are made here for the next step's.

    They are as large as the dictionary; new memory each time, which the system clears first, takes
    a tenth of a step.
    """
    for parameter in parameters:
        if hasattr(parameter, _SPARE):
            setattr(parameter, _SPARE, parameter.grad)
        parameter.grad = None


def _gradient_of(W: Tensor) -> Tensor:
    """Return memory for the gradient of a weight, and ask for it to be kept."""
    spare = getattr(W, _SPARE, None)
    if W.is_leaf:
        setattr(W, _SPARE, None)  # whoever holds it now is its only owner, so autograd takes it
    return torch.empty_like(W) if spare is None else spare


_SPARE = "spare_gradient"
