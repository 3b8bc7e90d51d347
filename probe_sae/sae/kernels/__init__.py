"""The sparse half of a step, in several makes: after the top-k only firings are touched.

`reference` is the plain formulas; `cpu` and `cuda` give the same up to rounding, and faster. None
of them is differentiable: `probe_sae.sae.sparse` is.
"""

from functools import cache
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor

from probe_sae.sae.kernels import reference
from probe_sae.sae.kernels.firings import Errors, Flat, SparseCodes, in_rows, positive

WORTHWHILE = 1 << 27
"""Multiplications of an encoding from which compiled loops pay for their compilation."""


class Kernels(Protocol):
    """What every make gives."""

    def top(self, x: Tensor, W: Tensor, b: Tensor, k: int) -> SparseCodes:
        """Return the k largest positive of x @ W.T + b of each row, in no order.

        Args:
            x: [rows, d].
            W: [features, d].
            b: [features].
            k: at most `features`.
        """
        ...

    def over(self, x: Tensor, W: Tensor, b: Tensor, limits: Tensor) -> Flat:
        """Return all of x @ W.T + b that are over their feature's limit, [features]."""
        ...

    def weighted_sums(self, codes: SparseCodes, W: Tensor) -> Tensor:
        """Return the sum of each row's values times their features' rows of W, [rows, d]."""
        ...

    def dots(self, codes: SparseCodes, W: Tensor, x: Tensor) -> Tensor:
        """Return each firing's row of x times its feature's row of W, [rows, width]."""
        ...

    def errors(self, codes: SparseCodes, W: Tensor, bias: Tensor, target: Tensor) -> Errors:
        """Return what `weighted_sums` and a bias miss of a target."""
        ...

    def sums_by_feature(
        self,
        codes: SparseCodes,
        weights: Tensor,
        x: Tensor,
        out: Tensor,
        totals: Tensor | None = None,
    ) -> Tensor:
        """Write, for each feature, the sum of the rows that fire it times weights, and return it.

        Args:
            codes: say what fires.
            weights: [rows, width], one for each firing.
            x: [rows, d].
            out: [features, d].
            totals: [features] where to write sums of weights as well; none where none fires.
        """
        ...

    def total_weights(self, codes: SparseCodes, weights: Tensor, features: int) -> Tensor:
        """Return the sum of the weights, [rows, width], of each feature's firings, [features]."""
        ...

    def fired(self, codes: SparseCodes, features: int) -> Tensor:
        """Return on how many rows each feature fires, [features] int64."""
        ...

    def keep_lengths(self, weights: Tensor, grad: Tensor) -> None:
        """Take from a gradient what would only change the lengths of weights' rows, which are 1."""
        ...

    def unit_rows(self, weights: Tensor) -> None:
        """Bring rows to length 1."""
        ...


def kernels_for(W: Tensor, rows: int) -> Kernels:
    """Return the make for weights [features, d] and so many rows.

    It depends on nothing but device, dtype and sizes, so that a run can be repeated to the bit.
    """
    if W.dtype != torch.float32:
        return reference
    if W.device.type == "cpu" and W.numel() * rows >= WORTHWHILE:
        from probe_sae.sae.kernels import cpu  # compiles; small work never needs it

        return cpu
    if W.device.type == "cuda" and _has_triton(W.device):
        from probe_sae.sae.kernels import cuda

        return cuda
    return reference


@cache
def _has_triton(device: torch.device) -> bool:
    """Return whether there is Triton, and a GPU that it has code for, with cores for float16."""
    return find_spec("triton") is not None and torch.cuda.get_device_capability(device) >= (7, 0)


__all__ = [
    "WORTHWHILE",
    "Errors",
    "Flat",
    "Kernels",
    "SparseCodes",
    "in_rows",
    "kernels_for",
    "positive",
]
