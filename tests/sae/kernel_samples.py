"""What the makes of kernels are compared on, and what they add up."""

from collections.abc import Callable

import torch
from torch import Tensor

from probe_sae.sae import kernels
from probe_sae.sae.kernels import SparseCodes

Sample = tuple[Tensor, Tensor, Tensor]


def sample(rows: int, d: int, features: int, seed: int = 0) -> Sample:
    """Return rows, weights and biases of which some are large, some alike, and some zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, d, generator=generator)
    W = torch.randn(features, d, generator=generator) * torch.rand(features, 1, generator=generator)
    b = 0.3 * torch.randn(features, generator=generator)
    x[rows // 2] = 0
    x[rows // 3] *= 1000
    W[features // 2] = 0
    W[features // 3] = W[0] * 50
    b[features // 4] = -5
    return x, W, b


def _with_totals(make: kernels.Kernels, codes: SparseCodes, W: Tensor, x: Tensor) -> Tensor:
    out, totals = torch.full_like(W, 9.0), torch.full_like(W[:, 0], 9.0)
    make.sums_by_feature(codes, codes.values.cos(), x, out, totals)
    return torch.cat([out, totals[:, None]], 1)


Sum = Callable[[kernels.Kernels, SparseCodes, Tensor, Tensor], Tensor]
SUMS: dict[str, Sum] = {
    "weighted_sums": lambda make, codes, W, x: make.weighted_sums(codes, W),
    "dots": lambda make, codes, W, x: make.dots(codes, W, x),
    "x_hat": lambda make, codes, W, x: make.errors(codes, W, x[0], x).x_hat,
    "error": lambda make, codes, W, x: make.errors(codes, W, x[0], x).error,
    "error's dots": lambda make, codes, W, x: make.errors(codes, W, x[0], x).dots,
    "sums_by_feature": _with_totals,
    "total_weights": lambda make, codes, W, x: make.total_weights(codes, codes.values, len(W)),
    "fired": lambda make, codes, W, x: make.fired(codes, len(W)),
}
