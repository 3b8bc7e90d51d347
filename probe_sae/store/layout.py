"""What a store looks like on disk, in one place.

    STORE/manifest.json      what it is: format, version, sites, rows, statistics, provenance,
                             digests of the other files and of itself
    STORE/journal.jsonl      one line a shard: name, rows, contexts, sha256, and what is added to
                             its numbers of contexts and documents, where stores were merged
    STORE/vocabulary.json    text: what each token id stands for (bytes, written as latin-1)
    STORE/shard-00000.h5     rows, up to about 1 GiB
        /sites/<site>/acts       [rows, width] float16, float32, or bfloat16 as uint16 bits
        /sites/<site>/statistics/...   mean, scatter [width]; count, largest, norm_sum
        /rows/doc                [rows] document or image
        /rows/context            [rows] context (one run of tokens, or one image), counted from 0
        /rows/pos                [rows] place in the document, or y * grid width + x
        /rows/token              [rows] text: token id
        /rows/y, /rows/x         [rows] images: place in the patch grid
        /inputs/...              the contexts themselves, [contexts]: document, start, label;
                                 token_ends, name_ends, which cut tokens and names (UTF-8) in
                                 pieces; thumbnails

A context never crosses shards, and the rows of one lie together, but for a shuffled store, whose
rows lie in random order and whose inputs are spread over the shards in their own.

Arrays are chunked by rows and not compressed, unless a store was recorded so. While a shard is
being written it is called `shard-00000.h5.writing`, and `shard-00000.commits.jsonl` says what of it
is safe, by byte offsets: after a crash, that is what counts.

Readable by plain h5py: `h5py.File("STORE/shard-00000.h5")["sites/blocks.2.resid_post/acts"][:10]`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probe_sae.errors import SettingsError, StoreError

FORMAT = "probe_sae.store"
VERSION = 1
SHARD_BYTES = 1 << 30
COMMIT_BYTES = 32 << 20
"""Rows are committed when so many bytes are not, while the next as many are written..."""
COMMIT_SECONDS = 20.0
"""... or when the first of them is this old."""
CHUNK_BYTES = 2 << 20

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
    compressed: bool = False
    """Packed by gzip on disk: for sites that are mostly zeros."""


def chunk_rows(row_bytes: int) -> int:
    """Return the rows of one chunk: a power of two, about 2 MiB, for short rows at most 16,384."""
    return min(16_384, max(1, 1 << max(0, (CHUNK_BYTES // row_bytes).bit_length() - 1)))


def shard_name(number: int) -> str:
    """Return the file name of a shard, counted from 0."""
    return f"shard-{number:05d}.h5"


def check_dtype(dtype: str) -> str:
    """Return `dtype`.

    Raises:
        SettingsError: it is no dtype that a store knows.
    """
    if dtype not in DTYPES:
        raise SettingsError(f"no dtype {dtype!r} in a store; expected {', '.join(DTYPES)}.")
    return dtype


def check_values(site: SiteInfo, rows: Tensor, first: int) -> None:
    """Check that each value would be stored as a number near it.

    Args:
        site: where the rows are of.
        rows: [rows, width].
        first: how many rows of the store come before.

    Raises:
        StoreError: one is not finite, or too large for the store's dtype.
    """
    if not rows.numel():
        return
    low, high = torch.aminmax(rows)
    largest = max(-float(low), float(high))
    if not np.isfinite(largest):
        raise StoreError(
            f"{site.name}: the host gives values that are not finite (row {first} on). "
            "Look at the host's dtype and inputs."
        )
    if not _fits(largest, site.dtype):
        fitting = [f"--dtype {dtype}" for dtype in DTYPES if _fits(largest, dtype)]
        advice = f"Record with {' or '.join(fitting)}." if fitting else "Look at the host."
        most = torch.finfo(DTYPES[site.dtype][0]).max
        raise StoreError(
            f"{site.name}: a value of {largest:.3g} does not fit {site.dtype} (at most {most:.6g})"
            f"{'' if fitting else ', and no dtype of a store holds it'}. {advice}"
        )


def _fits(value: float, dtype: str) -> bool:
    """Return whether a value is finite when it is rounded to a dtype."""
    rounded = torch.tensor(value, dtype=torch.float64).to(DTYPES[dtype][0])
    return bool(rounded.isfinite())


def to_disk(rows: Tensor, dtype: str) -> np.ndarray:
    """Return `rows` as the array that goes on disk; values must fit (see `check_values`)."""
    cast = rows.detach().to("cpu", DTYPES[dtype][0]).contiguous()
    return cast.view(torch.uint16).numpy() if dtype == "bfloat16" else cast.numpy()


def from_disk(rows: np.ndarray, dtype: str) -> Tensor:
    """Return an array from disk as a tensor of its logical dtype; no copy."""
    tensor = torch.from_numpy(rows)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor
