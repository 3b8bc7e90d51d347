"""TopK: each row fires its k strongest features."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from probe_sae.errors import SettingsError
from probe_sae.sae import selection, sparse
from probe_sae.sae.aux_k import aux_k
from probe_sae.sae.dictionary import SAE, Step
from probe_sae.sae.linear import LinearSAE, fired
from probe_sae.sae.settings import Settings, check_range
from probe_sae.sae.sparse import SparseCodes


@dataclass(frozen=True)
class TopK(Settings):
    """Each row fires its k strongest features.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders".
    """

    arch: ClassVar[str] = "topk"
    by_itself: ClassVar[tuple[str, ...]] = ("aux_k",)
    betas: ClassVar[tuple[float, float]] = (0.8, 0.95)
    """Short trainings find far more rare features than with Adam's own, 0.9 and 0.999; why is not
    known (`probe-sae guide defaults`)."""
    dead_share: ClassVar[float] = 1 / 100
    k: float = 32
    """Features that fire on a row."""
    aux_coefficient: float = 1 / 32
    """Weight of the loss that revives dead features."""
    aux_k: int = 0
    """Dead features that take part in it on a row; 0 is half of d_model."""

    _whole_k: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.k <= self.features:
            raise SettingsError(
                f"k is {self.k:g}, but the dictionary has {self.features} features; "
                f"choose k between 1 and {self.features}."
            )
        if self._whole_k and self.k != int(self.k):
            raise SettingsError(
                f"k is {self.k}; {self.arch} needs a whole number (batchtopk does not)."
            )
        check_range(self, "aux_coefficient", 0)
        check_range(self, "aux_k", 0)

    def build(self, widths: tuple[int, ...]) -> SAE:
        """See `Settings.build`."""
        return TopKSAE(self, widths)

    def _most(self, width: int) -> float:
        """Return what turns a direction by about a tenth: its entries are 1 / sqrt(width)."""
        return 0.115 / width**0.5


class TopKSAE(LinearSAE):
    """loss = sum((s x - x_hat)^2) / (rows * variance) + aux_coefficient * AuxK."""

    settings: TopK

    def step(self, rows: Tensor, dead: Tensor | None = None, share: float = 1.0) -> Step:
        """See `SAE.step`."""
        scaled, target = self._scaled_pair(rows)
        decoder, centre = self._decoder(), self._centre()
        codes = sparse.encode(scaled, self.W_enc, self.b_enc, self._select_at(share), centre)
        goal = self._goal(scaled, target)
        x_hat, loss = self._loss(codes, goal, decoder)
        if dead is not None and len(dead) and self.settings.aux_coefficient:
            wanted = self.settings.aux_k or max(1, self.d_out // 2)
            weights, error = (self.W_enc, self.b_enc, decoder), (goal - x_hat).detach()
            aux = aux_k(scaled - centre, error, weights, dead, wanted)
            loss = loss + self.settings.aux_coefficient * aux
        if goal is not target:
            x_hat = x_hat + (target - goal)
        return Step(loss, target, x_hat, fired(codes, self.features), {})

    def _goal(self, scaled: Tensor, target: Tensor) -> Tensor:
        """Return what the features are to reconstruct of the target."""
        return target

    def _loss(self, codes: SparseCodes, target: Tensor, decoder: Tensor) -> tuple[Tensor, Tensor]:
        """Return reconstruction and loss without AuxK."""
        x_hat, squared = sparse.squared_error(codes, decoder, self.b_dec, target)
        return x_hat, squared / (len(target) * self.variance)

    def _decoder(self) -> Tensor:
        """Return the decoder to differentiate through."""
        return self.W_dec

    def _select_at(self, share: float) -> selection.Select:
        """Return what chooses the firings when so much of the training is over."""
        return self._select()

    def _select(self) -> selection.Select:
        """Return what chooses the firings of a batch in the end."""
        return partial(selection.top_k, k=int(self.settings.k))

    def _codes(self, scaled: Tensor) -> SparseCodes:
        return self._chosen(scaled, self._select())

    @torch.no_grad()
    def _batch_codes(self, rows: Tensor) -> SparseCodes:
        """Return the codes that raw rows have together in a training batch."""
        return self._chosen(self._scaled_pair(rows)[0], self._select())

    def _chosen(self, scaled: Tensor, select: selection.Select) -> SparseCodes:
        return sparse.encode(scaled, self.W_enc, self.b_enc, select, self._centre())
