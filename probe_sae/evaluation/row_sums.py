"""What one pass over rows leaves of a reconstruction: sums, kept apart by blocks of contexts.

Every metric is a formula of such sums, so that a resample of blocks is a weighted sum of them, and
its metrics are the same formulas: memory does not grow with the number of rows.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.errors import ShapeError
from probe_sae.sae import SparseCodes

MOST_BLOCKS = 256
_PIECE_VALUES = 1 << 19
"""Taken in at a time: several times as much is in memory for a moment."""
_SCALARS = (
    "rows",
    "error",
    "deviation",
    "cross",
    "x_power",
    "x_hat_power",
    "product",
    "firings",
    "error_by_deviation",
    "deviating",
    "error_by_power",
    "long",
    "length_ratio",
    "cosine",
    "both_long",
)
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Totals:
    """Sums over rows of x, x_hat and e = x - x_hat; c is a fixed row near the mean.

    Each is one number, or one number a resample.
    """

    width: int
    """Length of a row."""
    rows: Array
    error: Array
    """||e||^2"""
    deviation: Array
    """||x - c||^2"""
    cross: Array
    """<x - c, e>"""
    x_power: Array
    """||x||^2"""
    x_hat_power: Array
    """||x_hat||^2"""
    product: Array
    """<x, x_hat>"""
    firings: Array
    error_by_deviation: Array
    """||e||^2 / ||x - c||^2, over the `deviating` rows, where that is defined."""
    deviating: Array
    """1 where x is not c."""
    error_by_power: Array
    """||e||^2 / ||x||^2, over the `long` rows, where that is defined."""
    long: Array
    """1 where x is not 0."""
    length_ratio: Array
    """||x_hat|| / ||x||, over the `long` rows."""
    cosine: Array
    """<x, x_hat> / ||x|| ||x_hat||, over the `both_long` rows."""
    both_long: Array
    """1 where neither x nor x_hat is 0."""
    mean_shift: Array
    """||sum of (x - c)||^2"""
    mean_error: Array
    """||sum of e||^2"""
    mean_cross: Array
    """<sum of (x - c), sum of e>"""
    shift_sum: Array
    """Sum over dimensions of the sum of (x - c)."""
    shift_along: Array
    """<sum of (x - c), c - mean over dimensions of c>"""
    spread: float
    """||c - mean over dimensions of c||^2"""


@dataclass(frozen=True)
class Blocks:
    """Contexts in blocks of equal numbers, drawn at random: what a resample draws from."""

    of_context: NDArray[np.int64]
    """[contexts] the block of each, -1 where it is not measured."""
    count: int


def blocks_of(contexts: NDArray[np.bool_], seed: int, most: int = MOST_BLOCKS) -> Blocks:
    """Return the marked contexts, [contexts], in up to `most` blocks; one a context if they fit."""
    wanted = np.flatnonzero(contexts)
    count = min(len(wanted), most)
    order = np.random.default_rng([seed, 1]).permutation(len(wanted))
    of_context = np.full(len(contexts), -1)
    of_context[wanted[order]] = np.arange(len(wanted)) * count // max(1, len(wanted))
    return Blocks(of_context, count)


def fitting_blocks(features: int) -> int:
    """Return how many blocks of so many counters of firings take 128 MiB; at least 32."""
    return max(32, min(MOST_BLOCKS, (1 << 25) // max(1, features)))


class RowSums:
    """Gather the sums, batch by batch, of any size and in any order, in float64."""

    def __init__(self, features: int, centre: Tensor, blocks: int = 1) -> None:
        """Begin with nothing seen.

        Args:
            features: size of the dictionary.
            centre: c, near the mean of the rows, [d_out]; the nearer, the more exact.
            blocks: how many blocks of contexts there are.
        """
        width = len(centre)
        self._centre = centre.double().cpu()
        self._scalars = torch.zeros(blocks, len(_SCALARS), dtype=torch.float64)
        self._shift, self._error = (
            torch.zeros(blocks, width, dtype=torch.float64) for _ in range(2)
        )
        self.fired = torch.zeros(blocks, features, dtype=torch.int32)
        """[blocks, features] rows on which each fired."""

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return len(self._scalars)

    @property
    def rows(self) -> int:
        """Rows seen."""
        return int(self._scalars[:, 0].sum())

    def add(
        self,
        x: Tensor,
        x_hat: Tensor,
        codes: SparseCodes | None = None,
        *,
        fires: Tensor | None = None,
        block: Tensor | None = None,
    ) -> None:
        """Take in a batch.

        Args:
            x: raw activations, [rows, d_out].
            x_hat: their reconstructions, the same shape.
            codes: the codes in between, where firings are to be counted.
            fires: which entries of `codes.values` are firings; those that are not 0 by default.
            block: the block of each row, [rows]; the first by default.

        Raises:
            ShapeError: the shapes differ.
        """
        if x.shape != x_hat.shape or x.shape[1:] != self._centre.shape:
            raise ShapeError(
                f"x is {tuple(x.shape)}, x_hat is {tuple(x_hat.shape)}, and a row was to be "
                f"{len(self._centre)} long."
            )
        x, x_hat = x.detach().cpu(), x_hat.detach().cpu()
        where = torch.zeros(len(x), dtype=torch.int64) if block is None else block
        piece = max(1, _PIECE_VALUES // len(self._centre))
        for part, part_hat, at in zip(
            x.split(piece), x_hat.split(piece), where.split(piece), strict=True
        ):
            self._add(part.double(), part_hat.double(), at)
        if codes is not None:
            mask = (codes.values != 0 if fires is None else fires).cpu()
            place = where[:, None].expand_as(mask)[mask]
            features = self.fired.shape[1]
            flat = place * features + codes.indices.cpu()[mask]
            # index_add_ touches what fired alone; a bincount would fill all blocks every time.
            self.fired.view(-1).index_add_(0, flat, torch.ones(len(flat), dtype=torch.int32))
            counts = mask.sum(1).double()
            self._scalars[:, _SCALARS.index("firings")].index_add_(0, where, counts)

    def totals(self, weights: Array | None = None) -> Totals:
        """Return the sums over all blocks, or over those of each resample.

        Args:
            weights: how often each resample has drawn each block, [resamples, blocks].
        """
        drawn = np.ones((1, self.blocks)) if weights is None else weights
        scalars = drawn @ self._scalars.numpy()
        along = self._centre - self._centre.mean()
        shift, error = self._shift.numpy(), self._error.numpy()
        parts = [_of_means(w @ shift, w @ error, along.numpy()) for w in _some(drawn, len(along))]
        means = np.concatenate(parts, 1)
        every = [*scalars.T, *means]
        if weights is None:
            every = [column[0] for column in every]
        return Totals(len(along), *every, spread=float(along.square().sum()))

    def _add(self, x: Tensor, x_hat: Tensor, block: Tensor) -> None:
        """Take in some rows of a batch."""
        error, shifted = x - x_hat, x - self._centre
        squares = [part.square().sum(1) for part in (error, shifted, x, x_hat)]
        e, s, power, hat_power = squares
        product = (x * x_hat).sum(1)
        long, both = power > 0, (power > 0) & (hat_power > 0)
        columns = [
            torch.ones_like(e),
            e,
            s,
            (shifted * error).sum(1),
            power,
            hat_power,
            product,
            torch.zeros_like(e),
            _over(e, s, s > 0),
            (s > 0).double(),
            _over(e, power, long),
            long.double(),
            _over(hat_power.sqrt(), power.sqrt(), long),
            _over(product, power.sqrt() * hat_power.sqrt(), both),
            both.double(),
        ]
        self._scalars.index_add_(0, block, torch.stack(columns, 1))
        self._shift.index_add_(0, block, shifted)
        self._error.index_add_(0, block, error)


def _over(above: Tensor, below: Tensor, where: Tensor) -> Tensor:
    """Return above / below where that is defined, else 0."""
    return torch.where(where, above / below.where(where, 1.0), 0.0)


def _some(weights: Array, width: int) -> list[Array]:
    """Return weights in parts whose sums of rows take some 32 MiB."""
    return np.array_split(weights, -(-len(weights) * width // (1 << 22)))


def _of_means(shift: Array, error: Array, along: Array) -> Array:
    """Return what metrics need of sums of rows, [5, resamples]."""
    return np.stack(
        [
            np.square(shift).sum(1),
            np.square(error).sum(1),
            (shift * error).sum(1),
            shift.sum(1),
            shift @ along,
        ]
    )
