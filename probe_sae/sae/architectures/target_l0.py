"""Bring the mean L0 of a penalised dictionary to a target while it trains."""

import math

import torch
from torch import Tensor

RATE = 0.02
"""How fast a coefficient follows, a step."""
WARM_UP = 0.05
"""Share of a run over which a fixed coefficient rises from 0. Source: Anthropic, April 2024."""


@torch.no_grad()
def follow(coefficient: Tensor, l0: float, k: float) -> None:
    """Raise a coefficient, a scalar, where more than k features fire on a row; else lower it."""
    if math.isfinite(l0):
        coefficient.mul_(math.exp(RATE * max(-1.0, min(1.0, l0 / k - 1))))


def warm_up(share: float) -> float:
    """Return what a fixed coefficient is multiplied with after a share of the run."""
    return min(1.0, share / WARM_UP)
