"""Loops over firings that add up weights or rows, for GPUs.

Every sum is made in an order that depends on nothing but the firings, so results are always the
same.
"""

# pyright: basic, reportGeneralTypeIssues=none
# Types of a loop are those of the tensors that it is called with.
import triton.language as tl

from probe_sae.sae.kernels.gpu_loops import gpu_loop


@gpu_loop
def errors(
    values, indices, W, bias, target, x_hat, error, width, d,
    HAS_TARGET: tl.constexpr, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the weighted sum of each row's features; what it and a bias miss of a target too."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < d
    total = tl.zeros([COLUMNS], tl.float32)
    for start in range(0, width, ENTRIES):
        entries = start + tl.arange(0, ENTRIES)
        value = tl.load(values + row * width + entries, entries < width, 0.0)
        feature = tl.load(indices + row * width + entries, entries < width, 0)
        mask = (value != 0)[:, None] & inside[None, :]
        part = tl.load(W + feature[:, None] * d + columns[None, :], mask, 0.0)
        total += tl.sum(part * value[:, None], 0)
    if HAS_TARGET:
        total += tl.load(bias + columns, inside, 0.0)
        missed = total - tl.load(target + row * d + columns, inside, 0.0)
        tl.store(error + row * d + columns, missed, inside)
    tl.store(x_hat + row * d + columns, total, inside)


@gpu_loop
def dots(values, indices, W, x, out, width, d, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr):
    """Write, for each firing, its row of x times its feature's row of W."""
    row = tl.program_id(0).to(tl.int64)
    entries = tl.program_id(1) * ENTRIES + tl.arange(0, ENTRIES)
    value = tl.load(values + row * width + entries, entries < width, 0.0)
    feature = tl.load(indices + row * width + entries, entries < width, 0)
    total = tl.zeros([ENTRIES], tl.float32)
    for start in range(0, d, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        theirs = tl.load(x + row * d + columns, columns < d, 0.0)
        mask = (value != 0)[:, None] & (columns < d)[None, :]
        part = tl.load(W + feature[:, None] * d + columns[None, :], mask, 0.0)
        total += tl.sum(part * theirs[None, :], 1)
    tl.store(out + row * width + entries, total, entries < width)


@gpu_loop
def sums_by_feature(
    order, weights, x, starts, ends, spills, out, scratch, totals, scratch_totals, features, width,
    d, PIECE: tl.constexpr, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the sums of pieces of at most PIECE firings of a feature.

    A feature of one piece has it in `out`; those of more in `scratch`, for `join_pieces`.

    `order` [firings] says where in [rows, width] firings are, sorted by feature; `starts`
    [features + 1] where each feature's begin in it; `ends` [features] how many pieces there are up
    to and with this feature's; `spills` the same, counting only those of features with several.
    """
    piece = tl.program_id(0)
    if piece >= tl.load(ends + features - 1):
        return
    feature = tl.zeros([], tl.int32)
    last = feature + features - 1
    while feature < last:
        middle = (feature + last) // 2
        is_past = tl.load(ends + middle) > piece
        last = tl.where(is_past, middle, last)
        feature = tl.where(is_past, feature, middle + 1)
    begin, end = tl.load(starts + feature), tl.load(starts + feature + 1)
    pieces = tl.maximum((end - begin + PIECE - 1) // PIECE, 1)
    number = piece - (tl.load(ends + feature) - pieces)
    first = begin + number * PIECE
    stop = tl.minimum(first + PIECE, end)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < d
    total = tl.zeros([COLUMNS], tl.float32)
    weight_sum = tl.zeros([ENTRIES], tl.float32)
    for start in range(first, stop, ENTRIES):
        entries = start + tl.arange(0, ENTRIES)
        place = tl.load(order + entries, entries < stop, 0)
        weight = tl.load(weights + place, entries < stop, 0.0)
        row = place // width
        mask = (entries < stop)[:, None] & inside[None, :]
        part = tl.load(x + row[:, None] * d + columns[None, :], mask, 0.0)
        total += tl.sum(part * weight[:, None], 0)
        weight_sum += weight
    where, where_total = out + feature.to(tl.int64) * d, totals + feature
    if pieces > 1:
        slot = tl.load(spills + feature) - pieces + number
        where, where_total = scratch + slot.to(tl.int64) * d, scratch_totals + slot
    tl.store(where + columns, total, inside)
    if tl.program_id(1) == 0:
        tl.store(where_total, tl.sum(weight_sum, 0))


@gpu_loop
def join_pieces(
    starts, spills, out, scratch, totals, scratch_totals, d,
    PIECE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Add up the pieces of features that have more than one."""
    feature = tl.program_id(0).to(tl.int64)
    count = tl.load(starts + feature + 1) - tl.load(starts + feature)
    pieces = (count + PIECE - 1) // PIECE
    if pieces <= 1:
        return
    first = (tl.load(spills + feature) - pieces).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([COLUMNS], tl.float32)
    weight_sum = tl.zeros([], tl.float32)
    for number in range(pieces):
        total += tl.load(scratch + (first + number) * d + columns, columns < d, 0.0)
        weight_sum += tl.load(scratch_totals + first + number)
    tl.store(out + feature * d + columns, total, columns < d)
    if tl.program_id(1) == 0:
        tl.store(totals + feature, weight_sum)
