"""What a store looks like on disk, in one place.

    STORE/manifest.json      what it is: format, version, sites, rows, statistics, provenance
    STORE/journal.jsonl      one line a committed shard: name, rows, contexts, sha256
    STORE/vocabulary.json    text: what each token id stands for (bytes, written as latin-1)
    STORE/shard-00000.h5     rows, about 64 MiB each; a context never crosses shards
        /sites/<site>/acts       [rows, width] float16, float32, or bfloat16 as uint16 bits
        /rows/doc                [rows] document or image
        /rows/context            [rows] context (one run of tokens, or one image), counted from 0
        /rows/pos                [rows] place in the document, or y * grid width + x
        /rows/token              [rows] token id (text only)
        /inputs/...              the contexts themselves: tokens, or thumbnails and labels

Readable by plain h5py: `h5py.File("STORE/shard-00000.h5")["sites/blocks.2.resid_post/acts"][:10]`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probe_sae.errors import SettingsError

FORMAT = "probe_sae.store"
VERSION = 1
SHARD_BYTES = 64 << 20
"""A shard is committed when its rows take this much..."""
SHARD_SECONDS = 20.0
"""... or when the last commit is this long ago."""
CHUNK_BYTES = 2 << 20
FLOAT16_MAX = 65504.0

DTYPES = {
    "float16": (torch.float16, np.dtype("<f2")),
    "bfloat16": (torch.bfloat16, np.dtype("<u2")),
    "float32": (torch.float32, np.dtype("<f4")),
}
"""Name -> torch dtype and the NumPy dtype on disk; bfloat16 lies there as its 16 bits."""


@dataclass(frozen=True)
class SiteInfo:
    """One site of a store."""

    name: str
    width: int
    """Length of a row."""
    dtype: str = "float16"
    """`float16`, `bfloat16` or `float32`."""


def chunk_rows(width: int, dtype: str) -> int:
    """Return the rows of one chunk: a power of two, about 2 MiB."""
    row_bytes = width * DTYPES[dtype][1].itemsize
    return max(1, 1 << max(0, (CHUNK_BYTES // row_bytes).bit_length() - 1))


def check_dtype(dtype: str) -> str:
    """Return `dtype`.

    Raises:
        SettingsError: it is no dtype that a store knows.
    """
    if dtype not in DTYPES:
        raise SettingsError(f"no dtype {dtype!r} in a store; expected {', '.join(DTYPES)}.")
    return dtype


def to_disk(rows: Tensor, dtype: str) -> np.ndarray:
    """Return `rows` as the array that goes on disk; values must fit (see the writer's guard)."""
    cast = rows.detach().to("cpu", DTYPES[dtype][0]).contiguous()
    return cast.view(torch.uint16).numpy() if dtype == "bfloat16" else cast.numpy()


def from_disk(rows: np.ndarray, dtype: str) -> Tensor:
    """Return an array from disk as a tensor of its logical dtype; no copy."""
    tensor = torch.from_numpy(rows)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor
