"""Arrays and values become the text of a data file, `probe.take(NAME, VALUE);`.

A browser that opens a page from disk may load scripts but no other files, hence scripts. Arrays
travel as base64 of gzip, so that no text of a corpus stands in a script; everything else is ASCII
JSON with `<`, `>` and `&` escaped. The same input gives the same bytes.
"""

import base64
import gzip
import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.shown import clean

SMALLEST_BLOCK = 256
"""Bytes that are worth a block, whose code takes some 60."""
_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&"}


def script(name: str, value: Any) -> str:
    """Return the text of the data file that hands `value` to the page under `name`."""
    return f"probe.take({to_json(name)},{to_json(value)});\n"


def to_json(value: Any) -> str:
    """Return JSON in ASCII that can stand in a script or a page; keys are sorted."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.translate(_ESCAPES)


def plain(value: Any) -> Any:
    """Return `value` as what JSON can hold: NaN and infinities as None, lone surrogates as `�`."""
    if isinstance(value, Mapping):
        return {clean(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    return clean(str(value))


def pack(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return arrays as `{"columns": [[name, dtype, shape], …], "gz": base64 of gzip}`.

    Columns lie one after the other, each little-endian and in byte planes (all first bytes, then
    all second bytes, …), which halves what gzip leaves of numbers that share their high bytes.
    """
    columns: list[list[Any]] = []
    planes: list[bytes] = []
    for name, array in arrays.items():
        dtype = array.dtype.newbyteorder("<")
        data = np.ascontiguousarray(array, dtype=dtype)
        columns.append([name, dtype.str[1:], list(data.shape)])
        bytes_ = data.view(np.uint8).reshape(-1, dtype.itemsize)
        planes.extend(plane.tobytes() for plane in bytes_.T)
    packed = _zip(planes)
    return {"columns": columns, "gz": base64.b64encode(packed).decode("ascii")}


def _zip(planes: list[bytes]) -> bytes:
    """Return gzip in which each plane begins a block with a code of its own: 4 % less."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS, 9)
    parts: list[bytes] = []
    waiting = 0
    for plane in planes:
        if waiting and max(waiting, len(plane)) >= SMALLEST_BLOCK:
            parts.append(packer.flush(zlib.Z_BLOCK))
            waiting = 0
        parts.append(packer.compress(plane))
        waiting += len(plane)
    return b"".join([*parts, packer.flush()])


def unpack(packed: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return the arrays that `pack` was given; what the pages do in JavaScript."""
    data = gzip.decompress(base64.b64decode(packed["gz"]))
    arrays: dict[str, NDArray[Any]] = {}
    start = 0
    for name, code, shape in packed["columns"]:
        dtype = np.dtype("<" + code)
        count = math.prod(shape)
        planes = np.frombuffer(data, np.uint8, count * dtype.itemsize, start)
        bytes_ = np.ascontiguousarray(planes.reshape(dtype.itemsize, count).T)
        arrays[name] = bytes_.view(dtype).reshape(shape)
        start += count * dtype.itemsize
    return arrays


def narrow(values: NDArray[Any]) -> NDArray[Any]:
    """Return non-negative whole numbers in the smallest of uint8, uint16 and uint32."""
    top = int(values.max()) if values.size else 0
    kind = np.uint8 if top < 1 << 8 else np.uint16 if top < 1 << 16 else np.uint32
    return np.minimum(values.astype(np.int64), 0xFFFFFFFF).astype(kind)


def rounded(values: NDArray[Any], bits: int) -> NDArray[np.float32]:
    """Return float32 rounded to `bits` bits of mantissa.

    The relative error is 2**-(bits + 1) at most; the bytes emptied cost nothing once packed.
    """
    exact = np.ascontiguousarray(values, dtype=np.float32)
    drop = 23 - bits
    raw = exact.view(np.uint32)
    near = ((raw + np.uint32(1 << (drop - 1))) >> np.uint32(drop)) << np.uint32(drop)
    return np.where(np.isfinite(exact), near.view(np.float32), exact)


def fraction16(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Return shares from 0 to 1 as whole 65535ths; NaN as 0."""
    return np.rint(np.clip(np.nan_to_num(values), 0, 1) * 65535).astype(np.uint16)


def signed16(values: NDArray[Any]) -> NDArray[np.int16]:
    """Return numbers from -1 to 1 as whole 32767ths; NaN as -32768."""
    scaled = np.rint(np.clip(np.nan_to_num(values), -1, 1) * 32767)
    return np.where(np.isnan(values), -32768, scaled).astype(np.int16)
