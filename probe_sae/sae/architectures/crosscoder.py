"""Crosscoder: one set of features for several sites at once."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from probe_sae.sae.architectures.batchtopk import BatchTopK, BatchTopKSAE
from probe_sae.sae.architectures.l1 import FIRST
from probe_sae.sae.architectures.target_l0 import follow
from probe_sae.sae.chunks import by_rows
from probe_sae.sae.dictionary import Step
from probe_sae.sae.kernels import positive
from probe_sae.sae.settings import check_choice
from probe_sae.sae.sparse import SparseCodes


@dataclass(frozen=True)
class Crosscoder(BatchTopK):
    """Features that read and write several sites of a store together.

    Every site is scaled by itself, so that none drowns the others. `l1` weighs a firing by the sum
    over sites of its directions' lengths; it makes features look as if they were of one site only,
    which BatchTopK does not.
    Source: Lindsey et al. 2024, "Sparse crosscoders"; Minder et al. 2025 on the artefact.
    """

    arch: ClassVar[str] = "crosscoder"
    sparsity: str = "batchtopk"
    """batchtopk, or l1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "sparsity", ("batchtopk", "l1"))

    def build(self, widths: tuple[int, ...]) -> "CrosscoderSAE":
        """See `Settings.build`."""
        kind = CrosscoderSAE if self.sparsity == "batchtopk" else L1CrosscoderSAE
        return kind(self, widths)


class CrosscoderSAE(BatchTopKSAE):
    """Rows hold the sites one after the other, as `widths` says."""

    settings: Crosscoder

    def __init__(self, settings: Crosscoder, widths: tuple[int, ...]) -> None:
        """Make a dictionary whose weights are not drawn yet."""
        super().__init__(settings, widths)
        self.input_scale: Tensor = torch.ones(self.d_model)

    @torch.no_grad()
    def initialise(self, sample: Tensor, generator: torch.Generator) -> None:
        """Scale every site to a mean square of 1, besides the rest."""
        super().initialise(sample, generator)
        squares = sample.double().square()
        power = [part.mean() for part in squares.split(list(self.widths), 1)]
        scales = [p.rsqrt().expand(width) for p, width in zip(power, self.widths, strict=True)]
        self.input_scale.copy_(torch.cat(scales))
        scaled = self._scaled(sample)
        self.variance.copy_(scaled.var(0, correction=0).sum())
        self.b_dec.copy_(scaled.mean(0))

    def site_norms(self) -> Tensor:
        """Return the length of each feature's direction at each site, [sites, features].

        In scaled units, so that sites can be compared: a feature of one site only has 0 elsewhere.
        """
        parts = self.W_dec.split(list(self.widths), 1)
        return torch.stack([part.norm(dim=1) for part in parts])


class L1CrosscoderSAE(CrosscoderSAE):
    """loss = error over variance + coefficient * mean of sum_i code_i * sum_s |W_dec_i^s| / sd."""

    coefficient: Tensor
    """Scalar: the weight of the penalty, steered to a mean L0 of k."""

    def __init__(self, settings: Crosscoder, widths: tuple[int, ...]) -> None:
        """Make a dictionary whose weights are not drawn yet."""
        super().__init__(settings, widths)
        self.register_buffer("coefficient", torch.full((), FIRST))

    def step(self, rows: Tensor, dead: Tensor | None = None, share: float = 1.0) -> Step:
        """See `SAE.step`."""
        target = self._scaled(rows)

        def compute(rows: Tensor) -> tuple[Tensor, ...]:
            codes = self._dense_codes(rows)
            return codes @ self.W_dec + self.b_dec, codes.sum(0), (codes.detach() > 0).sum(0)

        x_hat, total, fired = by_rows(compute, target, self.features)
        error = (target - x_hat).square().sum() / (len(target) * self.variance)
        cost = total @ self.site_norms().sum(0) / (len(target) * self.variance.sqrt())
        notes = {"coefficient": float(self.coefficient)}
        return Step(error + self.coefficient * cost, target, x_hat, fired, notes)

    def before_update(self) -> None:
        """Change nothing: lengths are penalised, not kept."""

    def constrain(self) -> None:
        """Change nothing: lengths are penalised, not kept."""

    def adapt(self, step: Step) -> None:
        """Steer the coefficient to k."""
        follow(self.coefficient, step.l0, self.settings.k)

    @torch.no_grad()
    def finish(self, rows: Tensor) -> None:
        """Give directions, over all sites, length 1; features say more in return."""
        lengths = self.W_dec.norm(dim=1).clamp_min(1e-12)
        self.W_dec.div_(lengths[:, None])
        self.W_enc.mul_(lengths[:, None])
        self.b_enc.mul_(lengths)

    def _dense_codes(self, scaled: Tensor) -> Tensor:
        return (self._centred(scaled) @ self.W_enc.T + self.b_enc).relu()

    def _codes(self, scaled: Tensor) -> SparseCodes:
        return positive(self._dense_codes(scaled))
