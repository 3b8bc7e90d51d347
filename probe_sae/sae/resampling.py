"""Resampling: dead features begin again at rows that are reconstructed badly."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

SHARE = 0.2
"""Length of a resampled encoder row over that of living ones. Source: Bricken et al. 2023."""


@torch.no_grad()
def resample(
    weights: tuple[Tensor, Tensor, Tensor],
    x: Tensor,
    squared_error: Tensor,
    dead: Tensor,
    generator: torch.Generator,
) -> None:
    """Point dead features at rows, drawn with probability proportional to loss^2.

    Together they add no more than a fifth of its length to any row: many at similar rows would
    otherwise drown what the living ones explain (on layers of a CNN: 15 times the variance).

    Args:
        weights: encoder [features, d], its bias [features] and decoder [features, d], changed.
        x: what the encoder sees, [rows, d].
        squared_error: of each row, [rows].
        dead: features to change, [dead].
        generator: where the draw comes from.

    Source: Bricken et al. 2023, "Towards monosemanticity".
    """
    W_enc, b_enc, W_dec = weights
    chances = squared_error.double().square().cpu()
    if not len(dead) or not bool((chances > 0).any()) or not bool(chances.isfinite().all()):
        return
    chosen = torch.multinomial(chances, len(dead), replacement=True, generator=generator)
    towards = normalize(x[chosen.to(x.device)], dim=1)
    living = torch.ones(len(W_enc), dtype=torch.bool, device=W_enc.device)
    living[dead] = False
    length = W_enc[living].norm(dim=1).mean() if bool(living.any()) else W_enc.new_ones(())
    written = towards * (W_dec[living].norm(dim=1).mean() if bool(living.any()) else 1.0)
    read = towards * length * SHARE
    added = ((x @ read.T).relu() @ written).norm(dim=1)
    most = float((added / x.norm(dim=1).clamp_min(1e-12)).max())
    W_enc[dead] = read * min(1.0, SHARE / max(most, 1e-12))
    W_dec[dead] = written
    b_enc[dead] = 0.0
