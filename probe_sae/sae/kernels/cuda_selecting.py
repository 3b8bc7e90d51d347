"""Loops that choose firings from rounded pre-activations, for GPUs.

Rows and weights are rounded to float16 after both are scaled by powers of two, so that products
keep clear of its largest and smallest numbers. `reach` is how far off a row's products can be.
Lists are in no order, but what is chosen from them is always the same.
"""

# pyright: basic, reportGeneralTypeIssues=none, reportOperatorIssue=none
# Types of a loop are those of the tensors that it is called with.
import triton.language as tl

from probe_sae.sae.kernels.gpu_loops import gpu_loop

INFINITE: tl.constexpr = tl.constexpr(0x7F800000)
ROUNDING: tl.constexpr = tl.constexpr(2.0**-10)
"""What rounding a product to float16 may take of it, and more."""
SMALLEST: tl.constexpr = tl.constexpr(2.0**-23)
"""What it may take of products that are nearly zero, and more."""


@gpu_loop
def measure(x, W, b, peak, features, d, COLUMNS: tl.constexpr):
    """Raise `peak`, bits of float32, to the lengths of weights and rows and the size of biases.

    Those that are no numbers do not count.
    """
    number = tl.program_id(0).to(tl.int64)
    is_row = number >= features
    rows = x + (number - features) * d if is_row else W + number * d
    total = tl.zeros([COLUMNS], tl.float32)
    for start in range(0, d, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        part = tl.load(rows + columns, columns < d, 0.0)
        total += part * part
    bits = tl.sqrt(tl.sum(total, 0)).to(tl.int32, bitcast=True)
    where = peak + 1 if is_row else peak
    tl.atomic_max(where, tl.where(bits < INFINITE, bits, 0))
    if not is_row:
        bias = tl.abs(tl.load(b + number)).to(tl.int32, bitcast=True)
        tl.atomic_max(peak + 2, tl.where(bias < INFINITE, bias, 0))


@gpu_loop
def power_below(bits, highest):
    """Return 2^n that brings a positive number, given as bits, into [2^highest, 2^highest * 2).

    But n is from -60 to 60, so that scales can be multiplied.
    """
    exponent = tl.minimum(tl.maximum(254 + highest - (bits >> 23), 67), 187)
    return (exponent << 23).to(tl.float32, bitcast=True)


@gpu_loop
def scale_of_weights(peak):
    """Return what weights are multiplied with: their longest row is then about 1 long."""
    return power_below(tl.load(peak), 0)


@gpu_loop
def scale_of_rows(peak):
    """Return what rows are multiplied with; products and biases are then at most 2^14."""
    of_weights = scale_of_weights(peak)
    of_rows = power_below(tl.load(peak + 1), 12)
    biases = (tl.load(peak + 2).to(tl.float32, bitcast=True) * of_weights).to(
        tl.int32, bitcast=True
    )
    return tl.minimum(of_rows, power_below(biases, 12))


@gpu_loop
def round_all(
    x, W, b, peak, x16, W16, b16, lengths, lost, worst, features, d, COLUMNS: tl.constexpr
):
    """Write scaled rows, weights and biases in float16, and what rounding took.

    Of rows, the lengths before and of what was taken; of weights the largest of the latter, as
    bits.
    """
    number = tl.program_id(0).to(tl.int64)
    is_row = number >= features
    row = number - features
    rows = x + row * d if is_row else W + number * d
    out = x16 + row * d if is_row else W16 + number * d
    of_weights, of_rows = scale_of_weights(peak), scale_of_rows(peak)
    scale = of_rows if is_row else of_weights
    total = tl.zeros([COLUMNS], tl.float32)
    missed = tl.zeros([COLUMNS], tl.float32)
    for start in range(0, d, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        part = tl.load(rows + columns, columns < d, 0.0) * scale
        rounded = part.to(tl.float16)
        tl.store(out + columns, rounded, columns < d)
        gone = part - rounded.to(tl.float32)
        total += part * part
        missed += gone * gone
    taken = tl.sqrt(tl.sum(missed, 0))
    if is_row:
        tl.store(lengths + row, tl.sqrt(tl.sum(total, 0)))
        tl.store(lost + row, taken)
    else:
        bits = taken.to(tl.int32, bitcast=True)
        tl.atomic_max(worst, tl.where(bits < INFINITE, bits, 0))
        bias = tl.load(b + number) * of_weights * of_rows
        tl.store(b16 + number, bias.to(tl.float16))


@gpu_loop
def reach_of(row, lengths, lost, peak, worst, d):
    """Return how far a row's products can be from the truth, but for rounding them at last.

    |x W - x16 W16| <= |x - x16| |W| + |x16| |W - W16| (Cauchy-Schwarz), and |x16| <= |x| +
    |x - x16|; float32 sums of d terms may be off by d 2^-23 |x| |W|; a bias by 2^-11 of itself.
    """
    length, gone = tl.load(lengths + row), tl.load(lost + row)
    of_weights, of_rows = scale_of_weights(peak), scale_of_rows(peak)
    longest = tl.load(peak).to(tl.float32, bitcast=True) * of_weights
    largest = tl.load(peak + 2).to(tl.float32, bitcast=True) * of_weights * of_rows
    taken = tl.load(worst).to(tl.float32, bitcast=True)
    summing = d * 1.1920929e-07 * length * longest
    return gone * longest + (length + gone) * taken + summing + largest * 2.0**-11 + SMALLEST


@gpu_loop
def list_largest(
    pre, lengths, lost, peak, worst, listed, counts, lowest_of, features, d, k, room,
    GROUPS: tl.constexpr,
):  # fmt: skip
    """List the features of a row that may be among its k largest: what reaches `lowest_of` it.

    The k-th largest of the largest of groups is reached by at least k products.
    """
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, GROUPS)
    largest = tl.full([GROUPS], float("-inf"), tl.float32)
    for start in range(0, features, GROUPS):
        inside = start + lanes < features
        part = tl.load(pre + row * features + start + lanes, inside, float("-inf"))
        largest = tl.maximum(largest, part.to(tl.float32))
    bits = largest.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32)
    keys = tl.where(bits < 0, bits ^ 0x7FFF, bits)  # ordered as the numbers are
    low = tl.full([], -32768, tl.int32)
    for bit in tl.static_range(16):
        higher = low + (1 << (15 - bit))
        low = tl.where(tl.sum((keys >= higher).to(tl.int32), 0) >= k, higher, low)
    key = tl.where(low < 0, low ^ 0x7FFF, low).to(tl.int16)
    kth = key.to(tl.float16, bitcast=True).to(tl.float32)
    reach = reach_of(row, lengths, lost, peak, worst, d)
    lowest = kth - tl.abs(kth) * ROUNDING - reach
    tl.store(lowest_of + row, lowest - reach)
    for start in range(0, features, GROUPS):
        inside = start + lanes < features
        part = tl.load(pre + row * features + start + lanes, inside, 0.0).to(tl.float32)
        # what is no number is listed too, and so seen in the codes
        highest = part + tl.abs(part) * ROUNDING + reach
        may = inside & ((highest >= lowest) | (highest != highest))
        place = tl.atomic_add(counts + row + 0 * lanes, 1, may, sem="relaxed")
        tl.store(listed + row * room + place, start + lanes, may & (place < room))


@gpu_loop
def count_over(
    pre, lengths, lost, peak, worst, limits, begins, listed, features, d,
    IS_LISTING: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Count the features of a row that may be over their limit, or list them in order."""
    row = tl.program_id(0).to(tl.int64)
    scale = scale_of_weights(peak) * scale_of_rows(peak)
    reach = reach_of(row, lengths, lost, peak, worst, d)
    found = tl.load(begins + row) if IS_LISTING else tl.full([], 0, tl.int64)
    for start in range(0, features, BLOCK):
        places = start + tl.arange(0, BLOCK)
        inside = places < features
        part = tl.load(pre + row * features + places, inside, 0.0).to(tl.float32)
        limit = tl.load(limits + places, inside, float("inf")) * scale
        highest = part + tl.abs(part) * ROUNDING + reach
        may = inside & ((highest >= limit) | (highest != highest))
        ones = may.to(tl.int32)
        if IS_LISTING:
            before = tl.cumsum(ones, 0) - ones
            tl.store(listed + found + before, places, may)
        found += tl.sum(ones, 0)
    if not IS_LISTING:
        tl.store(begins + row, found)


@gpu_loop
def exact(
    x, W, b, listed, begins, counts, values, d, room,
    IS_EVEN: tl.constexpr, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the pre-activations that are listed, in float32; lists are evenly spaced, or not."""
    row = tl.program_id(0).to(tl.int64)
    begin = row * room if IS_EVEN else tl.load(begins + row)
    count = tl.load(counts + row)
    end = begin + tl.where(count <= room, count, 0)
    for first in range(begin, end, ENTRIES):
        entries = first + tl.arange(0, ENTRIES)
        inside = entries < end
        feature = tl.load(listed + entries, inside, 0).to(tl.int64)
        total = tl.zeros([ENTRIES], tl.float32)
        for start in range(0, d, COLUMNS):
            columns = start + tl.arange(0, COLUMNS)
            theirs = tl.load(x + row * d + columns, columns < d, 0.0)
            mask = inside[:, None] & (columns < d)[None, :]
            part = tl.load(W + feature[:, None] * d + columns[None, :], mask, 0.0)
            total += tl.sum(part * theirs[None, :], 1)
        total += tl.load(b + feature, inside, 0.0)
        tl.store(values + entries, total, inside)


@gpu_loop
def choose(
    listed, found, counts, values, indices, k, room, ROOM: tl.constexpr, BLOCK: tl.constexpr
):
    """Write the k largest of a row's list, largest first; of those that tie, the first features."""
    row = tl.program_id(0).to(tl.int64)
    count = tl.load(counts + row)
    if count > room:
        return
    lanes = tl.arange(0, ROOM)
    mine = tl.load(found + row * room + lanes, lanes < count, float("-inf"))
    feature = tl.load(listed + row * room + lanes, lanes < count, 0)
    key = tl.where(mine == mine, mine, float("inf"))
    rank = tl.zeros([ROOM], tl.int32)
    for start in range(0, count, BLOCK):
        others = start + tl.arange(0, BLOCK)
        value = tl.load(found + row * room + others, others < count, float("-inf"))
        other = tl.load(listed + row * room + others, others < count, 0)
        value = tl.where(value == value, value, float("inf"))
        ties = (value[None, :] == key[:, None]) & (other[None, :] < feature[:, None])
        ahead = (value[None, :] > key[:, None]) | ties
        rank += tl.sum((ahead & (others < count)[None, :]).to(tl.int32), 1)
    kept = (lanes < count) & (rank < k)
    positive = tl.where(mine < 0, 0.0, mine)
    tl.store(values + row * k + rank, positive, kept)
    tl.store(indices + row * k + rank, feature.to(tl.int64), kept)


@gpu_loop
def choose_of_many(
    pre, lowest_of, counts, x, W, b, values, indices, features, d, k, room,
    KEPT: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write what `choose` does for rows of which more may decide than there is room to list.

    The largest so far are kept in order in `values` and `indices` themselves.
    """
    row = tl.program_id(0).to(tl.int64)
    if tl.load(counts + row) <= room:
        return
    lowest = tl.load(lowest_of + row)
    kept = tl.arange(0, KEPT)
    block = tl.arange(0, BLOCK)
    tl.store(values + row * k + kept, float("-inf"), kept < k)
    tl.debug_barrier()
    for start in range(0, features, BLOCK):
        feature = start + block
        part = tl.load(pre + row * features + feature, feature < features, 0.0).to(tl.float32)
        highest = part + tl.abs(part) * ROUNDING
        may = (feature < features) & ((highest >= lowest) | (highest != highest))
        if tl.max(may.to(tl.int32), 0) > 0:
            new = tl.load(b + feature, may, 0.0)
            for first in range(0, d, COLUMNS):
                columns = first + tl.arange(0, COLUMNS)
                theirs = tl.load(x + row * d + columns, columns < d, 0.0)
                mask = may[:, None] & (columns < d)[None, :]
                rows = W + feature.to(tl.int64)[:, None] * d + columns[None, :]
                new += tl.sum(tl.load(rows, mask, 0.0) * theirs[None, :], 1)
            old = tl.load(values + row * k + kept, kept < k, float("-inf"))
            who = tl.load(indices + row * k + kept, kept < k, 0)
            key = tl.where(may, tl.where(new == new, new, float("inf")), float("-inf"))
            old_key = tl.where(old == old, old, float("inf"))
            passed = (key[None, :] > old_key[:, None]) & may[None, :]
            old_rank = kept + tl.sum(passed.to(tl.int32), 1)
            ahead = (old_key[:, None] >= key[None, :]) & (kept < k)[:, None]
            ties = (key[:, None] == key[None, :]) & (block[:, None] < block[None, :])
            others = ((key[:, None] > key[None, :]) | ties) & may[:, None]
            rank = tl.sum(ahead.to(tl.int32), 0) + tl.sum(others.to(tl.int32), 0)
            tl.debug_barrier()
            tl.store(values + row * k + old_rank, old, (kept < k) & (old_rank < k))
            tl.store(indices + row * k + old_rank, who, (kept < k) & (old_rank < k))
            tl.store(values + row * k + rank, new, may & (rank < k))
            tl.store(indices + row * k + rank, feature.to(tl.int64), may & (rank < k))
            tl.debug_barrier()
    largest = tl.load(values + row * k + kept, kept < k, 0.0)
    tl.store(values + row * k + kept, tl.where(largest < 0, 0.0, largest), kept < k)
