"""Matching pursuit: features are chosen one after the other, each from what is left."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probe_sae.sae.architectures.topk import TopK
from probe_sae.sae.aux_k import aux_k
from probe_sae.sae.dictionary import Step
from probe_sae.sae.linear import DecoderSAE, fired
from probe_sae.sae.sparse import SparseCodes

CHUNK_ROWS = 512


@dataclass(frozen=True)
class MatchingPursuit(TopK):
    """k rounds: the direction that the residual follows most is taken out of it.

    The encoder is the decoder's transpose. A round costs as much as a TopK's whole encoder.
    Source: Costa et al. 2025, "From flat to hierarchical: MP-SAE"; Mallat and Zhang 1993.
    """

    arch: ClassVar[str] = "matching_pursuit"

    def build(self, widths: tuple[int, ...]) -> "MatchingPursuitSAE":
        """See `Settings.build`."""
        return MatchingPursuitSAE(self, widths)


class MatchingPursuitSAE(DecoderSAE):
    """loss = sum((s x - x_hat)^2) / (rows * variance) + aux_coefficient * AuxK."""

    settings: MatchingPursuit

    def step(self, rows: Tensor, dead: Tensor | None = None, share: float = 1.0) -> Step:
        """See `SAE.step`; gradients go through every round, not through the choices."""
        _, target = self._scaled_pair(rows)
        codes, left = self._pursue(self._centred(target))
        loss = left.square().sum() / (len(target) * self.variance)
        if dead is not None and len(dead) and self.settings.aux_coefficient:
            wanted = self.settings.aux_k or max(1, self.d_out // 2)
            weights = (self.W_dec, self.W_dec.new_zeros(self.features), self.W_dec)
            aux = aux_k(left, left, weights, dead, wanted)
            loss = loss + self.settings.aux_coefficient * aux
        return Step(loss, target, target - left, fired(_merged(codes), self.features), {})

    def _codes(self, scaled: Tensor) -> SparseCodes:
        return _merged(self._pursue(self._centred(scaled))[0])

    def _pursue(self, left: Tensor) -> tuple[SparseCodes, Tensor]:
        """Return the codes of rows, a feature perhaps several times, and what is left of them."""
        values: list[Tensor] = []
        indices: list[Tensor] = []
        for _ in range(int(self.settings.k)):
            with torch.no_grad():
                best = torch.cat(
                    [(rows @ self.W_dec.T).argmax(1) for rows in left.split(CHUNK_ROWS)]
                )
            directions = self.W_dec[best]
            value = (left * directions).sum(1).relu()
            left = left - value[:, None] * directions
            values.append(value)
            indices.append(best)
        return SparseCodes(torch.stack(values, 1), torch.stack(indices, 1)), left


def _merged(codes: SparseCodes) -> SparseCodes:
    """Return the codes with every feature once in a row: its values added up."""
    same = codes.indices[:, :, None] == codes.indices[:, None, :]
    sums = (same * codes.values[:, None, :]).sum(2)
    is_first = ~same.tril(-1).any(2)
    return SparseCodes(torch.where(is_first, sums, 0.0), codes.indices)
