"""A dictionary of features: encoder, decoder, and what brings raw activations to their scale."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from probe_sae.errors import ShapeError
from probe_sae.sae import sparse
from probe_sae.sae.settings import BatchTopK, TopK
from probe_sae.sae.sparse import SparseCodes


class Step(NamedTuple):
    """What one training batch gives."""

    loss: Tensor
    """To be minimised: squared error over the input's variance, plus the weighted AuxK."""
    codes: SparseCodes
    x_hat: Tensor
    """[rows, d_model] in the encoder's units (`input_scale` applied)."""


class SAE(nn.Module):
    """A sparse autoencoder with k firings a row.

    codes = select(W_enc (s x - b_dec) + b_enc),  x_hat = (W_dec^T codes + b_dec) / s, where
    s = `input_scale` brings rows to E||s x||^2 = d_model. Codes are in the scaled units.
    """

    W_enc: nn.Parameter
    """[features, d_model]"""
    b_enc: nn.Parameter
    """[features]"""
    W_dec: nn.Parameter
    """[features, d_model]; rows have length 1."""
    b_dec: nn.Parameter
    """[d_model]"""
    input_scale: Tensor
    """Scalar."""
    threshold: Tensor
    """Scalar: BatchTopK's smallest activation kept; NaN until calibrated."""
    provenance: dict[str, Any]
    """Where it was trained (`site`, `host`, `store`, `split`, ...), as far as known."""
    log: list[dict[str, Any]]
    """Lines of the training log."""

    def __init__(self, settings: TopK, d_model: int, *, generator: torch.Generator | None = None):
        """Make an untrained dictionary: random unit decoder rows, the encoder their transpose.

        Args:
            settings: architecture and size.
            d_model: length of a row.
            generator: where the randomness comes from; seed 0 when absent.
        """
        super().__init__()
        self.provenance: dict[str, Any] = {}
        self.log: list[dict[str, Any]] = []
        self.settings, self.d_model, self.features = settings, d_model, settings.features
        generator = generator or torch.Generator().manual_seed(0)
        directions = normalize(torch.randn(self.features, d_model, generator=generator), dim=1)
        self.W_enc = nn.Parameter(directions.clone())
        self.b_enc = nn.Parameter(torch.zeros(self.features))
        self.W_dec = nn.Parameter(directions)
        self.b_dec = nn.Parameter(torch.zeros(d_model))
        self.register_buffer("input_scale", torch.tensor(1.0))
        self.register_buffer("threshold", torch.tensor(float("nan")))

    def __repr__(self) -> str:
        return f"SAE({self.settings}, d_model={self.d_model})"

    def encode_sparse(self, x: Tensor) -> SparseCodes:
        """Return the codes of raw activations without their zeros.

        Args:
            x: [rows, d_model].

        Raises:
            ShapeError: rows are not d_model long.
        """
        return self._codes(self._scaled(x))

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes of raw activations, [rows, features]."""
        return sparse.to_dense(self.encode_sparse(x), self.features)

    def decode(self, codes: Tensor | SparseCodes) -> Tensor:
        """Return reconstructions in raw units, [rows, d_model].

        Args:
            codes: [rows, features], or what `encode_sparse` gave.
        """
        if isinstance(codes, SparseCodes):
            x_hat = sparse.decode(codes, self.W_dec)
        else:
            x_hat = codes @ self.W_dec
        return (x_hat + self.b_dec) / self.input_scale

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction of raw activations, [rows, d_model]."""
        return self.decode(self.encode_sparse(x))

    def step(self, x: Tensor, variance: Tensor, dead: Tensor | None = None) -> Step:
        """Return loss, codes and reconstruction of one training batch.

        loss = sum((s x - x_hat)^2) / (rows * variance) + aux_coefficient * AuxK.

        Args:
            x: raw activations, [rows, d_model].
            variance: total variance of s x, a scalar.
            dead: numbers of the features that have not fired for long, [dead].
        """
        scaled = self._scaled(x)
        codes = sparse.encode(scaled - self.b_dec, self.W_enc, self.b_enc, self._select())
        x_hat = sparse.decode(codes, self.W_dec) + self.b_dec
        error = scaled - x_hat
        loss = error.square().sum() / (len(x) * variance)
        if dead is not None and len(dead) and self.settings.aux_coefficient:
            loss = loss + self.settings.aux_coefficient * self._aux_k(scaled, error.detach(), dead)
        return Step(loss, codes, x_hat)

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Set BatchTopK's threshold so that `x`, [rows, d_model], has mean L0 = k.

        Other architectures need none.
        """
        if isinstance(self.settings, BatchTopK):
            codes = self._batch_codes(x)
            self.threshold.copy_(codes.values[codes.values > 0].min())

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Bring decoder rows back to length 1."""
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12))

    @torch.no_grad()
    def project_decoder_gradient(self) -> None:
        """Take from the decoder's gradient what would only change the rows' length."""
        grad = self.W_dec.grad
        if grad is not None:
            grad -= (grad * self.W_dec).sum(1, keepdim=True) * self.W_dec

    def _scaled(self, x: Tensor) -> Tensor:
        if x.ndim != 2 or x.shape[1] != self.d_model:
            raise ShapeError(
                f"activations have shape {tuple(x.shape)}; this dictionary takes "
                f"[rows, {self.d_model}]. Is this the site it was trained on?"
            )
        return x.to(self.W_enc.dtype) * self.input_scale

    def _codes(self, scaled: Tensor) -> SparseCodes:
        select = self._select()
        if isinstance(self.settings, BatchTopK) and not torch.isnan(self.threshold):
            select = partial(sparse.above, threshold=float(self.threshold))
        return sparse.encode(scaled - self.b_dec, self.W_enc, self.b_enc, select)

    def _batch_codes(self, x: Tensor) -> SparseCodes:
        scaled = self._scaled(x)
        return sparse.encode(scaled - self.b_dec, self.W_enc, self.b_enc, self._select())

    def _select(self) -> sparse.Select:
        if isinstance(self.settings, BatchTopK):
            return partial(sparse.batch_top_k, k=self.settings.k)
        return partial(sparse.top_k, k=int(self.settings.k))

    def _aux_k(self, scaled: Tensor, error: Tensor, dead: Tensor) -> Tensor:
        """Return the share of the error that the strongest dead features leave unexplained.

        Its gradient reaches encoder and decoder rows of dead features. The weight falls with their
        number, so that a single dead feature is not blamed for everything. Only positive
        pre-activations count: with negative ones as well, as many features came back, but they
        explained less (fraction unexplained 0.29 against 0.22 on a synthetic world).

        Source: Gao et al. 2024, appendix A.2; the scaling by count from EleutherAI/sparsify.
        """
        wanted = self.settings.aux_k or max(1, self.d_model // 2)
        count = min(wanted, len(dead))
        x = (scaled - self.b_dec).detach()
        select = partial(sparse.top_k, k=count)
        values, local = sparse.encode(x, self.W_enc[dead], self.b_enc[dead], select)
        aux = sparse.decode(SparseCodes(values, local), self.W_dec[dead])
        share = (error - aux).square().sum() / error.square().sum().clamp_min(1e-12)
        return share * min(len(dead) / wanted, 1.0)
