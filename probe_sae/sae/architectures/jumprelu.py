"""JumpReLU: every feature has a threshold of its own, learned with the rest."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from probe_sae.sae import sparse
from probe_sae.sae.architectures.target_l0 import warm_up
from probe_sae.sae.dense import Dense, DenseSAE
from probe_sae.sae.dictionary import Step
from probe_sae.sae.linear import fired as count_of
from probe_sae.sae.linear import keep_lengths, unit_rows
from probe_sae.sae.picked import lengths_of, of_firings, rows_of
from probe_sae.sae.settings import check_choice, check_range
from probe_sae.sae.sparse import SparseCodes


@dataclass(frozen=True)
class JumpReLU(Dense):
    """code = pre where pre > threshold; thresholds learn through a window around them.

    loss = squared error over variance + penalty + what draws dead features near their thresholds.
    Penalties: `target`, coefficient * (L0 / k - 1)^2; `step`, coefficient * L0; `tanh`,
    coefficient * sum_i tanh(4 code_i |W_dec_i|), where gradients of the window also reach the
    pre-activations and directions may have any length.
    Source: Rajamanoharan et al. 2024, "Jumping ahead"; `target`: Gemma Scope 2 and
    dictionary_learning; `tanh`: Anthropic, January 2025.
    """

    arch: ClassVar[str] = "jumprelu"
    by_itself: ClassVar[tuple[str, ...]] = ("coefficient", "bandwidth")
    betas: ClassVar[tuple[float, float]] = (0.0, 0.999)
    k: float = 32
    """Mean L0 to begin with, and with `target` the one that is aimed at."""
    penalty: str = "target"
    """target, step or tanh."""
    coefficient: float = 0.0
    """Weight of the penalty; 0 is 2 for `target`, and for the others 0.002: a firing that explains
    less than so much of the variance of a row does not pay."""
    bandwidth: float = 0.0
    """Width of the window in units of scaled pre-activations; 0 is a share of the first
    thresholds."""
    dead_coefficient: float = 1e-3
    """Weight of what draws dead features' pre-activations up to their thresholds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "penalty", ("target", "step", "tanh"))
        check_range(self, "k", 1e-3, self.features)
        for name in ("coefficient", "bandwidth", "dead_coefficient"):
            check_range(self, name, 0)

    def build(self, widths: tuple[int, ...]) -> "JumpReLUSAE":
        """See `Settings.build`."""
        return JumpReLUSAE(self, widths)


class JumpReLUSAE(DenseSAE):
    """See `JumpReLU`. Directions have length 1 in the end."""

    settings: JumpReLU
    threshold: nn.Parameter
    """[features], never negative; its learning rate is ten times that of the rest."""
    bandwidth: Tensor
    """Scalar: width of the window."""

    def __init__(self, settings: JumpReLU, widths: tuple[int, ...]) -> None:
        """Make a dictionary whose weights are not drawn yet."""
        super().__init__(settings, widths)
        self.threshold = nn.Parameter(torch.full((self.features,), 1.0))
        self.register_buffer("bandwidth", torch.full((), settings.bandwidth or WINDOW))

    @torch.no_grad()
    def initialise(self, sample: Tensor, generator: torch.Generator) -> None:
        """Also begin with thresholds over which k pre-activations of a row are, on average."""
        super().initialise(sample, generator)
        first = max(1e-3, self._quantile(sample, self.settings.k))
        self.threshold.fill_(first)
        self.bandwidth.fill_(self.settings.bandwidth or WINDOW * first)

    def step(self, rows: Tensor, dead: Tensor | None = None, share: float = 1.0) -> Step:
        """See `SAE.step`."""
        target = self._scaled(rows)
        silent = dead if dead is not None else torch.zeros(0, dtype=torch.int64)
        found = self._sparsely(target, silent) or self._densely(target, silent)
        x_hat, squared, cost, below, fired, window = found
        loss = squared / (len(target) * self.variance) + self._penalty(cost / len(target), share)
        loss = loss + self.settings.dead_coefficient * below / len(target) / self.variance.sqrt()
        notes = {
            "threshold": float(self.threshold.detach().mean()),
            "in_window": float((window > 0).double().mean()),
        }
        return Step(loss, target, x_hat, fired, notes)

    def _sparsely(self, target: Tensor, silent: Tensor) -> tuple[Tensor, ...] | None:
        """Return what `_densely` does where few reach their threshold's window; else None."""
        width = float(self.bandwidth)
        pre = self._few(target, self.threshold.detach() - width / 2)
        if pre is None:
            return None
        threshold = of_firings(self.threshold, pre.indices)
        threshold = torch.where(pre.values != 0, threshold, NEVER)  # places that hold nothing
        codes = SparseCodes(jump(pre.values, threshold, width, through=self._through), pre.indices)
        cost = self._cost(pre.values, codes.values, threshold, codes.indices)
        is_near = (pre.values - threshold).detach().abs() < width / 2
        near = torch.where(is_near, pre.values.detach(), 0)
        x_hat, squared = sparse.squared_error(codes, self.W_dec, self.b_dec, target, near)
        window = torch.bincount(pre.indices[is_near], minlength=self.features)
        below = self._below(target, silent) if len(silent) else cost.new_zeros(())
        return x_hat, squared, cost, below, count_of(codes, self.features), window

    def _below(self, target: Tensor, silent: Tensor) -> Tensor:
        """Return how far dead features are below their thresholds, summed; of some rows known."""
        some = target[:DEAD_ROWS] - self.b_dec
        pre = linear(some, rows_of(self.W_enc, silent), rows_of(self.b_enc, silent))
        missing = (rows_of(self.threshold, silent) - pre).relu().sum()
        return missing * (len(target) / len(some))

    def _densely(self, target: Tensor, silent: Tensor) -> tuple[Tensor, ...]:
        """Return what the loss consists of.

        Reconstruction, squared error, the penalty's cost, how far dead features are below their
        thresholds; of each feature the firings, and the pre-activations in its window.
        """
        width = float(self.bandwidth)

        def compute(rows: Tensor) -> tuple[Tensor, ...]:
            pre = self._pre(rows)
            codes = jump(pre, self.threshold, width, through=self._through)
            below = (self.threshold[silent] - pre[:, silent]).relu().sum()
            cost = self._cost(pre, codes, self.threshold)
            with torch.no_grad():
                fired = (codes > 0).sum(0)
                window = ((pre - self.threshold).abs() < width / 2).sum(0)
            return self._reconstruct(codes), cost, below, fired, window

        x_hat, *others = self._by_rows(compute, target)
        return x_hat, (target - x_hat).square().sum(), *others

    def constrain(self) -> None:
        """Keep thresholds from becoming negative; bring directions back to length 1."""
        with torch.no_grad():
            self.threshold.clamp_min_(0.0)
        if self.settings.penalty != "tanh":
            unit_rows(self.W_dec)

    def before_update(self) -> None:
        """Take from the decoder's gradient what would only change lengths."""
        if self.settings.penalty != "tanh":
            keep_lengths(self.W_dec)

    def finish(self, rows: Tensor) -> None:
        """Bring directions to length 1."""
        if self.is_linear:
            self._fold_norms(self.W_enc, self.b_enc, self.threshold)

    def rate_factors(self) -> dict[str, float]:
        """Let thresholds move faster: they have to go furthest."""
        return {"threshold": 10.0}

    @property
    def _through(self) -> bool:
        return self.settings.penalty == "tanh"

    def _cost(
        self, pre: Tensor, codes: Tensor, threshold: Tensor, indices: Tensor | None = None
    ) -> Tensor:
        """Return what the penalty counts, summed over rows; of all features, or of `indices`."""
        if not self._through:
            return step_count(pre, threshold, float(self.bandwidth))
        lengths = lengths_of(self.W_dec)
        lengths = lengths if indices is None else of_firings(lengths, indices)
        return (4 * codes * lengths).tanh().sum()

    def _penalty(self, cost: Tensor, share: float) -> Tensor:
        """Return the penalty from what it counts on a row, on average."""
        aimed = self.settings.penalty == "target"
        weight = self.settings.coefficient or (2.0 if aimed else 2e-3)
        weight = weight * warm_up(share)
        return weight * ((cost / self.settings.k - 1).square() if aimed else cost)

    def _codes(self, scaled: Tensor) -> SparseCodes:
        return self._over(scaled, self.threshold.detach())


DEAD_ROWS = 1024
"""Rows of a batch that dead features are measured on at most."""
NEVER = 1e30
"""A threshold that nothing is over."""
WINDOW = 0.5
"""Width of the window over the first thresholds."""


def jump(pre: Tensor, threshold: Tensor, bandwidth: float, *, through: bool = False) -> Tensor:
    """Return pre where it is over the threshold, else 0, with gradients for the threshold.

    d/d threshold = -(threshold / bandwidth) where |pre - threshold| < bandwidth / 2, else 0.

    Args:
        pre: [rows, features].
        threshold: [features], or of each pre-activation its own.
        bandwidth: width of the window.
        through: give the opposite of that gradient to `pre`, beside the plain one.

    Source: Rajamanoharan et al. 2024, equation 11; `through`: Anthropic, January 2025.
    """
    return _Jump.apply(pre, threshold, bandwidth, through)  # type: ignore[return-value]


def step_count(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """Return how many pre-activations are over their threshold, with gradients for it.

    d/d threshold = -1 / bandwidth for each within the window; none for `pre`.

    Source: Rajamanoharan et al. 2024, equation 12.
    """
    return _StepCount.apply(pre, threshold, bandwidth)  # type: ignore[return-value]


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float, through: bool
    ) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth, ctx.through = bandwidth, through
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        pre, threshold = ctx.saved_tensors
        window = (pre - threshold).abs() < ctx.bandwidth / 2
        moved = grads[0] * window * (threshold / ctx.bandwidth)
        grad_pre = grads[0] * (pre > threshold)
        if ctx.through:
            grad_pre = grad_pre + moved
        return grad_pre, -moved.sum_to_size(threshold.shape), None, None


class _StepCount(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        inside = (pre - threshold).abs() < bandwidth / 2
        ctx.save_for_backward(inside.to(pre.dtype).sum_to_size(threshold.shape))
        ctx.bandwidth = bandwidth
        return (pre > threshold).sum().to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (inside,) = ctx.saved_tensors
        return None, grads[0] * inside / -ctx.bandwidth, None
