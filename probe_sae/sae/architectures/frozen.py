"""Baselines: dictionaries of which one half stays random.

A learned dictionary is worth something by what it does better than these. Source: "Sanity checks
for sparse autoencoders", 2026, whose random baselines came close to trained dictionaries.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probe_sae.sae.architectures.batchtopk import BatchTopK, BatchTopKSAE


@dataclass(frozen=True)
class FrozenDecoder(BatchTopK):
    """BatchTopK whose directions stay random; only the encoder learns."""

    arch: ClassVar[str] = "frozen_decoder"

    def build(self, widths: tuple[int, ...]) -> BatchTopKSAE:
        """See `Settings.build`."""
        sae = BatchTopKSAE(self, widths)
        sae.W_dec.requires_grad_(False)
        return sae


@dataclass(frozen=True)
class FrozenEncoder(BatchTopK):
    """BatchTopK that fires as drawn at random; only the decoder learns."""

    arch: ClassVar[str] = "frozen_encoder"
    aux_coefficient: float = 0.0
    """Weight of AuxK; a frozen encoder cannot be revived."""

    def build(self, widths: tuple[int, ...]) -> BatchTopKSAE:
        """See `Settings.build`."""
        return FrozenEncoderSAE(self, widths)


class FrozenEncoderSAE(BatchTopKSAE):
    """What the encoder sees does not change either, though the decoder's bias does."""

    centre: Tensor
    """[d_model] mean of the scaled rows."""

    def __init__(self, settings: FrozenEncoder, widths: tuple[int, ...]) -> None:
        """Make a dictionary whose weights are not drawn yet."""
        super().__init__(settings, widths)
        self.register_buffer("centre", torch.zeros(self.d_model))
        self.W_enc.requires_grad_(False)
        self.b_enc.requires_grad_(False)

    @torch.no_grad()
    def initialise(self, sample: Tensor, generator: torch.Generator) -> None:
        """Also keep the mean, for good."""
        super().initialise(sample, generator)
        self.centre.copy_(self.b_dec)

    def _centre(self) -> Tensor:
        return self.centre
