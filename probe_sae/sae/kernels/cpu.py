"""The fast make for CPUs: compiled loops, and matrix products of rounded numbers that lose nothing.

Pre-activations are first computed as `cpu_screens` has them. Those that may decide are computed
again in float32, so the result is that of float32.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear

from probe_sae.sae.kernels import (
    cpu_keys,
    cpu_over,
    cpu_rows,
    cpu_screens,
    cpu_selecting,
    cpu_sums,
    reference,
)
from probe_sae.sae.kernels.cpu_screens import chunk_rows
from probe_sae.sae.kernels.firings import Errors, Flat, SparseCodes
from probe_sae.sae.kernels.threads import side_by_side

CHUNK_ROWS = 256
"""Rows whose firings are added up by one thread at a time."""
PIECE_ROWS = 2048
"""Rows that are brought to a length by one thread at a time."""
ROOM = 256
"""Firings of a row that `over` has room for at first."""


def top(x: Tensor, W: Tensor, b: Tensor, k: int) -> SparseCodes:
    """See `Kernels.top`."""
    x, weights, b = _plain(x), _plain(W), _plain(b)
    screen = cpu_screens.screen_of(x, weights, b)
    if not _are_numbers(*((x, weights, b) if screen is None else [screen.reach])):
        return reference.top(x, weights, b, k)
    values, indices = torch.empty(len(x), k), torch.empty(len(x), k, dtype=torch.int64)

    size = chunk_rows(len(W))

    def work(start: int) -> None:
        some = slice(start, start + size)
        written = values[some].numpy(), indices[some].numpy()
        if screen is None:
            cpu_selecting.top(_product(x[some], weights, b), *written)
        else:
            exact = x[some].numpy(), weights.numpy(), b.numpy()
            known = screen.unit[some].numpy(), screen.reach[some].numpy()
            cpu_selecting.top_screened(screen.patterns(some), *exact, *known, *written)

    side_by_side(work, range(0, len(x), size))
    return SparseCodes(values, indices)


def over(x: Tensor, W: Tensor, b: Tensor, limits: Tensor) -> Flat:
    """See `Kernels.over`."""
    x, weights, b, limits = _plain(x), _plain(W), _plain(b), _plain(limits)
    screen = cpu_screens.Bfloat16Screen.of(x, weights, b) if cpu_screens.has_bfloat16() else None
    if not _are_numbers(*((x, weights, b) if screen is None else [screen.reach])):
        return reference.over(x, weights, b, limits)
    found: dict[int, Flat] = {}
    size = chunk_rows(len(W))

    def work(start: int) -> None:
        some = slice(start, start + size)
        if screen is None:
            pre = _product(x[some], weights, b)
            found[start] = _listed(start, size, partial(cpu_over.over, pre, limits.numpy()))
        else:
            patterns, lowest = screen.patterns(some), np.empty(len(weights), np.int16)
            if cpu_over.lowest_keys(limits.numpy(), float(screen.reach[some].max()), lowest):
                cpu_keys.order(patterns.reshape(-1))
            exact = x[some].numpy(), weights.numpy(), b.numpy(), limits.numpy()
            known = partial(cpu_over.over_screened, patterns, lowest, *exact)
            found[start] = _listed(start, size, known)

    side_by_side(work, range(0, len(x), size))
    return Flat(*(torch.cat(part) for part in zip(*(found[i] for i in sorted(found)), strict=True)))


def _listed(start: int, size: int, write: Callable[..., int]) -> Flat:
    """Return what a loop writes into lists that are long enough, its rows counted from `start`."""
    room = ROOM * size
    while True:
        rows, features = torch.empty(room, dtype=torch.int64), torch.empty(room, dtype=torch.int64)
        values = torch.empty(room)
        count = write(rows.numpy(), features.numpy(), values.numpy())
        if count <= room:
            return Flat(rows[:count] + start, features[:count], values[:count])
        room = count


def weighted_sums(codes: SparseCodes, W: Tensor) -> Tensor:
    """See `Kernels.weighted_sums`."""
    weights, values, indices = _plain(W), _plain(codes.values), codes.indices.contiguous()
    out = torch.empty(len(values), W.shape[1])

    def work(start: int) -> None:
        some = slice(start, start + CHUNK_ROWS)
        written = out[some].numpy()
        fired = values[some].numpy(), indices[some].numpy()
        cpu_sums.weighted_sums(*fired, weights.numpy(), written)

    side_by_side(work, range(0, len(out), CHUNK_ROWS))
    return out


def dots(codes: SparseCodes, W: Tensor, x: Tensor) -> Tensor:
    """See `Kernels.dots`."""
    weights, x = _plain(W), _plain(x)
    values, indices = _plain(codes.values), codes.indices.contiguous()
    out = torch.empty_like(values)

    def work(start: int) -> None:
        some = slice(start, start + CHUNK_ROWS)
        fired = values[some].numpy(), indices[some].numpy()
        cpu_sums.dots(*fired, weights.numpy(), x[some].numpy(), out[some].numpy())

    side_by_side(work, range(0, len(x), CHUNK_ROWS))
    return out


def errors(codes: SparseCodes, W: Tensor, bias: Tensor, target: Tensor) -> Errors:
    """See `Kernels.errors`."""
    weights, bias, target = _plain(W), _plain(bias), _plain(target)
    values, indices = _plain(codes.values), codes.indices.contiguous()
    x_hat, error, found = (torch.empty_like(like) for like in (target, target, values))

    def work(start: int) -> None:
        some = slice(start, start + CHUNK_ROWS)
        fired = values[some].numpy(), indices[some].numpy()
        read = weights.numpy(), bias.numpy(), target[some].numpy()
        cpu_sums.errors(*fired, *read, *(out[some].numpy() for out in (x_hat, error, found)))

    side_by_side(work, range(0, len(target), CHUNK_ROWS))
    return Errors(x_hat, error, found)


def sums_by_feature(
    codes: SparseCodes, weights: Tensor, x: Tensor, out: Tensor, totals: Tensor | None = None
) -> Tensor:
    """See `Kernels.sums_by_feature`."""
    if totals is not None:
        totals.copy_(total_weights(codes, weights, len(out)))
    x, values, indices = _plain(x), _plain(codes.values), codes.indices.contiguous()
    features = len(out)
    starts = np.empty(features + 1, np.int64)
    rows, sorted_weights = np.empty(values.numel(), np.int32), np.empty(values.numel(), np.float32)
    weights = _plain(weights)
    fired = values.numpy(), indices.numpy(), weights.numpy()
    cpu_sums.sort_by_feature(*fired, starts, rows, sorted_weights)
    # as many firings for each thread as for the others
    pieces = 8 * torch.get_num_threads()
    shares = np.linspace(0, starts[-1] + features, pieces + 1)
    bounds = np.searchsorted(starts + np.arange(features + 1), shares)

    def work(piece: int) -> None:
        first, last = int(bounds[piece]), int(bounds[piece + 1])
        part = out[first:last].numpy()
        cpu_sums.sums_by_feature(starts, rows, sorted_weights, x.numpy(), first, part)

    side_by_side(work, range(pieces))
    return out


fired, total_weights = reference.fired, reference.total_weights


def keep_lengths(weights: Tensor, grad: Tensor) -> None:
    """See `Kernels.keep_lengths`."""
    if not (weights.is_contiguous() and grad.is_contiguous()):
        reference.keep_lengths(weights, grad)
        return

    def work(start: int) -> None:
        some = slice(start, start + PIECE_ROWS)
        cpu_rows.keep_lengths(weights[some].detach().numpy(), grad[some].detach().numpy())

    side_by_side(work, range(0, len(weights), PIECE_ROWS))


def unit_rows(weights: Tensor) -> None:
    """See `Kernels.unit_rows`."""
    if not weights.is_contiguous():
        reference.unit_rows(weights)
        return

    def work(start: int) -> None:
        cpu_rows.unit_rows(weights[start : start + PIECE_ROWS].detach().numpy())

    side_by_side(work, range(0, len(weights), PIECE_ROWS))


def _product(x: Tensor, W: Tensor, b: Tensor) -> NDArray[np.float32]:
    """Return x @ W.T + b in float32, whatever autocast multiplies in."""
    with torch.autocast("cpu", enabled=False):
        return linear(x, W, b).numpy()


def _are_numbers(*tensors: Tensor) -> bool:
    """Return whether all is finite: compiled loops compare numbers only."""
    return bool(torch.stack([tensor.sum() for tensor in tensors]).isfinite().all())


def _plain(tensor: Tensor) -> Tensor:
    """Return the tensor as numpy can take it."""
    return tensor.detach().contiguous()
