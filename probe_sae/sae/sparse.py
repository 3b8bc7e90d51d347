"""The sparse half of a step: after the top-k only rows x k entries are touched.

`encode` and `decode` are differentiable; their gradients equal those of the dense formulas (tested
against autograd in float64). A step costs one matrix product, the encoder's; both weight gradients
are sums over entries sorted by feature.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, linear

CHUNK_ROWS = 512
"""Rows encoded at once: their pre-activations stay near the cache and are never stored whole."""
TYPICAL_ROWS = 64
"""Rows from which BatchTopK guesses its threshold."""


class SparseCodes(NamedTuple):
    """Codes of some rows, without their zeros; entries beyond a row's firings have value 0."""

    values: Tensor
    """[rows, width] activations; zero means "not firing"."""
    indices: Tensor
    """[rows, width] int64, the features they belong to."""


class Select(Protocol):
    """Choose the firings from pre-activations."""

    def __call__(self, pre_activations: "PreActivations") -> SparseCodes:
        """Return the codes chosen; differentiation goes through their values."""
        ...


class PreActivations:
    """x @ W_enc.T + b_enc of some rows, computed in chunks of rows when asked for."""

    def __init__(self, x: Tensor, W_enc: Tensor, b_enc: Tensor) -> None:
        """Take `x` [rows, d_model], `W_enc` [features, d_model], `b_enc` [features]."""
        self.x, self.W_enc, self.b_enc = x, W_enc, b_enc
        self.rows, self.features = len(x), len(W_enc)

    def top(self, count: int) -> SparseCodes:
        """Return the `count` largest of each row, in no order."""
        count = min(count, self.features)
        parts = [
            _linear(rows, self.W_enc, self.b_enc).topk(count, -1, sorted=False)
            for rows in self.x.split(CHUNK_ROWS)
        ]
        return SparseCodes(
            torch.cat([values for values, _ in parts]), torch.cat([i for _, i in parts])
        )

    def largest(self, count: int) -> SparseCodes:
        """Return the `count` of largest magnitude of each row, in no order."""
        count, parts = min(count, self.features), list[SparseCodes]()
        for rows in self.x.split(CHUNK_ROWS):
            pre = _linear(rows, self.W_enc, self.b_enc)
            indices = pre.abs().topk(count, -1, sorted=False).indices
            parts.append(SparseCodes(pre.gather(1, indices), indices))
        values, indices = (torch.cat(column) for column in zip(*parts, strict=True))
        return SparseCodes(values, indices)

    def over(self, thresholds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows, features and values of all over their feature's threshold, [features].

        Flat lists, sorted by row. Thresholds are not negative.
        """
        return self._chosen(lambda pre: pre > thresholds)

    def at_least(self, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows, features and values of all that are positive and reach `threshold`.

        Flat lists, sorted by row.
        """
        return self._chosen(lambda pre: pre >= threshold if threshold > 0 else pre > 0)

    def _chosen(self, choose: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for start in range(0, self.rows, CHUNK_ROWS):
            pre = _linear(self.x[start : start + CHUNK_ROWS], self.W_enc, self.b_enc)
            rows, features = choose(pre).nonzero(as_tuple=True)
            parts.append((rows + start, features, pre[rows, features]))
        if not parts:
            none = torch.zeros(0, dtype=torch.int64, device=self.x.device)
            return none, none, self.x.new_zeros(0)
        rows, features, values = (torch.cat(column) for column in zip(*parts, strict=True))
        return rows, features, values

    def typical(self, k: float) -> float:
        """Return the value that about k pre-activations of a row reach, from a few rows; or 0."""
        pre = _linear(self.x[:TYPICAL_ROWS], self.W_enc, self.b_enc).flatten()
        below = pre.numel() - round(min(self.rows, TYPICAL_ROWS) * k)
        return max(0.0, float(pre.kthvalue(max(1, below)).values)) if len(pre) else 0.0


def top_k(pre_activations: PreActivations, k: int) -> SparseCodes:
    """Keep the k largest positive pre-activations of each row.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders".
    """
    values, indices = pre_activations.top(k)
    return SparseCodes(values.relu_(), indices)


def signed_top_k(pre_activations: PreActivations, k: int) -> SparseCodes:
    """Keep the k pre-activations of largest magnitude of each row, with their signs."""
    return pre_activations.largest(k)


def batch_top_k(pre_activations: PreActivations, k: float) -> SparseCodes:
    """Keep the rows * k largest positive pre-activations of the whole batch, exactly.

    A guess from the first rows, taken low, finds the candidates in one pass; only where it was too
    high are the rows encoded again.

    Source: Bussmann et al. 2024, "BatchTopK sparse autoencoders".
    """
    wanted = round(pre_activations.rows * k)
    guess = 0.7 * pre_activations.typical(k)
    rows, features, values = pre_activations.at_least(guess)
    if guess > 0 and len(values) < wanted:
        rows, features, values = pre_activations.at_least(0.0)
    if len(values) > wanted:
        kept = _largest(values, wanted)
        rows, features, values = rows[kept], features[kept], values[kept]
    return in_rows(rows, features, values, pre_activations.rows)


def _largest(values: Tensor, count: int) -> Tensor:
    """Return where the `count` largest of a list are; of those that tie, the first."""
    if not count:
        return torch.zeros_like(values, dtype=torch.bool)
    lowest = values.kthvalue(len(values) - count + 1).values
    kept = values >= lowest
    spare = int(kept.sum()) - count
    if spare:
        kept[(values == lowest).nonzero()[-spare:, 0]] = False
    return kept


def above(pre_activations: PreActivations, threshold: float) -> SparseCodes:
    """Keep every positive pre-activation that is at least `threshold`."""
    return in_rows(*pre_activations.at_least(threshold), pre_activations.rows)


def over(pre_activations: PreActivations, thresholds: Tensor) -> SparseCodes:
    """Keep every pre-activation that is over its feature's threshold, [features], none negative."""
    return in_rows(*pre_activations.over(thresholds), pre_activations.rows)


def all_of(values: Tensor) -> SparseCodes:
    """Return dense codes, [rows, features], as sparse ones that leave nothing out."""
    places = torch.arange(values.shape[1], device=values.device)
    return SparseCodes(values, places.expand(len(values), -1))


def _linear(x: Tensor, W_enc: Tensor, b_enc: Tensor) -> Tensor:
    """Return x @ W_enc.T + b_enc; in the weights' precision, whatever autocast multiplies in."""
    return linear(x, W_enc, b_enc).to(W_enc.dtype)


def in_rows(rows: Tensor, features: Tensor, values: Tensor, count: int) -> SparseCodes:
    """Return flat lists, sorted by row, as [rows, width] with zeros at the end of short rows."""
    lengths = torch.bincount(rows, minlength=count)
    width = max(1, int(lengths.max())) if count else 1
    starts = lengths.cumsum(0) - lengths
    place = rows * width + torch.arange(len(rows), device=rows.device) - starts[rows]
    laid, indices = values.new_zeros(count * width), features.new_zeros(count * width)
    laid[place], indices[place] = values, features
    return SparseCodes(laid.view(count, width), indices.view(count, width))


def encode(x: Tensor, W_enc: Tensor, b_enc: Tensor, select: Select) -> SparseCodes:
    """Return the chosen codes of `x`, differentiable in `x`, `W_enc` and `b_enc`.

    Args:
        x: [rows, d_model], the encoder's input.
        W_enc: [features, d_model].
        b_enc: [features].
        select: chooses the firings, such as `top_k`.
    """
    return SparseCodes(*_Encode.apply(x, W_enc, b_enc, select))  # type: ignore[misc]


def decode(codes: SparseCodes, W_dec: Tensor) -> Tensor:
    """Return the sum of the firing features' decoder rows, [rows, d_model]; differentiable."""
    return _Decode.apply(codes.values, codes.indices, W_dec)  # type: ignore[return-value]


def to_dense(codes: SparseCodes, features: int) -> Tensor:
    """Return the codes with their zeros, [rows, features]; differentiable in the values."""
    dense = codes.values.new_zeros(len(codes.values), features)
    return dense.scatter_add(1, codes.indices, codes.values)


class _Entries(NamedTuple):
    """The firings of a batch as flat lists."""

    rows: Tensor
    features: Tensor
    places: Tensor
    """Where each entry lies in the flattened [rows, width]."""

    @classmethod
    def of(cls, values: Tensor, indices: Tensor) -> "_Entries":
        places = values.flatten().nonzero().squeeze(1)
        return cls(places // values.shape[1], indices.flatten()[places], places)

    def offsets(self, rows: int) -> Tensor:
        """Return where the entries of each row start, [rows]."""
        return _starts(self.rows, rows)


def _starts(sorted_ids: Tensor, count: int) -> Tensor:
    """Return where each id starts in a sorted list of ids, [count]."""
    counts = torch.bincount(sorted_ids, minlength=count)
    return counts.cumsum(0) - counts


def _sum_by_feature(entries: _Entries, weights: Tensor, rows: Tensor, features: int) -> Tensor:
    """Return, for each feature, the weighted sum of the rows on which it fires, [features, d]."""
    order = entries.features.to(torch.int32).argsort()
    by_feature = entries.features[order]
    return embedding_bag(
        entries.rows[order],
        rows,
        _starts(by_feature, features),
        mode="sum",
        per_sample_weights=weights[order],
    )


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, select: Select) -> Any:
        codes = select(PreActivations(x, W_enc, b_enc))
        ctx.save_for_backward(x, W_enc, codes.values, codes.indices)
        ctx.mark_non_differentiable(codes.indices)
        return codes.values, codes.indices

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, W_enc, values, indices = ctx.saved_tensors
        entries = _Entries.of(values, indices)
        weights = grads[0].flatten()[entries.places]
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = embedding_bag(
                entries.features,
                W_enc,
                entries.offsets(len(x)),
                mode="sum",
                per_sample_weights=weights,
            )
        grad_W = _sum_by_feature(entries, weights, x, len(W_enc))
        grad_b = weights.new_zeros(len(W_enc)).index_add_(0, entries.features, weights)
        return grad_x, grad_W, grad_b, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, W_dec: Tensor) -> Tensor:
        entries = _Entries.of(values, indices)
        ctx.save_for_backward(values, W_dec, *entries)
        return embedding_bag(
            entries.features,
            W_dec,
            entries.offsets(len(values)),
            mode="sum",
            per_sample_weights=values.flatten()[entries.places],
        )

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        values, W_dec, *parts = ctx.saved_tensors
        grad, entries = grads[0].contiguous(), _Entries(*parts)
        dots = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            grad, W_dec, entries.features, entries.offsets(len(values)), entries.rows, 0
        )
        grad_values = values.new_zeros(values.numel()).index_put_((entries.places,), dots)
        kept = values.flatten()[entries.places]
        grad_W = _sum_by_feature(entries, kept, grad, len(W_dec))
        return grad_values.view_as(values), None, grad_W
