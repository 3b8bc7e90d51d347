"""The fast make for GPUs: loops in Triton, and matrix products in float16 that lose nothing.

As on a CPU, pre-activations are computed with rounded numbers first, many times as fast; how far
off they can be is known, and those that may decide are computed again in float32. Tensor cores
multiply float16 as fast as bfloat16, and it keeps eight times as much.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.nn.functional import linear

from probe_sae.sae.kernels import cuda_selecting, cuda_sums, reference
from probe_sae.sae.kernels.firings import Errors, Flat, SparseCodes

CHUNK_VALUES = 1 << 28
"""Pre-activations in memory at once: half a gigabyte in float16."""
MOST = 256
"""The largest k that `top` lists candidates for; beyond it, torch sorts."""
GROUPS = 1024
"""Groups of features, of each of which the largest is looked at first."""
PIECE = 64
"""Firings of a feature that are added up by one program."""
ENTRIES = 8
"""Firings that a program reads at once; twice as many where a row's are added up."""
COLUMNS = 256
"""Numbers of a row that a program reads at once."""


def top(x: Tensor, W: Tensor, b: Tensor, k: int) -> SparseCodes:
    """See `Kernels.top`."""
    x, weights, b = _plain(x), _plain(W), _plain(b)
    if not 0 < k <= MOST or not len(x):
        return reference.top(x, weights, b, k)
    (rows, d), features, room = x.shape, len(weights), _power(2 * k + 64)
    screen = _Screen.of(x, weights, b)
    counts = torch.zeros(rows, dtype=torch.int32, device=x.device)
    listed = torch.empty(rows, room, dtype=torch.int32, device=x.device)
    lowest, found, values = (x.new_empty(rows, *more) for more in ((), (room,), (k,)))
    indices = torch.empty(rows, k, dtype=torch.int64, device=x.device)
    groups = min(_power(features), max(_power(4 * k), min(GROUPS, _power(features) // 8)))
    sizes = features, d, k, room
    for some in screen.pieces():
        judged, grid = screen.judged(some), (some.stop - some.start,)
        lists = listed[some], counts[some], lowest[some]
        cuda_selecting.list_largest[grid](*judged, *lists, *sizes, groups)
        # such as rows of zeros: nothing is done for others
        written = values[some], indices[some], *sizes, _power(k), ENTRIES, _columns(d)
        known = judged[0], lowest[some], counts[some], x[some], weights, b
        cuda_selecting.choose_of_many[grid](*known, *written)
    _exact(x, weights, b, listed, None, counts, found, room)
    chosen = values, indices, k, room, room, min(room, 32)
    cuda_selecting.choose[(rows,)](listed, found, counts, *chosen)
    return SparseCodes(values, indices)


def over(x: Tensor, W: Tensor, b: Tensor, limits: Tensor) -> Flat:
    """See `Kernels.over`."""
    x, weights, b, limits = _plain(x), _plain(W), _plain(b), _plain(limits)
    if not len(x):
        return reference.over(x, weights, b, limits)
    screen, found = _Screen.of(x, weights, b), list[Flat]()
    for some in screen.pieces():
        rows = x[some]
        counts = torch.empty(len(rows), dtype=torch.int64, device=x.device)
        known = *screen.judged(some), limits
        sizes = len(weights), x.shape[1]
        cuda_selecting.count_over[(len(rows),)](*known, counts, counts, *sizes, False, GROUPS)
        begins = counts.cumsum(0) - counts
        total = int(begins[-1] + counts[-1])
        listed = torch.empty(total, dtype=torch.int32, device=x.device)
        cuda_selecting.count_over[(len(rows),)](*known, begins, listed, *sizes, True, GROUPS)
        values = x.new_empty(total)
        _exact(rows, weights, b, listed, begins, counts, values, len(weights))
        numbers = torch.arange(some.start, some.start + len(rows), device=x.device)
        numbers = numbers.repeat_interleave(counts, output_size=total)
        kept = (values > limits[listed]).nonzero().squeeze(1)
        found.append(Flat(numbers[kept], listed[kept].long(), values[kept]))
    return Flat(*(torch.cat(part) for part in zip(*found, strict=True)))


def weighted_sums(codes: SparseCodes, W: Tensor) -> Tensor:
    """See `Kernels.weighted_sums`."""
    out = W.new_empty(len(codes.values), W.shape[1])
    _add_up(codes, W, None, None, out, out)
    return out


def dots(codes: SparseCodes, W: Tensor, x: Tensor) -> Tensor:
    """See `Kernels.dots`."""
    values, indices, weights, x = map(_plain, (*codes, W, x))
    (rows, width), d = values.shape, weights.shape[1]
    out = torch.empty_like(values)
    entries = 2 * ENTRIES
    if out.numel():
        grid = rows, triton.cdiv(width, entries)
        cuda_sums.dots[grid](values, indices, weights, x, out, width, d, entries, _columns(d))
    return out


def errors(codes: SparseCodes, W: Tensor, bias: Tensor, target: Tensor) -> Errors:
    """See `Kernels.errors`."""
    target = _plain(target)
    x_hat, error = torch.empty_like(target), torch.empty_like(target)
    _add_up(codes, W, _plain(bias), target, x_hat, error)
    return Errors(x_hat, error, dots(codes, W, error))


def sums_by_feature(
    codes: SparseCodes, weights: Tensor, x: Tensor, out: Tensor, totals: Tensor | None = None
) -> Tensor:
    """See `Kernels.sums_by_feature`."""
    values, indices, weights, x = map(_plain, (*codes, weights, x))
    (features, d), width = out.shape, values.shape[1]
    keys = torch.where(values != 0, indices, features).flatten().to(torch.int32)
    keys, order = keys.sort(stable=True)
    places = torch.arange(features + 1, dtype=torch.int32, device=x.device)
    starts = torch.searchsorted(keys, places, out_int32=True)
    blocks, columns = triton.cdiv(len(keys), PIECE), min(2 * COLUMNS, _power(d))
    scratch, scratch_totals = x.new_empty(2 * blocks, d), x.new_empty(2 * blocks)
    totals = x.new_empty(features) if totals is None else totals
    written = out, totals, scratch, scratch_totals, features
    across, sizes = triton.cdiv(d, columns), (width, d, PIECE, ENTRIES, columns)
    cuda_sums.sums_by_feature[(features + blocks, across)](
        keys, order, weights, x, starts, *written, *sizes
    )
    if blocks:
        cuda_sums.join_pieces[(blocks, across)](keys, starts, *written, d, PIECE, columns)
    return out


def total_weights(codes: SparseCodes, weights: Tensor, features: int) -> Tensor:
    """See `Kernels.total_weights`; in a fixed order, unlike torch's sums."""
    ones, out = weights.new_ones(len(weights), 1), weights.new_empty(features, 1)
    return sums_by_feature(codes, weights, ones, out).squeeze(1)


def fired(codes: SparseCodes, features: int) -> Tensor:
    """See `Kernels.fired`."""
    values, indices = map(_plain, codes)
    counts = torch.zeros(features, dtype=torch.int64, device=values.device)
    if values.numel():
        grid = (triton.cdiv(values.numel(), GROUPS),)
        cuda_sums.fired[grid](values, indices, counts, values.numel(), GROUPS)
    return counts


def keep_lengths(weights: Tensor, grad: Tensor) -> None:
    """See `Kernels.keep_lengths`."""
    cuda_sums.keep_lengths[(len(weights),)](grad, weights, weights.shape[1], _row(weights))


def unit_rows(weights: Tensor) -> None:
    """See `Kernels.unit_rows`."""
    cuda_sums.unit_rows[(len(weights),)](weights, weights.shape[1], _row(weights))


def _add_up(
    codes: SparseCodes,
    W: Tensor,
    bias: Tensor | None,
    target: Tensor | None,
    x_hat: Tensor,
    error: Tensor,
) -> None:
    """Write weighted sums, and with a target what they and a bias miss of it."""
    values, indices, weights = map(_plain, (*codes, W))
    (rows, width), d = values.shape, weights.shape[1]
    columns = _columns(d)
    if rows:
        cuda_sums.errors[(rows, triton.cdiv(d, columns))](
            values, indices, weights, x_hat if bias is None else bias,
            x_hat if target is None else target, x_hat, error, width, d, target is not None,
            2 * ENTRIES, columns,
        )  # fmt: skip


def _exact(
    x: Tensor, W: Tensor, b: Tensor, listed: Tensor, begins: Tensor | None, counts: Tensor,
    values: Tensor, room: int,
) -> None:  # fmt: skip
    """Write listed pre-activations in float32; at most `room` of each row, or lists of `room`."""
    d, is_even = x.shape[1], begins is None
    cuda_selecting.exact[(len(x),)](
        x, W, b, listed, counts if begins is None else begins, counts, values, d, room, is_even,
        ENTRIES, _columns(d), num_warps=2,
    )  # fmt: skip


class _Screen(NamedTuple):
    """Rows and weights rounded to float16, and how far off their products are."""

    x: Tensor
    weights: Tensor
    b: Tensor
    lengths: Tensor
    """[rows] of scaled rows."""
    lost: Tensor
    """[rows] lengths of what rounding took from them."""
    peak: Tensor
    """[3] bits of the longest weight and row and of the largest bias, before scaling."""
    worst: Tensor
    """[1] bits of the length of the most that rounding took from a weight."""

    @classmethod
    def of(cls, x: Tensor, W: Tensor, b: Tensor) -> "_Screen":
        (rows, d), features = x.shape, len(W)
        known = torch.zeros(4, dtype=torch.int32, device=x.device)
        peak, worst = known[:3], known[3:]
        x16, weights, b16 = (torch.empty_like(part, dtype=torch.float16) for part in (x, W, b))
        lengths, lost = x.new_empty(rows), x.new_empty(rows)
        grid, sizes = (features + rows,), (features, d, _row(x))
        cuda_selecting.measure[grid](x, W, b, peak, *sizes)
        written = x16, weights, b16, lengths, lost, worst
        cuda_selecting.round_all[grid](x, W, b, peak, *written, *sizes)
        return cls(x16, weights, b16, lengths, lost, peak, worst)

    def pieces(self) -> list[slice]:
        """Return rows that are multiplied together."""
        size = max(1, CHUNK_VALUES // len(self.weights))
        return [slice(i, min(i + size, len(self.x))) for i in range(0, len(self.x), size)]

    def judged(self, some: slice) -> tuple[Any, ...]:
        """Return pre-activations of some rows, and what says how far off they are."""
        with _sums_in_float32(self.x.device):
            pre = linear(self.x[some], self.weights, self.b)
        return pre, self.lengths[some], self.lost[some], self.peak, self.worst


@contextmanager
def _sums_in_float32(device: torch.device) -> Generator[None]:
    """Let products of float16 be added up in float32 throughout, and stay in float16."""
    switch = torch.backends.cuda.matmul
    before = switch.allow_fp16_reduced_precision_reduction
    switch.allow_fp16_reduced_precision_reduction = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        switch.allow_fp16_reduced_precision_reduction = before


def _power(number: int) -> int:
    return triton.next_power_of_2(number)


def _columns(d: int) -> int:
    return min(COLUMNS, _power(d))


def _row(rows: Tensor) -> int:
    """Return how much of a row a program that has all of it reads at once."""
    return min(1024, _power(rows.shape[1]))


def _plain(tensor: Tensor) -> Tensor:
    """Return the tensor as loops can take it: without gaps."""
    return tensor.detach().contiguous()
