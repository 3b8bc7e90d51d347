"""Plain: what dictionaries of every library come down to, for use and exchange, not for training.

One matrix in, one activation function, one matrix out. Other libraries' checkpoints are read into
this form and written from it; `as_plain` brings our own dictionaries into it.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from probe_sae.errors import SettingsError
from probe_sae.sae import selection, sparse
from probe_sae.sae.dictionary import SAE, Step
from probe_sae.sae.picked import of_firings
from probe_sae.sae.settings import Settings, check_choice, check_range
from probe_sae.sae.sparse import SparseCodes

ACTIVATIONS = ("relu", "jumprelu", "topk", "signed_topk", "groupmax", "gated")
NORMALISATIONS = ("none", "layer_norm", "unit_norm")
_ROWS_AT_ONCE = 1024
EPSILON = 1e-5
"""Added to a row's standard deviation. Source: OpenAI's sparse_autoencoder, and SAELens."""


@dataclass(frozen=True)
class Plain(Settings):
    """z = normalise(x),  pre = W_enc (z - centre) + b_enc,  code = activation(pre),
    x_hat = undo(W_dec^T code + W_skip z + b_dec).
    """  # noqa: D205

    arch: ClassVar[str] = "plain"
    activation: str = "relu"
    """relu; jumprelu: pre where it is over `threshold`; topk, signed_topk: the k largest of a row;
    groupmax: the largest of each of k groups of neighbours; gated: relu(exp(r_mag) * (pre - b_enc)
    + b_mag) where pre is over 0."""
    k: int = 0
    """Firings of a row, for topk, signed_topk and groupmax."""
    normalise: str = "none"
    """none; layer_norm: (x - mean) / (std + 1e-5) of each row, n - 1 below; unit_norm: each row
    at length sqrt(d_model), one of zeros as it is."""
    skip: bool = False
    """Also W_skip, past the features."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "activation", ACTIVATIONS)
        check_choice(self, "normalise", NORMALISATIONS)
        if self.activation in ("topk", "signed_topk", "groupmax"):
            check_range(self, "k", 1, self.features)
        if self.activation == "groupmax" and self.features % self.k:
            raise SettingsError(f"k is {self.k}; groups of {self.features} features are not equal.")

    @property
    def is_signed(self) -> bool:
        """See `Settings.is_signed`."""
        return self.activation == "signed_topk"

    def build(self, widths: tuple[int, ...]) -> "PlainSAE":
        """See `Settings.build`: one width, or what is read and what is reconstructed."""
        if len(widths) > 2:
            raise SettingsError(f"a plain dictionary takes one site or two; got {len(widths)}.")
        return PlainSAE(self, widths)


class PlainSAE(SAE):
    """See `Plain`. There is no scale: what had one has it in its weights."""

    settings: Plain
    W_enc: nn.Parameter
    """[features, d_model]"""
    b_enc: nn.Parameter
    """[features]"""
    centre: nn.Parameter
    """[d_model]"""
    W_dec: nn.Parameter
    """[features, d_out]"""
    b_dec: nn.Parameter
    """[d_out]"""
    threshold: nn.Parameter | None
    """[features], for jumprelu; never negative."""
    r_mag: nn.Parameter | None
    """[features], for gated."""
    b_mag: nn.Parameter | None
    """[features], for gated."""
    W_skip: nn.Parameter | None
    """[d_out, d_model]"""

    def __init__(self, settings: Plain, widths: tuple[int, ...]) -> None:
        """Make a dictionary whose weights are zero."""
        super().__init__(settings, widths)
        self.d_model, self.d_out, many = widths[0], widths[-1], settings.features
        kind = settings.activation
        self.W_enc = _zeros(many, self.d_model)
        self.b_enc, self.centre = _zeros(many), _zeros(self.d_model)
        self.W_dec, self.b_dec = _zeros(many, self.d_out), _zeros(self.d_out)
        for name, is_there in (
            ("threshold", kind == "jumprelu"),
            ("r_mag", kind == "gated"),
            ("b_mag", kind == "gated"),
        ):
            self.register_parameter(name, _zeros(many) if is_there else None)
        skip = _zeros(self.d_out, self.d_model) if settings.skip else None
        self.register_parameter("W_skip", skip)

    @property
    def is_autoencoder(self) -> bool:
        """Whether it reconstructs the site that it reads."""
        return len(self.widths) == 1

    @property
    def is_same_for_all_rows(self) -> bool:
        """See `SAE.is_same_for_all_rows`."""
        return self.settings.normalise == "none"

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows of the first and of the second site, where there are two."""
        if self.is_autoencoder:
            return rows, rows
        return rows[:, : self.d_model], rows[:, self.d_model :]

    def linear_decoder(self) -> Tensor | None:
        """Return the decoder's rows; of normalised rows, in their units."""
        return self.W_dec

    def reconstruct(self, x: Tensor, codes: Tensor | SparseCodes) -> Tensor:
        """See `SAE.reconstruct`: in units of the rows `x`, and with what the skip adds."""
        y = self._reconstruct(codes)
        if self.W_skip is not None:
            y = y + self._scaled(x) @ self.W_skip.T
        if not self.is_autoencoder or self.settings.normalise == "none":
            return y
        if self.settings.normalise == "unit_norm":
            return y * (x.norm(dim=1, keepdim=True) / self.d_model**0.5)
        return y * x.std(1, keepdim=True) + x.mean(1, keepdim=True)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw random directions of length 1, to compare with."""
        for weight in (self.W_dec, self.W_enc):
            weight.copy_(normalize(torch.randn(weight.shape, generator=generator), dim=1))

    def step(self, rows: Tensor, dead: Tensor | None = None, share: float = 1.0) -> Step:
        """Raise: plain dictionaries are not trained.

        Raises:
            SettingsError: always.
        """
        raise SettingsError(
            "a plain dictionary is for use and exchange; it cannot be trained. Choose another "
            "architecture: `probe-sae list archs`."
        )

    def _scaled(self, x: Tensor) -> Tensor:
        x = super()._scaled(x)
        if self.settings.normalise == "unit_norm":
            lengths = x.norm(dim=1, keepdim=True)
            return x * (self.d_model**0.5 / lengths.masked_fill(lengths == 0, 1))
        if self.settings.normalise == "layer_norm":
            return (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + EPSILON)
        return x

    def _codes(self, scaled: Tensor) -> SparseCodes:
        codes = sparse.encode(scaled, self.W_enc, self.b_enc, self._select(), self.centre)
        if self.r_mag is None or self.b_mag is None:
            return codes
        return self._magnitudes(codes, self.r_mag, self.b_mag)

    def _select(self) -> selection.Select:
        k = self.settings.k
        match self.settings.activation:
            case "topk":
                return partial(selection.top_k, k=k)
            case "signed_topk":
                return partial(selection.signed_top_k, k=k)
            case "groupmax":
                return partial(_group_max, k=k)
            case "jumprelu" if self.threshold is not None:
                return partial(selection.over, thresholds=self.threshold.detach())
            case _:
                return partial(selection.above, threshold=0.0)

    def _magnitudes(self, gates: SparseCodes, r_mag: Tensor, b_mag: Tensor) -> SparseCodes:
        weights = (r_mag.exp(), self.b_enc, b_mag)
        r_mag, b_enc, b_mag = (of_firings(w, gates.indices) for w in weights)
        magnitude = r_mag * (gates.values - b_enc) + b_mag
        return SparseCodes((gates.values > 0) * magnitude.relu(), gates.indices)

    def _reconstruct(self, codes: Tensor | SparseCodes) -> Tensor:
        if isinstance(codes, SparseCodes):
            return sparse.decode(codes, self.W_dec) + self.b_dec
        return codes.to(self.W_dec.dtype) @ self.W_dec + self.b_dec


def _zeros(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*shape), requires_grad=False)


def _group_max(pre_activations: selection.PreActivations, k: int) -> SparseCodes:
    """Keep the largest positive pre-activation of each of k groups of neighbours.

    Source: "groupmax" in EleutherAI/sparsify.
    """
    values: list[Tensor] = []
    indices: list[Tensor] = []
    begins = torch.arange(k, device=pre_activations.x.device) * (pre_activations.features // k)
    for rows in pre_activations.x.split(_ROWS_AT_ONCE):
        pre = linear(rows, pre_activations.W_enc, pre_activations.b_enc)
        best = pre.relu().unflatten(1, (k, -1)).max(2)
        values.append(best.values)
        indices.append(best.indices + begins)
    return SparseCodes(torch.cat(values), torch.cat(indices))
