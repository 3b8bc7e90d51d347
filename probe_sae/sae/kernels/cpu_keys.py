"""Numbers rounded to bfloat16 or to bytes, and keys: whole numbers ordered as those are."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.sae.kernels.compiled import dots_of, fast

LOWEST_KEY = -32768


@fast
def round_rows(
    rows: NDArray[np.float32],
    bits: NDArray[np.int16],
    lengths: NDArray[np.float32],
    lost: NDArray[np.float32],
) -> None:
    """Round to bfloat16.

    Args:
        rows: [rows, d].
        bits: to be written: the numbers' bit patterns, [rows, d].
        lengths: to be written: of the rows, [rows].
        lost: to be written: lengths of what rounding takes away, [rows].
    """
    near = np.empty(rows.shape[1], np.uint32)
    rounded = near.view(np.float32)
    for row in range(len(rows)):
        exact, patterns, written = rows[row], rows[row].view(np.uint32), bits[row].view(np.uint16)
        for i in range(len(exact)):
            # to the nearest; of two as near, to the even one
            odd = (patterns[i] >> np.uint32(16)) & np.uint32(1)
            pattern = (patterns[i] + np.uint32(0x7FFF) + odd) >> np.uint32(16)
            written[i], near[i] = pattern, pattern << np.uint32(16)
        square, error = np.float32(0), np.float32(0)
        for i in range(len(exact)):
            missing = exact[i] - rounded[i]
            square += exact[i] * exact[i]
            error += missing * missing
        lengths[row], lost[row] = np.sqrt(square), np.sqrt(error)


@fast
def largest_of_rows(rows: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Write the largest absolute value of each row."""
    for row in range(len(rows)):
        largest, values = np.float32(0), rows[row]
        for i in range(len(values)):
            largest = max(largest, abs(values[i]))
        out[row] = largest


@fast
def patterns_of_whole(
    numbers: NDArray[np.int32], units: NDArray[np.float32], out: NDArray[np.int16]
) -> None:
    """Write bit patterns of bfloat16 of whole numbers of units, cut off instead of rounded.

    Args:
        numbers: [rows, columns].
        units: of each column, [columns].
        out: to be written, [rows, columns].
    """
    cut = np.empty(numbers.shape[1], np.float32)
    patterns = cut.view(np.int32)
    for row in range(len(numbers)):
        values, written = numbers[row], out[row]
        for i in range(len(values)):
            cut[i] = np.float32(values[i]) * units[i]
        for i in range(len(values)):
            written[i] = np.int16(patterns[i] >> 16)


@fast
def round_to_bytes(
    rows: NDArray[np.float32],
    units: NDArray[np.float32],
    written: NDArray[np.int8],
    lengths: NDArray[np.float32],
    lost: NDArray[np.float32],
) -> None:
    """Round to whole numbers of units.

    Args:
        rows: [rows, d].
        units: of each row, of which its numbers are at most 127, [rows].
        written: to be written: [rows, at least d].
        lengths: to be written: of the rows, [rows].
        lost: to be written: lengths of what rounding takes away, [rows].
    """
    near = np.empty(rows.shape[1], np.float32)
    for row in range(len(rows)):
        exact, unit, out = rows[row], units[row], written[row]
        inverse = np.float32(1) / unit
        for i in range(len(exact)):
            near[i] = np.rint(exact[i] * inverse)
        for i in range(len(exact)):
            out[i] = np.int8(np.int32(near[i]))
        square, error = np.float32(0), np.float32(0)
        for i in range(len(exact)):
            missing = exact[i] - near[i] * unit
            square += exact[i] * exact[i]
            error += missing * missing
        lengths[row], lost[row] = np.sqrt(square), np.sqrt(error)


@fast
def order(values: NDArray[np.int16]) -> None:
    """Turn bit patterns of bfloat16 into keys: integers that are ordered as the numbers are.

    Those of positive numbers are so from the start, and stay as they are.
    """
    for i in range(len(values)):
        values[i] ^= (values[i] >> 15) & 0x7FFF


@fast
def key_below(value: Any, cell: NDArray[np.float32]) -> Any:
    """Return the key of the largest bfloat16 that is not over a number."""
    cell[0] = value
    key = np.int32(cell.view(np.int32)[0] >> 16)
    if key < 0:
        key = (key ^ 0x7FFF) - 1
    return max(key, np.int32(LOWEST_KEY))


@fast
def again(
    x: NDArray[np.float32],
    W: NDArray[np.float32],
    b: NDArray[np.float32],
    chosen: NDArray[np.int32],
    first: int,
    stop: int,
    out: NDArray[np.float32],
) -> None:
    """Write pre-activations of a part of the chosen features in float32."""
    dots_of(x, W, chosen, first, stop, out)
    for i in range(first, stop):
        out[i] += b[chosen[i]]
