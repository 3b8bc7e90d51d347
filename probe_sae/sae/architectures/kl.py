"""KL: sigmoid features whose mean activation is drawn to a target rate."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from probe_sae.sae import sparse
from probe_sae.sae.dense import Dense, DenseSAE
from probe_sae.sae.dictionary import Step
from probe_sae.sae.settings import check_choice, check_range
from probe_sae.sae.sparse import SparseCodes

_EDGE = 1e-6
"""Mean activations are kept so far from 0 and 1, where the divergence is infinite."""


@dataclass(frozen=True)
class KL(Dense):
    """Sigmoid features; a divergence draws each feature's mean activation to rho.

    loss = mean((x - x_hat)^2) + beta * sum_j KL(rho || mean over the batch of activation_j), in the
    rows' own units: no input scale, and the mean over rows and dimensions.
    Source: Ng, "CS294A lecture notes: sparse autoencoder".
    """

    arch: ClassVar[str] = "kl"
    features: int = 32
    """Size of the dictionary."""
    rho: float = 0.05
    """Mean activation that each feature is drawn to."""
    beta: float = 5e-3
    """Weight of the divergence."""
    start: str = "data"
    """data: features begin at the target rate and the reconstruction at the rows' mean. plain: as
    torch draws layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "rho", 1e-4, 1 - 1e-4)
        check_range(self, "beta", 0)
        check_choice(self, "start", ("data", "plain"))

    @property
    def fires_above(self) -> float:
        """A sigmoid is never 0: a feature fires where it is over twice its target."""
        return min(0.5, 2 * self.rho)

    @property
    def is_scaled(self) -> bool:
        """Rows keep their own units."""
        return False

    def build(self, widths: tuple[int, ...]) -> "KLSAE":
        """See `Settings.build`."""
        return KLSAE(self, widths)

    def learning_rate(self, rows: int, width: int) -> float:
        """Return the rate that was best on MNIST, for runs of any length."""
        return 8e-3


class KLSAE(DenseSAE):
    """See `KL`."""

    settings: KL

    @torch.no_grad()
    def initialise(self, sample: Tensor, generator: torch.Generator) -> None:
        """Keep the rows' own scale; begin at the target rate and the rows' mean."""
        super().initialise(sample, generator)
        target = self._scaled(sample)
        if self.settings.start == "plain":
            self._draw_plainly(generator)
            return
        mean = target.mean(0)
        self.b_dec.copy_(mean.clamp(1e-3, 1 - 1e-3).logit() if self._is_bounded else mean)
        self.b_enc.fill_(torch.tensor(self.settings.rho).logit())

    def _draw_plainly(self, generator: torch.Generator) -> None:
        """Draw every weight and bias uniformly within 1 / sqrt(inputs), as torch's layers do."""
        inputs = {"W_enc": self.W_enc.shape[1], "W_dec": self.features}
        inputs |= {"b_enc": self.W_enc.shape[1], "b_code": self.features}
        inputs["b_dec"] = (*self.settings.hidden, self.features)[0]
        for name, parameter in self.named_parameters():
            layer = name.rpartition(".")[0]
            if layer and isinstance(self.get_submodule(layer), nn.BatchNorm1d):
                continue
            fan = inputs.get(name) or self.get_parameter(f"{layer}.weight").shape[1]
            drawn = torch.rand(parameter.shape, generator=generator) * 2 - 1
            parameter.copy_(drawn / fan**0.5)

    @property
    def _is_bounded(self) -> bool:
        return self.settings.output == "sigmoid"

    def step(self, rows: Tensor, dead: Tensor | None = None, share: float = 1.0) -> Step:
        """See `SAE.step`."""
        target = self._scaled(rows)

        def compute(rows: Tensor) -> tuple[Tensor, ...]:
            codes = self._pre(rows).sigmoid()
            return self._reconstruct(codes), codes.sum(0), self.fires(codes.detach()).sum(0)

        x_hat, total, fired = self._by_rows(compute, target, is_light=True)
        mean = total / len(target)
        divergence = kl_divergence(self.settings.rho, mean).sum()
        loss = (target - x_hat).square().mean() + self.settings.beta * divergence
        return Step(loss, target, x_hat, fired, {"mean_activation": float(mean.detach().mean())})

    def _codes(self, scaled: Tensor) -> SparseCodes:
        return sparse.all_of(self._pre(scaled).sigmoid())


def kl_divergence(rho: float, mean: Tensor) -> Tensor:
    """Return KL between coins that fall on 1 with probability rho and `mean`, in nats.

    rho ln(rho / mean) + (1 - rho) ln((1 - rho) / (1 - mean)), of the shape of `mean`.
    """
    mean = mean.clamp(_EDGE, 1 - _EDGE)
    target = torch.as_tensor(rho, dtype=mean.dtype, device=mean.device)
    return target * (target / mean).log() + (1 - target) * ((1 - target) / (1 - mean)).log()
