"""Dictionaries whose encoder and decoder may have several layers, and batch norm between them."""

from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import linear, normalize

from probe_sae.errors import SettingsError
from probe_sae.sae import selection, sparse
from probe_sae.sae.chunks import by_rows
from probe_sae.sae.dictionary import SAE
from probe_sae.sae.few import few_over
from probe_sae.sae.resampling import resample
from probe_sae.sae.settings import Settings, check_choice
from probe_sae.sae.sparse import SparseCodes

SAMPLE_ROWS = 2048
"""Rows from which thresholds and biases to begin with are chosen."""
_BETWEEN = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


@dataclass(frozen=True)
class Dense(Settings):
    """Settings of architectures that may be deep."""

    hidden: tuple[int, ...] = ()
    """Widths of layers between rows and features, and in reverse between features and rows."""
    batch_norm: bool = False
    """Normalise hidden layers before the features over the batch; behind them it would undo what a
    penalty does to their strengths."""
    between: str = "relu"
    """Activation of hidden layers: relu, sigmoid, tanh."""
    output: str = "linear"
    """Activation of the reconstruction: linear, or sigmoid for rows in 0..1."""

    @property
    def is_scaled(self) -> bool:
        """Rows that a sigmoid is to reconstruct keep their own units."""
        return self.output == "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "between", tuple(_BETWEEN))
        check_choice(self, "output", ("linear", "sigmoid"))
        if any(width < 1 for width in self.hidden):
            raise SettingsError(f"hidden is {self.hidden}; expected widths of at least 1.")


class DenseSAE(SAE, ABC):
    """Features are read from the last hidden layer, or from the rows where there is none.

    h = layers(s x - b_dec),  pre = W_enc h + b_enc,
    x_hat = layers'(W_dec^T codes + b_code) + b_dec.
    """

    settings: Dense
    W_enc: nn.Parameter
    """[features, width of the last hidden layer or d_model]"""
    b_enc: nn.Parameter
    """[features]"""
    W_dec: nn.Parameter
    """[features, width of the last hidden layer or d_model]"""
    b_dec: nn.Parameter
    """[d_model]"""
    b_code: nn.Parameter | None
    """[width of the last hidden layer], where there is one."""

    def __init__(self, settings: Dense, widths: tuple[int, ...]) -> None:
        """Make a dictionary whose weights are not drawn yet."""
        super().__init__(settings, widths)
        path = (self.d_model, *settings.hidden)
        self.encoder = nn.Sequential(*self._layers(path))
        self.W_enc = nn.Parameter(torch.zeros(self.features, path[-1]))
        self.b_enc = nn.Parameter(torch.zeros(self.features))
        self.W_dec = nn.Parameter(torch.zeros(self.features, path[-1]))
        self.b_dec = nn.Parameter(torch.zeros(self.d_model))
        self.register_parameter("b_code", None)
        back: list[nn.Module] = []
        if settings.hidden:
            self.b_code = nn.Parameter(torch.zeros(path[-1]))
            *inner, last = pairwise(reversed(path))
            between = _BETWEEN[settings.between]
            back = [between()]
            for before, width in inner:
                back += [nn.Linear(before, width), between()]
            back.append(nn.Linear(*last, bias=False))
        self.decoder = nn.Sequential(*back)

    def _layers(self, path: tuple[int, ...]) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for before, width in pairwise(path):
            norm = [nn.BatchNorm1d(width)] if self.settings.batch_norm else []
            layers += [nn.Linear(before, width), *norm, _BETWEEN[self.settings.between]()]
        return layers

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw features as directions of length 1, hidden layers as Glorot and Bengio 2010 do."""
        drawn = torch.randn(self.W_dec.shape, generator=generator)
        self.W_dec.copy_(normalize(drawn, dim=1))
        self.W_enc.copy_(self.W_dec)
        for module in (*self.encoder, *self.decoder):
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                for bias in (p for name, p in module.named_parameters() if name == "bias"):
                    bias.zero_()

    @torch.no_grad()
    def initialise(self, sample: Tensor, generator: torch.Generator) -> None:
        """Take scale and variance from a sample, and its mean as the reconstruction's bias."""
        super().initialise(sample, generator)
        if self.settings.output == "linear":
            self.b_dec.copy_(self._scaled(sample).mean(0))

    @torch.no_grad()
    def _quantile(self, sample: Tensor, k: float) -> float:
        """Return the value that k pre-activations of a row are over, on average."""
        pre = self._pre(self._scaled(sample[:SAMPLE_ROWS])).flatten()
        over = max(1, len(pre) - round(k * len(sample[:SAMPLE_ROWS])))
        return float(pre.kthvalue(over).values)

    def linear_decoder(self) -> Tensor | None:
        """Return the decoder's rows; None where layers follow them."""
        is_plain = not self.settings.hidden and self.settings.output == "linear"
        return self.W_dec if is_plain else None

    @property
    def is_linear(self) -> bool:
        """Whether features are read from rows and written to them by one matrix each."""
        return self.linear_decoder() is not None

    def _hidden(self, scaled: Tensor) -> Tensor:
        """Return what features are read from."""
        return self.encoder(scaled - self.b_dec if self.settings.output == "linear" else scaled)

    def _by_rows(
        self,
        compute: Callable[[Tensor], tuple[Tensor, ...]],
        target: Tensor,
        *,
        is_light: bool = False,
    ) -> tuple[Tensor, ...]:
        """See `chunks.by_rows`; batch norm needs all rows at once."""
        if self.settings.batch_norm:
            return compute(target)
        return by_rows(compute, target, self.features, is_light=is_light)

    def _pre(self, scaled: Tensor) -> Tensor:
        """Return pre-activations, [rows, features]."""
        pre = linear(self._hidden(scaled), self.W_enc, self.b_enc)
        return pre.to(self.W_enc.dtype)

    def _few(self, scaled: Tensor, limits: Tensor) -> SparseCodes | None:
        """Return the pre-activations over their limits, [features], where they are few.

        None where the dense formulas are faster, and where layers lie between rows and features.
        """
        if not self.is_linear:
            return None
        with torch.no_grad():
            few = few_over(scaled - self.b_dec, self.W_enc, self.b_enc, limits)
        if few is None:
            return None
        weights = self.W_enc, self.b_enc
        return sparse.encode(scaled, *weights, lambda pre_activations: few, self.b_dec)

    def _over(self, scaled: Tensor, thresholds: Tensor) -> SparseCodes:
        """Return the codes where pre-activations over their feature's threshold fire."""
        select = partial(selection.over, thresholds=thresholds)
        return sparse.encode(self._hidden(scaled), self.W_enc, self.b_enc, select)

    def _reconstruct(self, codes: Tensor | SparseCodes) -> Tensor:
        return self._written(codes)

    def _written(self, codes: Tensor | SparseCodes, *, frozen: bool = False) -> Tensor:
        """Return reconstructions in scaled units; a frozen decoder gets no gradient."""
        W_dec, b_code, b_dec = self.W_dec, self.b_code, self.b_dec
        layers: dict[str, Tensor] = {}
        if frozen:
            W_dec, b_dec = W_dec.detach(), b_dec.detach()
            b_code = None if b_code is None else b_code.detach()
            layers = {name: weight.detach() for name, weight in self.decoder.named_parameters()}
        if isinstance(codes, SparseCodes):
            written = sparse.decode(codes, W_dec)
        else:
            written = codes.to(W_dec.dtype) @ W_dec
        if b_code is not None:
            written = functional_call(self.decoder, layers, (written + b_code,))
        written = written.to(W_dec.dtype) + b_dec
        return written.sigmoid() if self.settings.output == "sigmoid" else written

    @torch.no_grad()
    def _fold_norms(self, *per_feature: Tensor) -> None:
        """Give directions length 1; features say more in return, and reconstruct the same.

        Args:
            per_feature: weights that activations are proportional to, [features, ...].
        """
        lengths = self.W_dec.norm(dim=1).clamp_min(1e-12)
        self.W_dec.div_(lengths[:, None])
        for weight in per_feature:
            weight.mul_(lengths.view(-1, *(1 for _ in weight.shape[1:])))

    def _begin_anew(self, rows: Tensor, dead: Tensor, generator: torch.Generator) -> None:
        """Point dead features at badly reconstructed rows; for one matrix each way only."""
        x = self._scaled(rows)
        error = (x - self._reconstruct(self._codes(x))).square().sum(1)
        resample((self.W_enc, self.b_enc, self.W_dec), x - self.b_dec, error, dead, generator)
