"""The sparse half of a step: after the top-k only rows x k entries are touched.

`encode`, `decode` and `squared_error` are differentiable; their gradients equal those of the dense
formulas (tested against autograd in float64). A step costs one matrix product, the encoder's; both
weight gradients are sums over entries sorted by feature.
"""

from collections.abc import Iterable
from math import isfinite
from typing import Any, Protocol

import torch
from torch import Tensor

from probe_sae.sae.kernels import Flat, SparseCodes, add_totals, in_rows, kernels_for

TYPICAL_ROWS = 256
"""Rows from which BatchTopK guesses its first threshold."""
CAUTION = 0.97
"""A guess is so much of the threshold that was right last time: too high costs another pass."""


class Select(Protocol):
    """Choose the firings from pre-activations."""

    def __call__(self, pre_activations: "PreActivations") -> SparseCodes:
        """Return the codes chosen; differentiation goes through their values."""
        ...


class PreActivations:
    """x @ W_enc.T + b_enc of some rows, computed in chunks of rows when asked for."""

    def __init__(self, x: Tensor, W_enc: Tensor, b_enc: Tensor) -> None:
        """Take `x` [rows, d_model], `W_enc` [features, d_model], `b_enc` [features]."""
        self.x, self.W_enc, self.b_enc = x.detach(), W_enc.detach(), b_enc.detach()
        self.rows, self.features = len(x), len(W_enc)
        self._kernels = kernels_for(self.W_enc, len(x))

    def top(self, count: int) -> SparseCodes:
        """Return the `count` largest of each row, in no order; 0 where they are not positive."""
        return self._kernels.top(self.x, self.W_enc, self.b_enc, min(count, self.features))

    def largest(self, count: int) -> SparseCodes:
        """Return the `count` of largest magnitude of each row, in no order, with their signs."""
        count = min(count, self.features)
        up, down = self.top(count), self._kernels.top(self.x, -self.W_enc, -self.b_enc, count)
        both = torch.cat([up.values, -down.values], 1)
        chosen = both.abs().topk(count, -1, sorted=False).indices
        indices = torch.cat([up.indices, down.indices], 1)
        return SparseCodes(both.gather(1, chosen), indices.gather(1, chosen))

    def over(self, limits: Tensor) -> Flat:
        """Return all over their feature's limit, [features], sorted by row."""
        return self._kernels.over(self.x, self.W_enc, self.b_enc, limits)

    def at_least(self, threshold: float) -> Flat:
        """Return all that are positive and reach `threshold`, sorted by row."""
        limit = torch.full((), threshold, dtype=self.x.dtype, device=self.x.device)
        below = torch.nextafter(limit, limit.new_full((), -torch.inf)) if threshold > 0 else limit
        return self.over(below.clamp_min(0).expand(self.features))

    def typical(self, k: float) -> float:
        """Return the value that about k pre-activations of a row reach, from a few rows; or 0."""
        few = PreActivations(self.x[:TYPICAL_ROWS], self.W_enc, self.b_enc)
        values = few.top(max(1, round(2 * k))).values.flatten()
        below = len(values) - round(few.rows * k)
        return float(values.kthvalue(max(1, below)).values) if len(values) else 0.0


def top_k(pre_activations: PreActivations, k: int) -> SparseCodes:
    """Keep the k largest positive pre-activations of each row.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders".
    """
    return pre_activations.top(k)


def signed_top_k(pre_activations: PreActivations, k: int) -> SparseCodes:
    """Keep the k pre-activations of largest magnitude of each row, with their signs."""
    return pre_activations.largest(k)


class BatchTopKSelect:
    """Keep the rows * k largest positive pre-activations of the whole batch, exactly.

    The threshold of the batch before is a guess that finds the candidates in one pass; only where
    it is too high are the rows encoded again. What is chosen does not depend on the guess.

    Source: Bussmann et al. 2024, "BatchTopK sparse autoencoders".
    """

    def __init__(self, k: float) -> None:
        """Take the mean number of firings of a row."""
        self._k, self._guess = k, float("nan")

    def __call__(self, pre_activations: PreActivations) -> SparseCodes:
        """Return the codes of a batch."""
        wanted = round(pre_activations.rows * self._k)
        guess = self._guess
        if not isfinite(guess):
            guess = 0.8 * pre_activations.typical(self._k)
        found = pre_activations.at_least(guess)
        for lower in (0.7 * guess, 0.4 * guess, 0.1 * guess, 0.0):
            if guess and len(found.values) < wanted:
                found = pre_activations.at_least(lower)
        is_enough = wanted and len(found.values) >= wanted
        if is_enough or not wanted:
            kept = _largest(found.values, wanted)
            found = Flat(*(column[kept] for column in found))
        self._guess = CAUTION * float(found.values.min()) if is_enough else 0.0
        return in_rows(found, pre_activations.rows)


def batch_top_k(pre_activations: PreActivations, k: float) -> SparseCodes:
    """Return what `BatchTopKSelect` chooses of a batch alone."""
    return BatchTopKSelect(k)(pre_activations)


def _largest(values: Tensor, count: int) -> Tensor:
    """Return where the `count` largest of a list are; of those that tie, the first."""
    if not count:
        return torch.zeros_like(values, dtype=torch.bool)
    if values.is_cuda:  # one sort is faster there than to look for the lowest
        return values.argsort(descending=True, stable=True)[:count].sort().values
    lowest = values.kthvalue(len(values) - count + 1).values
    kept = values >= lowest
    spare = int(kept.sum()) - count
    if spare:
        kept[(values == lowest).nonzero()[-spare:, 0]] = False
    return kept


def above(pre_activations: PreActivations, threshold: float) -> SparseCodes:
    """Keep every positive pre-activation that is at least `threshold`."""
    return in_rows(pre_activations.at_least(threshold), pre_activations.rows)


def over(pre_activations: PreActivations, thresholds: Tensor) -> SparseCodes:
    """Keep every pre-activation that is over its feature's threshold, [features], none negative."""
    return in_rows(pre_activations.over(thresholds), pre_activations.rows)


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
        grad_b = slopes.new_empty(features)
        grad_W = grad_x = grad_centre = None
        if ctx.needs_input_grad[1]:
            grad_W = kernels.sums_by_feature(marked, slopes, x, _gradient_of(W_enc), grad_b)
        else:
            add_totals(marked, slopes, grad_b)
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
