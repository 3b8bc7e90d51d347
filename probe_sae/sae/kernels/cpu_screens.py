"""Pre-activations from fast products of rounded numbers, and how far off these are at most.

bfloat16 where a CPU multiplies it in hardware, at two to four times the speed; else whole numbers
of 8 bits, where it multiplies those (most Intel CPUs since 2019), at three to four times. How far
off such a number can be is known (Cauchy-Schwarz: the lengths of what rounding took from a row and
from a weight), so that those which may decide can be computed again.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear

from probe_sae.sae.kernels import cpu_keys
from probe_sae.sae.kernels.threads import side_by_side

CHUNK_VALUES = 1 << 22
"""Pre-activations of one matrix product, about: they are used up while they are in the cache."""
PIECE_ROWS = 2048
"""Rows that are rounded by one thread at a time."""
LARGEST = 127
"""A row's largest number is rounded to so many units."""
FINEST = 1 / 16
"""The smallest unit over the mean one, at least: biases take more columns the smaller it is."""
BIAS_COLUMNS = 64
"""Columns that stand for the biases, at most."""
_SMALLEST = 1e6 * torch.finfo(torch.float32).tiny
"""So that nothing is divided by zero where all is zero."""


class Screen(Protocol):
    """Pre-activations that are nearly right."""

    @property
    def unit(self) -> Tensor:
        """[rows] what a pattern's number has to be multiplied by to be a pre-activation."""
        ...

    @property
    def reach(self) -> Tensor:
        """[rows] how far off a pattern's number is at most, in units, before it is rounded itself.

        Not finite where a row, a weight or a bias is not.
        """
        ...

    def patterns(self, some: slice) -> NDArray[np.int16]:
        """Return bit patterns of bfloat16 of some rows' pre-activations, [rows, features]."""
        ...


def screen_of(x: Tensor, weights: Tensor, b: Tensor) -> Screen | None:
    """Return the fastest screen that this CPU has; None where it has none.

    Args:
        x: [rows, d].
        weights: [features, d].
        b: [features].
    """
    if has_bfloat16():
        return Bfloat16Screen.of(x, weights, b)
    return Int8Screen.of(x, weights, b) if has_int8() else None


def chunk_rows(features: int) -> int:
    """Return how many rows are encoded at once."""
    return min(max(CHUNK_VALUES // features, 128), 1024)


class Bfloat16Screen(NamedTuple):
    """Rows, weights and biases rounded to bfloat16."""

    x: Tensor
    weights: Tensor
    """As a product takes them, see `_laid_out`."""
    b: Tensor
    unit: Tensor
    reach: Tensor

    @classmethod
    def of(cls, x: Tensor, weights: Tensor, b: Tensor) -> Self:
        """See `screen_of`."""
        x16, length_x, lost_x = _rounded(x)
        weights16, lengths, lost = _rounded(weights)
        b16 = b.bfloat16()
        reach = _reach(x.shape[1], length_x, lost_x, lengths, lost) + (b - b16).abs().max()
        return cls(x16, _laid_out(weights16), b16, torch.ones(len(x)), reach)

    def patterns(self, some: slice) -> NDArray[np.int16]:
        """See `Screen.patterns`."""
        product = _product_of_laid_out() or linear
        return product(self.x[some], self.weights, self.b).view(torch.int16).numpy()


class Int8Screen(NamedTuple):
    """Rows and weights as whole numbers of units of their own, a bias as some more columns.

    A bias in units is a product of something of the row and something of the feature, b / unit of
    the row / unit of the feature: as in all else, either is rounded to a whole number.
    """

    x: Tensor
    """int8 [rows, d + columns]."""
    weights: Tensor
    """int8 [features, d + columns]."""
    unit_of_weights: Tensor
    """[features]."""
    unit: Tensor
    reach: Tensor

    @classmethod
    def of(cls, x: Tensor, weights: Tensor, b: Tensor) -> Self | None:
        """See `screen_of`; None too where biases take too many columns, or are no numbers."""
        if not len(x):
            return None
        unit, unit_of_weights = _units(x), _units(weights)
        bias, largest_bias = b / unit_of_weights, b.abs().max()
        step = 1 / (LARGEST * unit.min())  # 1 / unit is a whole number of these, up to 127
        needed = float((bias.abs().max() * step / LARGEST).ceil())
        if not needed <= BIAS_COLUMNS:
            return None
        columns, d = max(1, int(needed)), x.shape[1]
        if (d + columns) * LARGEST**2 >= 2**31:  # sums are of 32 bits
            return None
        of_rows, of_features = (1 / unit / step).round(), (bias * step / columns).round()
        x8, length_x, lost_x = _in_bytes(x, unit, columns)
        weights8, lengths, lost = _in_bytes(weights, unit_of_weights, columns)
        x8[:, d:] = of_rows.to(torch.int8)[:, None]
        weights8[:, d:] = of_features.to(torch.int8)[:, None]
        reach = _reach(d, length_x, lost_x, lengths, lost) + largest_bias * 2.0**-20
        # half a step is lost of 1 / unit of a row, half a whole number of a feature's
        reach += unit * step / 2 * largest_bias
        reach += unit * unit_of_weights.max() * columns / 2 * of_rows
        return cls(x8, weights8, unit_of_weights, unit, reach / unit)

    def patterns(self, some: slice) -> NDArray[np.int16]:
        """See `Screen.patterns`."""
        found = _product_of_bytes(self.x[some], self.weights).numpy()
        patterns = np.empty(found.shape, np.int16)
        cpu_keys.patterns_of_whole(found, self.unit_of_weights.numpy(), patterns)
        return patterns


def _reach(d: int, length_x: Tensor, lost_x: Tensor, lengths: Tensor, lost: Tensor) -> Tensor:
    """Return how far off products of rounded rows and weights of width `d` are, at most, [rows]."""
    least = (d * torch.finfo(torch.float32).tiny) ** 0.5  # of squares so small nothing is left
    lost_x, length_x, longest, lost = lost_x + least, length_x + least, lengths.max(), lost + least
    # what float32 sums of that length may be off by, in both computations
    summing = d * 2.0**-22 * length_x * longest
    # |x W - x' W'| <= |x - x'| |W| + |x'| |W - W'|, and |x'| <= |x| + |x - x'|
    return lost_x * longest + (length_x + lost_x) * lost.max() + summing


def has_bfloat16() -> bool:
    """Return whether products are to be made in bfloat16 first."""
    return _multiplies_bfloat16()


def has_int8() -> bool:
    """Return whether products are to be made of whole numbers of 8 bits first."""
    able = _capabilities()
    known = able.get("avx512_vnni") or able.get("avx_vnni") or able.get("amx_int8")
    return bool(known) and multiplies_bytes()


def _capabilities() -> dict[str, Any]:
    return getattr(torch.cpu, "get_capabilities", dict)()  # older torch cannot tell


@cache
def _multiplies_bfloat16() -> bool:
    """Return whether this CPU does, in hardware."""
    able = _capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


@cache
def multiplies_bytes() -> bool:
    """Return whether torch multiplies bytes here, exactly: without VNNI sums might saturate."""
    x = torch.full((32, 64), LARGEST, dtype=torch.int8)
    x[16:] = -LARGEST
    try:
        found = _product_of_bytes(x, x)
    except (AttributeError, RuntimeError):
        return False
    return bool((found.abs() == 64 * LARGEST * LARGEST).all())


def _product_of_bytes(x: Tensor, weights: Tensor) -> Tensor:
    """Return x @ weights.T in int32."""
    operations: Any = torch.ops.aten
    return operations._int_mm(x, weights.T)


@cache
def _product_of_laid_out() -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    """Return oneDNN's product with weights that it has laid out before; None where there is none.

    The same bits as `linear`'s, which lays them out for each chunk of rows: a tenth of its time.
    """
    if not _multiplies_bfloat16():
        return None
    try:
        operations: Any = torch.ops.mkldnn
        product, _ = operations._linear_pointwise, operations._reorder_linear_weight
    except AttributeError:
        return None
    return lambda x, weights, b: product(x, weights, b, "none", [], "")


def _laid_out(weights: Tensor) -> Tensor:
    """Return weights in bfloat16 as `_product_of_laid_out` takes them, or as they are."""
    if _product_of_laid_out() is None:
        return weights
    operations: Any = torch.ops.mkldnn
    return operations._reorder_linear_weight(weights, chunk_rows(len(weights)))


def _units(rows: Tensor) -> Tensor:
    """Return a unit for each row, of which its largest number is 127, or less in small rows."""
    units = torch.empty(len(rows))

    def work(start: int) -> None:
        some = slice(start, start + PIECE_ROWS)
        cpu_keys.largest_of_rows(rows[some].numpy(), units[some].numpy())

    side_by_side(work, range(0, len(rows), PIECE_ROWS))
    units /= LARGEST
    return units.clamp_min((units.mean() * FINEST).clamp_min(_SMALLEST))


def _rounded(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows in bfloat16, their lengths, and the lengths of what rounding took."""
    rounded = torch.empty(rows.shape, dtype=torch.bfloat16)
    lengths, lost = torch.empty(len(rows)), torch.empty(len(rows))

    def work(start: int) -> None:
        some = slice(start, start + PIECE_ROWS)
        written = rounded[some].view(torch.int16), lengths[some], lost[some]
        cpu_keys.round_rows(rows[some].numpy(), *(out.numpy() for out in written))

    side_by_side(work, range(0, len(rows), PIECE_ROWS))
    return rounded, lengths, lost


def _in_bytes(rows: Tensor, units: Tensor, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows in units, in bytes, with room for more columns; lengths as `_rounded` does."""
    rounded = torch.empty(len(rows), rows.shape[1] + columns, dtype=torch.int8)
    lengths, lost = torch.empty(len(rows)), torch.empty(len(rows))

    def work(start: int) -> None:
        some = slice(start, start + PIECE_ROWS)
        written = rounded[some].numpy(), lengths[some].numpy(), lost[some].numpy()
        cpu_keys.round_to_bytes(rows[some].numpy(), units[some].numpy(), *written)

    side_by_side(work, range(0, len(rows), PIECE_ROWS))
    return rounded, lengths, lost
