"""The inputs that examples and the explorer show: contexts in shards, vocabulary, pictures.

Each context is written once; features refer to it by its rank among the contexts shown.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.contexts import ImageInputs, TextInputs
from probe_sae.analysis.pixels import Pixels
from probe_sae.analysis.result import Analysis
from probe_sae.reporting.encoding import narrow, pack, rounded
from probe_sae.reporting.explorer import explored_inputs
from probe_sae.shown import clean

TOKENS_A_SHARD = 120_000
"""About 250 kB of file: an example needs one, the twenty of a page up to twenty."""
PIXELS_A_SHARD = 400_000
"""Bytes of raw picture in a data file."""
LARGEST_RAW_PICTURE = 3 * 32 * 32
"""Bytes; larger pictures become one WebP file each."""


@dataclass(frozen=True)
class Shown:
    """Which contexts and tokens a report shows; both are renumbered by rank."""

    contexts: NDArray[np.int64]
    """[shown] indices into the inputs, ascending."""
    tokens: NDArray[np.int64]
    """[shown] token ids (image: classes), ascending."""

    def context_ranks(self, contexts: NDArray[Any]) -> NDArray[np.int64]:
        """Return the rank of each context among those shown."""
        return np.searchsorted(self.contexts, contexts)

    def token_ranks(self, tokens: NDArray[Any]) -> NDArray[np.int64]:
        """Return one more than the rank of each token among those shown; 0 for "none"."""
        ranks = np.searchsorted(self.tokens, tokens) + 1
        return np.where(tokens >= 0, ranks, 0)


def find_shown(analysis: Analysis) -> Shown:
    """Return the contexts and tokens that some feature, or the explorer, refers to."""
    used_contexts = [analysis.examples.context, explored_inputs(analysis)]
    contexts = np.unique(np.concatenate(used_contexts)).astype(np.int64)
    features, inputs = analysis.columns, analysis.inputs
    tables = [features.token_ids, features.promoted_ids, features.suppressed_ids]
    used = [np.unique(table) for table in tables]
    if isinstance(inputs, TextInputs):
        used += [np.unique(inputs.tokens[_places(inputs.offsets, contexts)])]
    else:
        used += [np.unique(inputs.label[contexts])]
    tokens = np.unique(np.concatenate(used)).astype(np.int64)
    return Shown(contexts, tokens[tokens >= 0])


def vocabulary(analysis: Analysis, shown: Shown) -> dict[str, Any]:
    """Return what each token shown stands for, as bytes; a token may be part of a character."""
    inputs, is_text = analysis.inputs, isinstance(analysis.inputs, TextInputs)
    if isinstance(inputs, TextInputs):
        known = inputs.pieces
        special = np.isin(shown.tokens, np.asarray(inputs.special, dtype=np.int64))
    else:
        known = [clean(name).encode() for name in inputs.classes]
        special = np.zeros(len(shown.tokens), dtype=bool)
    # classes without names are their numbers
    pieces = [
        known[t] if t < len(known) else b"?" if is_text else str(t).encode()
        for t in shown.tokens.tolist()
    ]
    arrays: dict[str, NDArray[Any]] = {
        "ids": narrow(shown.tokens),
        "lengths": narrow(np.array([len(piece) for piece in pieces], dtype=np.int64)),
        "special": special.astype(np.uint8),
        "bytes": np.frombuffer(b"".join(pieces), dtype=np.uint8),
    }
    return pack(arrays)


def context_shards(inputs: TextInputs, shown: Shown) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rank of a shard's first context, and the shard."""
    sizes = np.diff(inputs.offsets)[shown.contexts]
    for first, last in _runs(sizes, TOKENS_A_SHARD):
        chosen = shown.contexts[first:last]
        documents, names = np.unique(inputs.document[chosen], return_inverse=True)
        tokens = inputs.tokens[_places(inputs.offsets, chosen)]
        arrays = {
            "lengths": narrow(sizes[first:last]),
            "document": narrow(names),
            "start": narrow(np.maximum(inputs.start[chosen], 0)),
            "tokens": narrow(shown.token_ranks(tokens)),
        }
        titles = [inputs.documents[d] if 0 <= d < len(inputs.documents) else "?" for d in documents]
        yield first, {**pack(arrays), "documents": titles}


def picture_shards(inputs: ImageInputs, shown: Shown) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rank of a shard's first image, and the shard: names, classes, small pictures."""
    size = int(np.prod(inputs.thumbnails.shape[1:]))
    raw = size <= LARGEST_RAW_PICTURE
    number = len(shown.contexts)
    for first, last in _runs(np.full(number, size if raw else 100), PIXELS_A_SHARD):
        chosen = shown.contexts[first:last]
        arrays: dict[str, NDArray[Any]] = {
            "label": narrow(shown.token_ranks(inputs.label[chosen])),
        }
        if raw:
            arrays["pixels"] = inputs.thumbnails[chosen]
        yield first, {**pack(arrays), "names": [inputs.names[c] for c in chosen.tolist()]}


def write_pictures(inputs: ImageInputs, shown: Shown, folder: Path) -> bool:
    """Write one WebP file an image, by rank, unless the pictures are small enough for a shard."""
    if int(np.prod(inputs.thumbnails.shape[1:])) <= LARGEST_RAW_PICTURE:
        return False
    from PIL import Image

    for rank, context in enumerate(shown.contexts.tolist()):
        place = folder / picture_path(rank)
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = inputs.thumbnails[context]
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        image.convert("RGB").save(place, "WEBP", quality=72, method=4)
    return True


def drawn_pixels(pixels: Pixels) -> dict[str, Any]:
    """Return what the pages draw of a dictionary of pixels."""
    arrays: dict[str, NDArray[Any]] = {
        "originals": pixels.originals,
        "reconstructions": pixels.reconstructions,
        "labels": pixels.labels,
        "codes": rounded(pixels.codes, 10),
        "directions": rounded(pixels.directions, 7),
        "histogram": narrow(pixels.histogram),
        "histogram_top": pixels.histogram_top,
    }
    return pack(arrays)


def picture_path(rank: int) -> str:
    """Return where the picture of that rank lies; 1000 a folder."""
    return f"img/{rank // 1000:03d}/{rank:06d}.webp"


def _runs(sizes: NDArray[Any], most: int) -> Iterator[tuple[int, int]]:
    """Cut a row of items into runs whose sizes sum to about `most`; yield each first and end."""
    ends = np.cumsum(sizes)
    first = 0
    while first < len(sizes):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield first, last
        first = last


def _places(offsets: NDArray[Any], chosen: NDArray[Any]) -> NDArray[np.int64]:
    """Return the places in the flat array of all tokens of the chosen contexts."""
    starts, ends = offsets[:-1][chosen], offsets[1:][chosen]
    sizes = ends - starts
    skipped = np.cumsum(sizes) - sizes
    total = int(sizes.sum())
    return np.arange(total) + np.repeat(starts - skipped, sizes)
