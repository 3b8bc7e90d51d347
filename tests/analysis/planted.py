"""Rows whose features are known exactly: an orthonormal dictionary, and the dictionary itself."""

from dataclasses import dataclass

import torch
from torch import Tensor

from probe_sae.sae import SAE, TopK, make_sae

WIDTH, K = 24, 6


@dataclass(frozen=True)
class Planted:
    """What was planted, and where."""

    rows: Tensor
    codes: Tensor
    """[rows, features] strengths that are there; 0 where a feature is silent."""
    sae: SAE


def perfect_sae(width: int = WIDTH, k: int = K, seed: int = 0) -> SAE:
    """Return a dictionary of orthonormal directions which no dimension is aligned with."""
    generator = torch.Generator().manual_seed(seed)
    turned = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    sae = make_sae(TopK(features=width, k=k), width)
    with torch.no_grad():
        sae.get_parameter("W_dec").copy_(turned)
        sae.get_parameter("W_enc").copy_(turned)
    return sae.requires_grad_(False)


def planted(rows: int = 1200, seed: int = 0, noise: float = 0.0) -> Planted:
    """Return rows on which four features fire on average."""
    generator = torch.Generator().manual_seed(seed)
    sae = perfect_sae(seed=seed)
    fires = torch.rand(rows, WIDTH, generator=generator) < 1 / 6
    strengths = 1 + 0.3 * torch.rand(rows, WIDTH, generator=generator)
    codes = torch.where(fires, strengths, 0)
    codes[codes.gt(0).sum(1) > K] = 0  # more than the dictionary can show
    x = codes @ sae.get_parameter("W_dec")
    return Planted(x + noise * torch.randn(x.shape, generator=generator), codes, sae)
