"""Dictionaries whose decoder is one matrix: directions of length 1 that are added up."""

from abc import ABC

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from probe_sae.sae import sparse
from probe_sae.sae.dictionary import SAE
from probe_sae.sae.kernels import kernels_for
from probe_sae.sae.settings import Settings
from probe_sae.sae.sparse import SparseCodes

BATCH = 512
"""Rows of a batch, about, whose other work tells whether loops over weights pay."""


class DecoderSAE(SAE, ABC):
    """x_hat = (W_dec^T codes + b_dec) / s, with rows of W_dec of length 1."""

    W_dec: Tensor
    """[features, d_out]; a parameter, but where an architecture makes it of others."""
    b_dec: nn.Parameter
    """[d_out]; also taken from what is encoded."""

    def __init__(self, settings: Settings, widths: tuple[int, ...]) -> None:
        """Make a dictionary whose weights are not drawn yet."""
        super().__init__(settings, widths)
        self._add_decoder()

    def _add_decoder(self) -> None:
        self.W_dec = nn.Parameter(torch.zeros(self.features, self.d_out))
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw random directions of length 1."""
        drawn = torch.randn(self.features, self.d_out, generator=generator)
        self.W_dec.copy_(normalize(drawn, dim=1))

    @torch.no_grad()
    def initialise(self, sample: Tensor, generator: torch.Generator) -> None:
        """Take scale and variance from a sample, and its mean as the decoder's bias."""
        super().initialise(sample, generator)
        self.b_dec.copy_(self._scaled_pair(sample)[1].mean(0))

    def linear_decoder(self) -> Tensor | None:
        """Return the decoder's rows."""
        return self.W_dec

    def before_update(self) -> None:
        """Take from the decoder's gradient what would only change the rows' length."""
        keep_lengths(self.W_dec)

    def constrain(self) -> None:
        """Bring decoder rows back to length 1."""
        if self.W_dec.requires_grad:
            unit_rows(self.W_dec)

    def _centred(self, scaled: Tensor) -> Tensor:
        """Return what the encoder sees of scaled rows."""
        return scaled - self._centre()

    def _centre(self) -> Tensor:
        """Return what is taken from scaled rows before they are encoded, [d_model]."""
        return self.b_dec

    def _reconstruct(self, codes: Tensor | SparseCodes) -> Tensor:
        return self._sum(codes, self.W_dec) + self.b_dec

    def _sum(self, codes: Tensor | SparseCodes, decoder: Tensor) -> Tensor:
        if isinstance(codes, SparseCodes):
            return sparse.decode(codes, decoder)
        return codes.to(decoder.dtype) @ decoder


class LinearSAE(DecoderSAE, ABC):
    """Also with an encoder of one matrix: codes = f(W_enc (s x - b_dec) + b_enc)."""

    W_enc: nn.Parameter
    """[features, d_model]"""
    b_enc: nn.Parameter
    """[features]"""

    def __init__(self, settings: Settings, widths: tuple[int, ...]) -> None:
        """Make a dictionary whose weights are not drawn yet."""
        super().__init__(settings, widths)
        self.W_enc = nn.Parameter(torch.zeros(self.features, self.d_model))
        self.b_enc = nn.Parameter(torch.zeros(self.features))

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw random directions of length 1; the encoder is the decoder's transpose."""
        super().reset(generator)
        if self.d_model == self.d_out:
            self.W_enc.copy_(self.W_dec)
        else:
            drawn = torch.randn(self.features, self.d_model, generator=generator)
            self.W_enc.copy_(normalize(drawn, dim=1))


@torch.no_grad()
def keep_lengths(weights: Tensor) -> None:
    """Take from a gradient what would only change the lengths of weights' rows, which are 1."""
    if weights.grad is not None:
        kernels_for(weights, BATCH).keep_lengths(weights, weights.grad)


@torch.no_grad()
def unit_rows(weights: Tensor) -> None:
    """Bring rows to length 1."""
    kernels_for(weights, BATCH).unit_rows(weights)


def fired(codes: SparseCodes, features: int) -> Tensor:
    """Return on how many rows each feature fires, [features]."""
    return kernels_for(codes.values, 0).fired(codes, features)
