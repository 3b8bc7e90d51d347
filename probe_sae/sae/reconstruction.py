"""Metrics of a reconstruction, streamed in float64: batch by batch equals the whole."""

import torch
from torch import Tensor

from probe_sae.errors import ShapeError
from probe_sae.sae.sparse import SparseCodes

DENSE = 0.1
"""A feature that fires on a larger share of rows than this is dense."""

_PIECE_OF_GPU = 8192
_PIECE = 1024

DEFINITIONS = {
    "rows_evaluated": "Rows that the metrics were computed on: those held out from training, or "
    "all of a store that the dictionary was not trained on, or held nothing out of.",
    "fraction_unexplained": "Sum of squared errors over sum of squared deviations from the mean of"
    " each dimension, over all rows, in float64. 0 is perfect, 1 is no better than the mean.",
    "l0": "Mean number of features that fire on a row. Thresholds that are set so that it is k "
    "(BatchTopK and its kin) are set on held-out rows, these among them.",
    "dead_fraction": "Share of features that fire on none of these rows.",
    "dense_fraction": f"Share of features that fire on over {DENSE:.0%} of these rows.",
    "test_mse": "Mean squared error in the rows' own units, mean of the means of batches of 128.",
    "mean_activation": "Each feature's mean activation.",
    "loss_recovered": "(mean-ablated - spliced) / (mean-ablated - original): 1 means that the host"
    " does as well with the reconstruction in place of its activations, 0 as badly as with their"
    " mean.",
    "loss": "The host's mean cross-entropy in nats, on the same inputs: as it is, with recorded"
    " rows replaced by their reconstruction (spliced), by their mean, by zero.",
}


def fraction_unexplained(x: Tensor, x_hat: Tensor) -> float:
    """Return the share of the variance of `x` that `x_hat` misses: 0 is perfect, 1 is the mean.

    sum((x - x_hat)^2) / sum((x - mean over rows of x)^2), over rows and dimensions, in float64.

    Args:
        x: activations, [rows, d_model].
        x_hat: their reconstructions, the same shape.

    Raises:
        ShapeError: the shapes differ.

    Source: "FVU" in EleutherAI/sparsify; not OpenAI's loss, which does not subtract the mean.
    """
    meter = ReconstructionMeter(features=0)
    meter.add(x, x_hat)
    return meter.fraction_unexplained


class ReconstructionMeter:
    """Gather errors, variance and firings over batches of uneven size."""

    def __init__(self, features: int, fires_above: float = 0.0) -> None:
        """Begin with nothing seen.

        Args:
            features: size of the dictionary.
            fires_above: a feature fires where the magnitude of its activation is over this.
        """
        self._fires_above = fires_above
        self.rows = self.firings = 0
        self.squared_error = 0.0
        self.fired = torch.zeros(features, dtype=torch.int64)
        """[features] rows on which each fired."""
        self._shift: Tensor | None = None
        self._sum = self._square = torch.zeros(0)

    def add(self, x: Tensor, x_hat: Tensor, codes: SparseCodes | None = None) -> None:
        """Take in a batch.

        Args:
            x: raw activations, [rows, d_model].
            x_hat: their reconstructions, the same shape.
            codes: the codes in between, where firings are to be counted.

        Raises:
            ShapeError: the shapes differ.
        """
        if x.shape != x_hat.shape:
            raise ShapeError(f"x is {tuple(x.shape)}, x_hat is {tuple(x_hat.shape)}.")
        shift = self._shift_of(x)
        piece = _PIECE_OF_GPU if shift.is_cuda else _PIECE
        x, x_hat = x.detach().to(shift.device), x_hat.detach().to(shift.device)
        for part, part_hat in zip(x.split(piece), x_hat.split(piece), strict=True):
            self._add(part.double(), part_hat.double(), shift)
        if codes is not None:
            fires = codes.values.abs() > self._fires_above
            self.firings += int(fires.sum())
            features = codes.indices[fires].cpu()
            self.fired += torch.bincount(features, minlength=len(self.fired))

    def _shift_of(self, x: Tensor) -> Tensor:
        """Return what is taken from all rows, so that sums of squares keep their digits.

        It is about their mean, and lies where rows are added up: where the first ones are, if that
        is a GPU. To copy rows from there would take as long as several steps.
        """
        if self._shift is None:
            first = x[:_PIECE].detach().to(x.device if x.is_cuda else "cpu")
            self._shift = first.double().mean(0)
            self._sum, self._square = torch.zeros_like(self._shift), torch.zeros_like(self._shift)
        return self._shift

    def _add(self, x: Tensor, x_hat: Tensor, shift: Tensor) -> None:
        """Take in some rows of a batch: several times their size is in memory for a moment."""
        self.rows += len(x)
        self.squared_error += float((x - x_hat).square().sum())
        shifted = x - shift
        self._sum += shifted.sum(0)
        self._square += shifted.square().sum(0)

    @property
    def total_variance(self) -> float:
        """Sum over rows and dimensions of the squared deviation from the mean."""
        return float((self._square - self._sum.square() / max(1, self.rows)).sum())

    @property
    def fraction_unexplained(self) -> float:
        """See the function of this name; NaN where the rows do not vary."""
        variance = self.total_variance
        return self.squared_error / variance if variance > 0 else float("nan")

    @property
    def l0(self) -> float:
        """Mean number of firings a row."""
        return self.firings / max(1, self.rows)

    @property
    def dead_fraction(self) -> float:
        """Share of features that fired on no row."""
        return float((self.fired == 0).double().mean())

    @property
    def dense_fraction(self) -> float:
        """Share of features that fired on more than `DENSE` of the rows."""
        return float((self.fired > DENSE * self.rows).double().mean())
