"""Whole inputs with all that fires on them, and maps of their rows, for the inputs explorer.

About 2.5 bytes of file a firing and 16 a mapped row: 0.7 MB for 19,543 tokens with 14 firings each,
and 0.8 MB at most, beside at most a thousand pictures of 2.6 kB. Inputs are referred to by their
rank among the contexts shown.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.result import Analysis
from probe_sae.reporting.encoding import narrow, pack, rounded

if TYPE_CHECKING:
    from probe_sae.reporting.inputs import Shown

INPUTS = 1000
"""Inputs in the explorer at most."""
FIRINGS = 300_000
"""Firings in the explorer at most, unless one input alone has more."""
FIRINGS_A_SHARD = 20_000
"""About 50 kB of file."""
STEPS = 255
"""Steps of a feature's largest activation in which levels are kept."""


def explored_inputs(
    analysis: Analysis, inputs: int = INPUTS, firings: int = FIRINGS
) -> NDArray[np.int64]:
    """Return the sampled contexts that the explorer shows, ascending.

    All of them, unless they are more than `inputs` or have more than `firings`: then such as hold a
    mapped row first, otherwise in an order drawn from a fixed seed, until one is full.
    """
    rows = analysis.rows
    contexts, which = np.unique(rows.context, return_inverse=True)
    sizes = np.bincount(which, np.diff(rows.offsets), len(contexts))
    drawn = np.random.default_rng(0).permutation(len(contexts))
    is_mapped = np.isin(contexts, rows.context[rows.mapped])
    order = np.concatenate([drawn[is_mapped[drawn]], drawn[~is_mapped[drawn]]])
    fits = int(np.searchsorted(np.cumsum(sizes[order]), firings, side="right"))
    return np.sort(contexts[order[: min(inputs, max(fits, 1))]]).astype(np.int64)


def explorer_files(analysis: Analysis, shown: "Shown") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and value of each data file of the explorer.

    Exact: which features fire on which row. Levels are whole 255ths of the feature's largest
    activation, at least one: right to 1/510 of it (to one step where the firing is weaker than
    that). A dictionary with negative activations has signed levels, of the largest absolute
    activation among these rows, which is right to 2**-16 of itself. Places on a map are 65534ths of
    its width.
    """
    written = _of_inputs(analysis, explored_inputs(analysis))
    scales, is_signed = _scales(analysis, written)
    starts: list[int] = []
    for first, last in _shards(written):
        yield f"explore/{len(starts):03d}", _shard(written, first, last, scales, is_signed)
        starts.append(first)
    yield "explore/maps", _maps(analysis, written)
    arrays: dict[str, NDArray[Any]] = {
        "rank": narrow(shown.context_ranks(written.contexts)),
        "rows": narrow(np.diff(written.starts)),
        "firings": narrow(np.diff(written.offsets[written.starts])),
        "features": narrow(_distinct(written)),
    }
    if is_signed:
        arrays["scales"] = rounded(scales, 15)
    sampled = analysis.rows
    yield (
        "explore/list",
        {
            **pack(arrays),
            "shards": starts,
            "sampled": len(np.unique(sampled.context)),
            "sampled_rows": len(sampled.context),
            "mapped": len(sampled.mapped),
        },
    )


@dataclass(frozen=True)
class _Written:
    """Rows by input, then by position."""

    contexts: NDArray[np.int64]
    """[inputs] indices into the analysis's inputs."""
    starts: NDArray[np.int64]
    """[inputs + 1] where the rows of each input start."""
    rows: NDArray[np.int64]
    """[rows] indices into the analysis's sampled rows."""
    offsets: NDArray[np.int64]
    """[rows + 1] where the firings of each row start."""
    feature: NDArray[np.int32]
    """[firings]"""
    value: NDArray[np.float32]
    """[firings]"""
    position: NDArray[np.int64]
    """[rows]"""


def _of_inputs(analysis: Analysis, contexts: NDArray[np.int64]) -> _Written:
    sampled = analysis.rows
    order = np.lexsort((sampled.position, sampled.context))
    rows = order[np.isin(sampled.context[order], contexts)]
    counts = np.diff(sampled.offsets)[rows]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    skipped = sampled.offsets[:-1][rows] - offsets[:-1]
    firings = np.arange(offsets[-1]) + np.repeat(skipped, counts)
    starts = np.searchsorted(sampled.context[rows], contexts)
    return _Written(
        contexts=contexts,
        starts=np.append(starts, len(rows)).astype(np.int64),
        rows=rows,
        offsets=offsets,
        feature=sampled.feature[firings],
        value=sampled.value[firings],
        position=np.maximum(sampled.position[rows], 0).astype(np.int64),
    )


def _scales(analysis: Analysis, written: _Written) -> tuple[NDArray[np.float32], bool]:
    """Return the activation that stands for the highest level of each feature."""
    if not (written.value < 0).any():
        return analysis.columns.max, False
    scales = np.zeros(analysis.count, np.float32)
    np.maximum.at(scales, written.feature, np.abs(written.value))
    return scales, True


def _shards(written: _Written) -> Iterator[tuple[int, int]]:
    """Yield the first input of each shard, and the one after its last."""
    ends = written.offsets[written.starts]
    first = 0
    while first < len(written.contexts):
        last = int(np.searchsorted(ends, ends[first] + FIRINGS_A_SHARD, side="right")) - 1
        last = min(max(last, first + 1), len(written.contexts))
        yield first, last
        first = last


def _shard(
    written: _Written, first: int, last: int, scales: NDArray[np.float32], is_signed: bool
) -> dict[str, Any]:
    rows = slice(int(written.starts[first]), int(written.starts[last]))
    firings = slice(int(written.offsets[rows.start]), int(written.offsets[rows.stop]))
    feature, value = written.feature[firings], written.value[firings]
    tops = np.where(scales[feature] > 0, scales[feature], 1)
    levels = np.clip(np.rint(np.abs(value) / tops * STEPS), 1, STEPS)
    return pack({
        "rows": narrow(np.diff(written.starts[first : last + 1])),
        "positions": narrow(written.position[rows]),
        "counts": narrow(np.diff(written.offsets[rows.start : rows.stop + 1])),
        "features": narrow(feature),
        "levels": (levels * np.sign(value)).astype(np.int16) if is_signed
                  else levels.astype(np.uint8),
    })  # fmt: skip


def _maps(analysis: Analysis, written: _Written) -> dict[str, Any]:
    """Return the mapped rows of the inputs written: input, position, places on both maps."""
    sampled = analysis.rows
    kept = np.isin(sampled.context[sampled.mapped], written.contexts)
    rows = sampled.mapped[kept]
    return pack({
        "input": narrow(np.searchsorted(written.contexts, sampled.context[rows])),
        "position": narrow(np.maximum(sampled.position[rows], 0)),
        "pca": _places(sampled.pca[kept]),
        "umap": _places(sampled.umap[kept]),
    })  # fmt: skip


def _places(places: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return places as 65534ths of the wider side, both axes to one scale; NaN as 65535."""
    known = np.isfinite(places).all(axis=1, keepdims=True)
    if not known.any():
        return np.full(places.shape, 65535, np.uint16)
    inside = np.where(known, places, np.nan).astype(np.float64)
    low, high = np.nanmin(inside, axis=0), np.nanmax(inside, axis=0)
    width = max(float((high - low).max()), 1e-12)
    middle = (1 - (high - low) / width) / 2
    return np.where(known, np.rint(((places - low) / width + middle) * 65534), 65535).astype(
        np.uint16
    )


def _distinct(written: _Written) -> NDArray[np.int64]:
    """Return how many features fire somewhere in each input."""
    per_input = np.diff(written.offsets[written.starts])
    which = np.repeat(np.arange(len(per_input)), per_input)
    pairs = np.unique(which * (int(written.feature.max(initial=0)) + 1) + written.feature)
    return np.bincount(
        pairs // (int(written.feature.max(initial=0)) + 1), minlength=len(per_input)
    ).astype(np.int64)
