"""Transcoder: features of one site that reconstruct another, such as an MLP's input and output."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from probe_sae.errors import SettingsError, ShapeError
from probe_sae.sae.architectures.batchtopk import BatchTopK, BatchTopKSAE
from probe_sae.sae.sparse import SparseCodes


@dataclass(frozen=True)
class Transcoder(BatchTopK):
    """BatchTopK from the first site's rows to the second's.

    Source: Dunefsky et al. 2024; the skip of Paulo et al. 2025, "Transcoders beat SAEs".
    """

    arch: ClassVar[str] = "transcoder"
    skip: bool = True
    """Also a matrix past the features, W_skip, for what is linear in between."""

    def build(self, widths: tuple[int, ...]) -> "TranscoderSAE":
        """See `Settings.build`."""
        if len(widths) != 2:
            raise SettingsError(
                f"a transcoder takes two sites, one to read and one to reconstruct; got "
                f"{len(widths)}. Name both (--site)."
            )
        return TranscoderSAE(self, widths)


class TranscoderSAE(BatchTopKSAE):
    """y_hat = (W_dec^T codes + W_skip (s x - centre) + b_dec) / output_scale."""

    settings: Transcoder
    output_scale: Tensor
    """Scalar: brings what is reconstructed to a mean square of 1."""
    centre: Tensor
    """[d_model] mean of the scaled rows that are read."""
    W_skip: nn.Parameter | None
    """[d_out, d_model]"""

    def _add_decoder(self) -> None:
        self.d_model, self.d_out = self.widths
        super()._add_decoder()
        self.register_buffer("output_scale", torch.ones(()))
        self.register_buffer("centre", torch.zeros(self.d_model))
        skip = nn.Parameter(torch.zeros(self.d_out, self.d_model)) if self.settings.skip else None
        self.register_parameter("W_skip", skip)

    @property
    def is_autoencoder(self) -> bool:
        """It reconstructs another site."""
        return False

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows of the first and of the second site.

        Raises:
            ShapeError: rows do not hold both sites.
        """
        if rows.shape[1] != self.d_model + self.d_out:
            raise ShapeError(
                f"rows are {rows.shape[1]} long; a transcoder learns from rows of both sites, "
                f"{self.d_model} + {self.d_out}."
            )
        return rows[:, : self.d_model], rows[:, self.d_model :]

    @torch.no_grad()
    def initialise(self, sample: Tensor, generator: torch.Generator) -> None:
        """Take scales, means and variance from a sample."""
        _, target = self.split(sample)
        power = target.double().square().sum(1).mean()
        self.output_scale.copy_((self.d_out / power) ** 0.5)
        super().initialise(sample, generator)
        self.centre.copy_(self._scaled_pair(sample)[0].mean(0))

    def reconstruct(self, x: Tensor, codes: Tensor | SparseCodes) -> Tensor:
        """See `SAE.reconstruct`: with what the skip adds."""
        y_hat = self._reconstruct(codes) + self._skipped(self._scaled(x))
        return y_hat / self._output_scale()

    def _goal(self, scaled: Tensor, target: Tensor) -> Tensor:
        return target - self._skipped(scaled)

    def _skipped(self, scaled: Tensor) -> Tensor:
        if self.W_skip is None:
            return scaled.new_zeros(())
        return self._centred(scaled) @ self.W_skip.T

    def _centre(self) -> Tensor:
        return self.centre

    def _output_scale(self) -> Tensor:
        return self.output_scale
