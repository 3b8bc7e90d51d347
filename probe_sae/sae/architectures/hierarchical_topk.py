"""Hierarchical TopK: one dictionary that is good at every number of firings up to k."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from probe_sae.sae.architectures.topk import TopK, TopKSAE
from probe_sae.sae.sparse import SparseCodes


@dataclass(frozen=True)
class HierarchicalTopK(TopK):
    """TopK whose reconstruction is also good from only the strongest 1, 2, ... k firings.

    Source: "HierarchicalTopK", Balagansky et al. 2025 (FlexSAE).
    """

    arch: ClassVar[str] = "hierarchical_topk"

    def build(self, widths: tuple[int, ...]) -> "HierarchicalTopKSAE":
        """See `Settings.build`."""
        return HierarchicalTopKSAE(self, widths)


class HierarchicalTopKSAE(TopKSAE):
    """The mean over j = 1..k of the squared error that the j strongest firings leave."""

    def _loss(self, codes: SparseCodes, target: Tensor, decoder: Tensor) -> tuple[Tensor, Tensor]:
        order = codes.values.detach().argsort(1, descending=True)
        values, indices = codes.values.gather(1, order), codes.indices.gather(1, order)
        begin = target - self.b_dec
        loss: Tensor = _PrefixError.apply(begin, values, indices, decoder)  # type: ignore[assignment]
        with torch.no_grad():
            x_hat = self._sum(codes, decoder) + self.b_dec
        return x_hat, loss / (len(target) * self.variance)


class _PrefixError(torch.autograd.Function):
    """mean over j of sum((x - sum of the first j values times their directions)^2).

    Every prefix's error is [rows, d]; they are made again in the backward pass, one at a time,
    since all of them would take k times a batch.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, indices: Tensor, decoder: Tensor) -> Tensor:
        left, total = x.clone(), x.new_zeros(())
        for j in range(values.shape[1]):
            left -= values[:, j : j + 1] * decoder[indices[:, j]]
            total += left.square().sum()
        ctx.save_for_backward(left, values, indices, decoder)
        return total / values.shape[1]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        left, values, indices, decoder = ctx.saved_tensors
        k = values.shape[1]
        # d loss / d (sum of the first j) = -2/k * left_j; direction i is in every j >= i.
        left, later = left.clone(), torch.zeros_like(left)
        grad_values, grad_decoder = torch.zeros_like(values), torch.zeros_like(decoder)
        for j in reversed(range(k)):
            later += left
            directions, value = decoder[indices[:, j]], values[:, j : j + 1]
            grad_values[:, j] = -(later * directions).sum(1)
            grad_decoder.index_add_(0, indices[:, j], later * -value)
            left += value * directions
        scale = 2 / k * grads[0]
        return scale * later, scale * grad_values, None, scale * grad_decoder
