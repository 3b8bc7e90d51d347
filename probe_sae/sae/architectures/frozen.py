"""Baselines: dictionaries of which one half stays random.

A learned dictionary is worth something by what it does better than these. Source: "Sanity checks
for sparse autoencoders", 2026, whose random baselines came close to trained dictionaries.
"""

from dataclasses import dataclass
from typing import ClassVar

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
        sae = BatchTopKSAE(self, widths)
        sae.W_enc.requires_grad_(False)
        sae.b_enc.requires_grad_(False)
        return sae
