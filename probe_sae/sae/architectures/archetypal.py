"""Archetypal: every direction is a mixture of real rows, give or take a little."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from probe_sae.sae.architectures.topk import TopK, TopKSAE
from probe_sae.sae.settings import check_range


@dataclass(frozen=True)
class Archetypal(TopK):
    """TopK whose directions stay near the cone of the data, which makes them stable.

    W_dec = normalise(W C + relaxation): C are rows of the data of length 1, every row of W is a
    mixture (not negative, sums to 1), and no row of the relaxation is longer than delta.
    Source: Fel et al. 2025, "Archetypal SAE" (RA-SAE); theirs has a common length, here it is 1.
    """

    arch: ClassVar[str] = "archetypal"
    points: int = 2048
    """Rows of the data that directions are mixed from; fewer where the sample has fewer."""
    delta: float = 1.0
    """Longest relaxation; 0 keeps directions within the cone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "points", 1)
        check_range(self, "delta", 0)

    def build(self, widths: tuple[int, ...]) -> "ArchetypalSAE":
        """See `Settings.build`."""
        return ArchetypalSAE(self, widths)


class ArchetypalSAE(TopKSAE):
    """TopK with a decoder that is made of data."""

    settings: Archetypal
    points: Tensor
    """[points, d_out] rows of length 1: C."""
    mixture: nn.Parameter
    """[features, points]; its positive part, divided by its sum, is W."""
    relaxation: nn.Parameter
    """[features, d_out]"""

    def _add_decoder(self) -> None:
        self.register_buffer("W_dec", torch.zeros(self.features, self.d_out))
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))
        self.register_buffer("points", torch.zeros(self.settings.points, self.d_out))
        self.mixture = nn.Parameter(torch.zeros(self.features, self.settings.points))
        self.relaxation = nn.Parameter(torch.zeros(self.features, self.d_out))

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw random points; each feature begins near one of them."""
        drawn = torch.randn(self.points.shape, generator=generator)
        self._begin(normalize(drawn, dim=1), generator)

    @torch.no_grad()
    def initialise(self, sample: Tensor, generator: torch.Generator) -> None:
        """Take points from a sample, besides scale, variance and bias."""
        super().initialise(sample, generator)
        rows = self._scaled_pair(sample)[1] - self.b_dec
        chosen = torch.randperm(len(rows), generator=generator)
        chosen = chosen.repeat(-(-len(self.points) // len(rows)))[: len(self.points)]
        self._begin(normalize(rows[chosen], dim=1), generator)

    def _begin(self, points: Tensor, generator: torch.Generator) -> None:
        self.points.copy_(points)
        self.mixture.copy_(torch.rand(self.mixture.shape, generator=generator) / len(points))
        nearest = torch.arange(self.features) % len(points)
        self.mixture[torch.arange(self.features), nearest] += 1.0
        self.relaxation.zero_()
        self.W_dec.copy_(self._decoder())
        self.W_enc.copy_(self.W_dec)

    def _decoder(self) -> Tensor:
        mixture = self.mixture.relu()
        mixture = mixture / mixture.sum(1, keepdim=True).clamp_min(1e-8)
        return normalize(mixture @ self.points + self.relaxation, dim=1)

    def before_update(self) -> None:
        """Change nothing: directions have length 1 by their formula."""

    @torch.no_grad()
    def constrain(self) -> None:
        """Cut the relaxation down to its longest, and make the decoder."""
        length = self.relaxation.norm(dim=1, keepdim=True).clamp_min(1e-12)
        self.relaxation.mul_((self.settings.delta / length).clamp_max(1.0))
        self.W_dec.copy_(self._decoder())
