"""Matryoshka: dictionaries within a dictionary, of which each reconstructs by itself."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probe_sae.errors import SettingsError
from probe_sae.sae.architectures.batchtopk import BatchTopK, BatchTopKSAE
from probe_sae.sae.sparse import SparseCodes


@dataclass(frozen=True)
class Matryoshka(BatchTopK):
    """BatchTopK whose first features must do without the later ones, and so become general.

    Source: Bussmann et al. 2025, "Learning multi-level features with Matryoshka SAEs".
    """

    arch: ClassVar[str] = "matryoshka"
    groups: tuple[float, ...] = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32)
    """Share of the features in each group; a prefix of groups is a dictionary by itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.groups or min(self.groups) <= 0 or abs(sum(self.groups) - 1) > 1e-6:
            raise SettingsError(f"groups is {self.groups}; expected shares that add up to 1.")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Features of each prefix, the whole dictionary last."""
        upto, ends = 0.0, list[int]()
        for share in self.groups:
            upto += share
            ends.append(max(1, round(upto * self.features)))
        return (*sorted({end for end in ends[:-1] if end < self.features}), self.features)

    def build(self, widths: tuple[int, ...]) -> "MatryoshkaSAE":
        """See `Settings.build`."""
        return MatryoshkaSAE(self, widths)


class MatryoshkaSAE(BatchTopKSAE):
    """The mean over prefixes of the squared error that each leaves, over rows * variance."""

    settings: Matryoshka

    def _loss(self, codes: SparseCodes, target: Tensor, decoder: Tensor) -> tuple[Tensor, Tensor]:
        x_hat, loss, begin = self.b_dec.expand_as(target), target.new_zeros(()), 0
        for end in self.settings.sizes:
            mine = (codes.indices >= begin) & (codes.indices < end)
            x_hat = x_hat + self._sum(_only(codes, mine), decoder)
            loss = loss + (target - x_hat).square().sum()
            begin = end
        return x_hat, loss / (len(self.settings.sizes) * len(target) * self.variance)


def _only(codes: SparseCodes, kept: Tensor) -> SparseCodes:
    return SparseCodes(torch.where(kept, codes.values, 0.0), codes.indices)
