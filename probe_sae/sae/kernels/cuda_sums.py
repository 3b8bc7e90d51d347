"""Loops over firings that add up weights or rows, for GPUs.

Every sum is made in an order that depends on nothing but the firings, so results are always the
same.
"""

# pyright: basic, reportGeneralTypeIssues=none, reportOperatorIssue=none
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
    last = tl.zeros([], tl.int32)  # lists of several lengths end in zeros
    for start in range(0, width, 64):
        entries = start + tl.arange(0, 64)
        fires = tl.load(values + row * width + entries, entries < width, 0.0) != 0
        last = tl.maximum(last, tl.max(tl.where(fires, entries + 1, 0), 0))
    for start in range(0, last, ENTRIES):
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
    needed = tl.where(tl.max((value != 0).to(tl.int32), 0) > 0, d, 0)
    for start in range(0, needed, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        theirs = tl.load(x + row * d + columns, columns < d, 0.0)
        mask = (value != 0)[:, None] & (columns < d)[None, :]
        part = tl.load(W + feature[:, None] * d + columns[None, :], mask, 0.0)
        total += tl.sum(part * theirs[None, :], 1)
    tl.store(out + row * width + entries, total, entries < width)


@gpu_loop
def sum_of(
    order, weights, x, first, stop, columns, width, d, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr
):
    """Return the sum of rows of x times weights over places of `order`, and that of the weights."""
    total = tl.zeros([COLUMNS], tl.float32)
    weight_sum = tl.zeros([ENTRIES], tl.float32)
    for start in range(first, stop, ENTRIES):
        entries = start + tl.arange(0, ENTRIES)
        place = tl.load(order + entries, entries < stop, 0)
        weight = tl.load(weights + place, entries < stop, 0.0)
        mask = (entries < stop)[:, None] & (columns < d)[None, :]
        part = tl.load(x + (place // width)[:, None] * d + columns[None, :], mask, 0.0)
        total += tl.sum(part * weight[:, None], 0)
        weight_sum += weight
    return total, tl.sum(weight_sum, 0)


@gpu_loop
def sums_by_feature(
    keys, order, weights, x, starts, out, totals, scratch, scratch_totals, features, width, d,
    PIECE: tl.constexpr, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the sums of features that fire at most PIECE times; of others, those of pieces.

    `order` [firings] says where in [rows, width] firings are, sorted by feature, `keys` of which
    feature they are; `starts` [features + 1] where each feature's begin. The first programs have a
    feature each, the others a block of PIECE firings: of features that fire more often, at most
    one ends in it and one begins, and their sums over it go to `scratch`, [2 * blocks, d].
    """
    number = tl.program_id(0)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < d
    if number < features:
        begin, end = tl.load(starts + number), tl.load(starts + number + 1)
        if end - begin <= PIECE:
            total, weight_sum = sum_of(
                order, weights, x, begin, end, columns, width, d, ENTRIES, COLUMNS
            )
            tl.store(out + number.to(tl.int64) * d + columns, total, inside)
            if tl.program_id(1) == 0:
                tl.store(totals + number, weight_sum)
    else:
        block = number - features
        fired = tl.load(starts + features)
        first = block * PIECE
        last = tl.minimum(first + PIECE, fired) - 1
        if first < fired:
            for side in tl.static_range(2):
                feature = tl.load(keys + (last if side else first))
                begin, end = tl.load(starts + feature), tl.load(starts + feature + 1)
                is_new = (side == 0) | (begin > first)
                if (end - begin > PIECE) & is_new:
                    total, weight_sum = sum_of(
                        order, weights, x, tl.maximum(begin, first), tl.minimum(end, last + 1),
                        columns, width, d, ENTRIES, COLUMNS,
                    )  # fmt: skip
                    slot = 2 * block + side
                    tl.store(scratch + slot.to(tl.int64) * d + columns, total, inside)
                    if tl.program_id(1) == 0:
                        tl.store(scratch_totals + slot, weight_sum)


@gpu_loop
def join_pieces(
    keys, starts, out, totals, scratch, scratch_totals, features, d,
    PIECE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Add up the pieces of the feature of more than PIECE firings that begins in a block, if any.

    Such a feature has the block's last firing.
    """
    block = tl.program_id(0)
    fired = tl.load(starts + features)
    first = block * PIECE
    if first >= fired:
        return
    feature = tl.load(keys + tl.minimum(first + PIECE, fired) - 1)
    begin, end = tl.load(starts + feature), tl.load(starts + feature + 1)
    if (begin < first) | (end - begin <= PIECE):
        return
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([COLUMNS], tl.float32)
    weight_sum = tl.zeros([], tl.float32)
    for piece in range(block, (end - 1) // PIECE + 1):
        # its first firing is the block's second side, unless the block begins with it
        slot = 2 * piece + tl.where(begin > piece * PIECE, 1, 0)
        total += tl.load(scratch + slot.to(tl.int64) * d + columns, columns < d, 0.0)
        weight_sum += tl.load(scratch_totals + slot)
    tl.store(out + feature.to(tl.int64) * d + columns, total, columns < d)
    if tl.program_id(1) == 0:
        tl.store(totals + feature, weight_sum)


@gpu_loop
def fired(values, indices, counts, size, BLOCK: tl.constexpr):
    """Count the firings of each feature."""
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    fires = tl.load(values + places, places < size, 0.0) != 0
    feature = tl.load(indices + places, fires, 0)
    tl.atomic_add(counts + feature, 1, fires, sem="relaxed")


@gpu_loop
def keep_lengths(grad, W, d, COLUMNS: tl.constexpr):
    """Take from a gradient's row what would only change the length of the weights', which is 1."""
    row = tl.program_id(0).to(tl.int64)
    along = tl.zeros([COLUMNS], tl.float32)
    for start in range(0, d, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        slope = tl.load(grad + row * d + columns, columns < d, 0.0)
        along += slope * tl.load(W + row * d + columns, columns < d, 0.0)
    part = tl.sum(along, 0)
    for start in range(0, d, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        slope = tl.load(grad + row * d + columns, columns < d, 0.0)
        direction = tl.load(W + row * d + columns, columns < d, 0.0)
        tl.store(grad + row * d + columns, slope - part * direction, columns < d)


@gpu_loop
def unit_rows(W, d, COLUMNS: tl.constexpr):
    """Bring a row to length 1."""
    row = tl.program_id(0).to(tl.int64)
    squares = tl.zeros([COLUMNS], tl.float32)
    for start in range(0, d, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        part = tl.load(W + row * d + columns, columns < d, 0.0)
        squares += part * part
    length = tl.maximum(tl.sqrt(tl.sum(squares, 0)), 1e-12)
    for start in range(0, d, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        part = tl.load(W + row * d + columns, columns < d, 0.0)
        tl.store(W + row * d + columns, part / length, columns < d)
