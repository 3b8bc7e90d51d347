"""Gated: one half decides which features fire, the other how strongly."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from probe_sae.sae import sparse
from probe_sae.sae.architectures.target_l0 import follow, warm_up
from probe_sae.sae.dense import Dense, DenseSAE
from probe_sae.sae.dictionary import Step
from probe_sae.sae.linear import fired as count_of
from probe_sae.sae.linear import keep_lengths, unit_rows
from probe_sae.sae.picked import of_firings
from probe_sae.sae.settings import check_range
from probe_sae.sae.sparse import SparseCodes


@dataclass(frozen=True)
class Gated(Dense):
    """Gates take the L1 penalty, so that magnitudes do not shrink.

    gate = W_enc h + b_enc,  code = [gate > 0] * relu(exp(r_mag) * W_enc h + b_mag);
    loss = error(code) + coefficient * mean of sum_i relu(gate_i) / sqrt(variance)
    + error(relu(gate) through a decoder that this term does not train), errors over variance.
    Source: Rajamanoharan et al. 2024, "Improving dictionary learning with gated SAEs".
    """

    arch: ClassVar[str] = "gated"
    by_itself: ClassVar[tuple[str, ...]] = ("coefficient",)
    betas: ClassVar[tuple[float, float]] = (0.0, 0.999)
    k: float = 32
    """Mean L0 that the coefficient is steered to, where `coefficient` is 0."""
    coefficient: float = 0.0
    """Weight of the penalty; 0 finds the one that gives k."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "k", 1e-3, self.features)
        check_range(self, "coefficient", 0)

    def build(self, widths: tuple[int, ...]) -> "GatedSAE":
        """See `Settings.build`."""
        return GatedSAE(self, widths)


class GatedSAE(DenseSAE):
    """See `Gated`; directions have length 1."""

    settings: Gated
    r_mag: nn.Parameter
    """[features] logarithm of how much longer magnitude's weights are than the gate's."""
    b_mag: nn.Parameter
    """[features]"""
    coefficient: Tensor
    """Scalar: the weight of the penalty as it is now."""

    def __init__(self, settings: Gated, widths: tuple[int, ...]) -> None:
        """Make a dictionary whose weights are not drawn yet."""
        super().__init__(settings, widths)
        self.r_mag = nn.Parameter(torch.zeros(self.features))
        self.b_mag = nn.Parameter(torch.zeros(self.features))
        self.register_buffer("coefficient", torch.full((), settings.coefficient or FIRST))

    @torch.no_grad()
    def initialise(self, sample: Tensor, generator: torch.Generator) -> None:
        """Also begin with gates of which 2 k open on a row, on average."""
        super().initialise(sample, generator)
        if not self.settings.coefficient:
            wanted = min(self.features, 2 * self.settings.k)
            self.b_enc.fill_(-max(0.0, self._quantile(sample, wanted)))

    def step(self, rows: Tensor, dead: Tensor | None = None, share: float = 1.0) -> Step:
        """See `SAE.step`."""
        target = self._scaled(rows)
        x_hat, error, opened, fired = self._sparsely(target) or self._densely(target)
        coefficient = self.coefficient
        if self.settings.coefficient:
            coefficient = coefficient * warm_up(share)
        penalty = opened / (len(target) * self.variance.sqrt())
        loss = error / (len(target) * self.variance) + coefficient * penalty
        return Step(loss, target, x_hat, fired, {"coefficient": float(coefficient)})

    def _sparsely(self, target: Tensor) -> tuple[Tensor, ...] | None:
        """Return what `_densely` does where few gates open; else None."""
        open_ = self._few(target, torch.zeros_like(self.b_enc))
        if open_ is None:
            return None
        codes = self._through(open_)
        x_hat, squared = sparse.squared_error(codes, self.W_dec, self.b_dec, target)
        frozen = self.W_dec.detach(), self.b_dec.detach()
        _, missed = sparse.squared_error(open_, *frozen, target)
        return x_hat, squared + missed, open_.values.sum(), count_of(codes, self.features)

    def _densely(self, target: Tensor) -> tuple[Tensor, ...]:
        """Return reconstruction, both errors, the sum of what gates say, and firings."""

        def compute(rows: Tensor) -> tuple[Tensor, ...]:
            gate = self._pre(rows)
            codes, open_ = self._gated(gate), gate.relu()
            missed = (rows - self._written(open_, frozen=True)).square().sum()
            return self._reconstruct(codes), missed, open_.sum(), (codes.detach() > 0).sum(0)

        x_hat, missed, opened, fired = self._by_rows(compute, target)
        return x_hat, (target - x_hat).square().sum() + missed, opened, fired

    def before_update(self) -> None:
        """Take from the decoder's gradient what would only change lengths."""
        keep_lengths(self.W_dec)

    def constrain(self) -> None:
        """Bring directions back to length 1."""
        unit_rows(self.W_dec)

    def adapt(self, step: Step) -> None:
        """Steer the coefficient to k."""
        if not self.settings.coefficient:
            follow(self.coefficient, step.l0, self.settings.k)

    @torch.no_grad()
    def resample(self, rows: Tensor, dead: Tensor, generator: torch.Generator) -> tuple[str, ...]:
        """See `resampling.resample`; not for deep dictionaries."""
        if not self.is_linear:
            return ()
        self._begin_anew(rows, dead, generator)
        self.r_mag[dead], self.b_mag[dead] = 0.0, 0.0
        return "W_enc", "b_enc", "W_dec", "r_mag", "b_mag"

    @torch.no_grad()
    def finish(self, rows: Tensor) -> None:
        """Shift all gates, where k is steered to, so that k of them open on a row of `rows`."""
        if not self.settings.coefficient:
            shut = self._quantile(rows, self.settings.k)
            self.b_enc.sub_(shut + MARGIN * abs(shut))

    def _gated(self, gate: Tensor) -> Tensor:
        """Return codes from the gates' pre-activations, [rows, features]."""
        magnitude = self.r_mag.exp() * (gate - self.b_enc) + self.b_mag
        return (gate > 0) * magnitude.relu()

    def _through(self, open_: SparseCodes) -> SparseCodes:
        """Return codes from what open gates say."""
        r_mag, b_enc, b_mag = (
            of_firings(w, open_.indices) for w in (self.r_mag.exp(), self.b_enc, self.b_mag)
        )
        magnitude = r_mag * (open_.values - b_enc) + b_mag
        return SparseCodes((open_.values > 0) * magnitude.relu(), open_.indices)

    def _codes(self, scaled: Tensor) -> SparseCodes:
        return self._through(self._over(scaled, torch.zeros_like(self.b_enc)))


MARGIN = 1e-5
"""Gates are shut by this share more than the rows ask for, so that no other rounding opens one."""
FIRST = 0.05
"""The coefficient that a search begins with."""
