"""ReLU and L1: the classic, with a penalty on what features say."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probe_sae.sae import sparse
from probe_sae.sae.architectures.target_l0 import follow, warm_up
from probe_sae.sae.dense import Dense, DenseSAE
from probe_sae.sae.dictionary import Step
from probe_sae.sae.linear import fired as count_of
from probe_sae.sae.linear import keep_lengths, unit_rows
from probe_sae.sae.picked import lengths_of, totals
from probe_sae.sae.settings import check_choice, check_range
from probe_sae.sae.sparse import SparseCodes


@dataclass(frozen=True)
class L1(Dense):
    """ReLU (or sigmoid) features with an L1 penalty.

    loss = squared error over variance
    + coefficient * mean over rows of sum_i activation_i * |W_dec_i| / sqrt(variance).
    Source: Bricken et al. 2023 (`unit_norm`); Anthropic's April 2024 update (lengths in the
    penalty).
    """

    arch: ClassVar[str] = "l1"
    by_itself: ClassVar[tuple[str, ...]] = ("coefficient",)
    k: float = 32
    """Mean L0 that the coefficient is steered to, where `coefficient` is 0."""
    coefficient: float = 0.0
    """Weight of the penalty; 0 finds the one that gives k. With E||x||^2 = d and an error that is
    summed, as other libraries have it, theirs is sqrt(d) times this."""
    unit_norm: bool = False
    """Keep directions at length 1 while training, instead of penalising their length."""
    activation: str = "relu"
    """relu, or sigmoid for features between 0 and 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "k", 1e-3, self.features)
        check_range(self, "coefficient", 0)
        check_choice(self, "activation", ("relu", "sigmoid"))

    @property
    def fires_above(self) -> float:
        """A sigmoid is never 0: its feature fires where it is over a tenth."""
        return 0.1 if self.activation == "sigmoid" else 0.0

    def _most(self, width: int) -> float:
        """Return less for wide rows, whose weights are small.

        At 0.01, on rows of width 1792, features died and L0 overshot.
        """
        return min(super()._most(width), 0.15 / width**0.5)

    def build(self, widths: tuple[int, ...]) -> "L1SAE":
        """See `Settings.build`."""
        return L1SAE(self, widths)


class L1SAE(DenseSAE):
    """See `L1`. Directions have length 1 in the end; features are scaled to match."""

    settings: L1
    coefficient: Tensor
    """Scalar: the weight of the penalty as it is now."""

    def __init__(self, settings: L1, widths: tuple[int, ...]) -> None:
        """Make a dictionary whose weights are not drawn yet."""
        super().__init__(settings, widths)
        self.register_buffer("coefficient", torch.full((), settings.coefficient or FIRST))

    @torch.no_grad()
    def initialise(self, sample: Tensor, generator: torch.Generator) -> None:
        """Also begin with biases that let 2 k features of a row fire, on average."""
        super().initialise(sample, generator)
        if self.settings.activation == "relu" and not self.settings.coefficient:
            wanted = min(self.features, 2 * self.settings.k)
            self.b_enc.fill_(-max(0.0, self._quantile(sample, wanted)))

    def step(self, rows: Tensor, dead: Tensor | None = None, share: float = 1.0) -> Step:
        """See `SAE.step`."""
        target = self._scaled(rows)
        x_hat, squared, total, fired = self._sparsely(target) or self._densely(target)
        error = squared / (len(target) * self.variance)
        weighted = total @ self._lengths() / (len(target) * self.variance.sqrt())
        coefficient = self.coefficient
        if self.settings.coefficient:
            coefficient = coefficient * warm_up(share)
        notes = {"coefficient": float(coefficient)}
        return Step(error + coefficient * weighted, target, x_hat, fired, notes)

    def _sparsely(self, target: Tensor) -> tuple[Tensor, ...] | None:
        """Return what `_densely` does where few features fire; else None."""
        if self.settings.activation != "relu":
            return None
        codes = self._few(target, torch.zeros_like(self.b_enc))
        if codes is None:
            return None
        x_hat, squared = sparse.squared_error(codes, self.W_dec, self.b_dec, target)
        total = totals(codes.values, codes.indices, self.features)
        return x_hat, squared, total, count_of(codes, self.features)

    def _densely(self, target: Tensor) -> tuple[Tensor, ...]:
        """Return reconstruction, squared error, and of each feature sum and number of firings."""

        def compute(rows: Tensor) -> tuple[Tensor, ...]:
            codes = self._activations(self._pre(rows))
            return self._reconstruct(codes), codes.sum(0), self.fires(codes.detach()).sum(0)

        x_hat, total, fired = self._by_rows(compute, target, is_light=True)
        return x_hat, (target - x_hat).square().sum(), total, fired

    def before_update(self) -> None:
        """Take from the decoder's gradient what would only change lengths, if they are kept."""
        if self.settings.unit_norm:
            keep_lengths(self.W_dec)

    def constrain(self) -> None:
        """Keep directions at length 1, if that is wanted."""
        if self.settings.unit_norm:
            unit_rows(self.W_dec)

    def adapt(self, step: Step) -> None:
        """Steer the coefficient to k."""
        if not self.settings.coefficient:
            follow(self.coefficient, step.l0, self.settings.k)

    @torch.no_grad()
    def resample(self, rows: Tensor, dead: Tensor, generator: torch.Generator) -> tuple[str, ...]:
        """See `resampling.resample`; not for deep dictionaries."""
        if not self.is_linear or self.settings.activation != "relu":
            return ()
        self._begin_anew(rows, dead, generator)
        return "W_enc", "b_enc", "W_dec"

    def finish(self, rows: Tensor) -> None:
        """Bring directions to length 1."""
        if self.is_linear and self.settings.activation == "relu":
            self._fold_norms(self.W_enc, self.b_enc)

    def _lengths(self) -> Tensor:
        """Return what activations of each feature cost, [features].

        Without the lengths, small activations behind long rows of W_dec would cost nothing.
        """
        return torch.ones_like(self.b_enc) if self.settings.unit_norm else lengths_of(self.W_dec)

    def _activations(self, pre: Tensor) -> Tensor:
        return pre.relu() if self.settings.activation == "relu" else pre.sigmoid()

    def _codes(self, scaled: Tensor) -> SparseCodes:
        if self.settings.activation == "relu":
            return self._over(scaled, torch.zeros_like(self.b_enc))
        return sparse.all_of(self._activations(self._pre(scaled)))


FIRST = 0.05
"""The coefficient that a search begins with."""
