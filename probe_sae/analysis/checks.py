"""Whether what was read of an analysis can be one."""

from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.arrays import Examples, Features
from probe_sae.analysis.cofiring import Pairs
from probe_sae.analysis.contexts import ImageInputs, TextInputs
from probe_sae.analysis.labels import Labels, SampledFirings
from probe_sae.analysis.pixels import Pixels
from probe_sae.analysis.result import Analysis
from probe_sae.analysis.sampled import SampledRows
from probe_sae.errors import FormatError

_WIDE = {
    "histogram": "bins", "quantiles": "5", "token_ids": "tokens", "token_shares": "tokens",
    "token_lifts": "tokens", "places": "places", "nearest_ids": "near", "nearest_cosines": "near",
    "cofiring_ids": "mates", "cofiring_phis": "mates", "cofiring_counts": "mates",
    "cofiring_jaccards": "mates", "cofiring_npmis": "mates", "followed_ids": "next",
    "followed_phis": "next", "followed_cosines": "next", "neuron_ids": "neurons",
    "neuron_correlations": "neurons", "promoted_ids": "up", "promoted_values": "up",
    "suppressed_ids": "down", "suppressed_values": "down", "logit_histogram": "logit bins",
    "logit_range": "2",
}  # fmt: skip
"""Columns with a second axis: its length, or a name for it, the same for equally long ones."""
_COUNTS = ("firings", "histogram", "places", "token_undercount", "cofiring_counts",
           "logit_histogram")  # fmt: skip
_IDS = ("part", "cluster", "group", "module")
_OF_FEATURES = ("nearest_ids", "cofiring_ids", "followed_ids")
"""Columns that name other features; -1 is none."""
_WORDS: dict[str, type] = {
    "site": str, "rows": int, "contexts": int, "sae": dict, "metrics": dict, "definitions": dict,
    "training": list, "modules": list, "parts": list, "places": list, "structure": dict,
    "made_of": dict, "cofiring": dict,
}  # fmt: skip
"""What an analysis says of itself, and as what; None, or nothing, where it is not known."""


def check_info(info: dict[str, Any], folder: Path) -> None:
    """Raise unless what an analysis says of itself is of the kinds that it should be.

    Raises:
        FormatError: it is not.
    """
    wrong = [name for name, kind in _WORDS.items() if not isinstance(info.get(name), kind | None)]
    wrong += [name for name in ("site", "rows") if info.get(name) is None]
    wrong += ["kind"] * (info.get("kind") not in ("text", "image"))
    for name in ("training", "modules", "parts"):
        if not all(isinstance(line, dict) for line in info.get(name) or []):
            wrong.append(name)
    if wrong:
        raise FormatError(f"{folder}/analysis.json is damaged: {', '.join(wrong)}; analyse again.")


def check(analysis: Analysis, folder: Path) -> None:
    """Raise unless the arrays are laid out as written and agree with each other.

    So that no later index can go astray, and no report is written from nonsense.

    Args:
        analysis: what was read.
        folder: from where.

    Raises:
        FormatError: they are not.
    """
    count, examples = analysis.count, analysis.examples
    inputs = analysis.inputs
    if unfit := _wrong_inputs(inputs):
        raise FormatError(f"{folder}/analysis.h5 contradicts itself: {', '.join(unfit)}.")
    wrong = _wrong_columns(analysis.columns, count)
    contexts = len(inputs.offsets) - 1 if isinstance(inputs, TextInputs) else len(inputs.label)
    number = len(examples.feature)
    one_each = ("feature", "kind", "rank", "context", "position", "value", "loss")
    wrong += [n for n in one_each if getattr(examples, n).shape != (number,)]
    if not (np.isfinite(examples.value).all() and (examples.value > 0).all()):
        wrong.append("value")
    if np.isinf(examples.loss).any():
        wrong.append("loss")
    if len(examples.offsets) != number + 1 or np.any(np.diff(examples.offsets) < 0):
        wrong.append("offsets")
    elif number and examples.offsets[-1] != len(examples.fired_position):
        wrong.append("fired_position")
    if number and not (
        examples.feature.min() >= 0
        and examples.feature.max() < count
        and examples.context.min() >= 0
        and examples.context.max() < contexts
    ):
        wrong.append("feature or context out of range")
    elif np.any(np.diff(examples.feature) < 0):
        wrong.append("feature is not in order")
    elif not _are_inside(examples, inputs):
        wrong.append("position")
    wrong += [f.name for f in fields(Labels) if len(getattr(analysis.labels, f.name)) != count]
    words: list[Any] = analysis.labels.label
    if not all(isinstance(label, str) for label in words):
        wrong.append("label")
    drawn = analysis.drawn
    lengths = {len(getattr(drawn, field.name)) for field in fields(SampledFirings)}
    if len(lengths) > 1 or not (_within(drawn.feature, count) and _within(drawn.context, contexts)):
        wrong.append("drawn")
    wrong += _wrong_pairs(analysis.pairs, count) + _wrong_rows(analysis.rows, count, contexts)
    if analysis.tree.ndim != 2 or (analysis.tree.size and analysis.tree.shape[1] != 2):
        wrong.append("tree")
    if analysis.pixels is not None and not _fit(analysis.pixels, count):
        wrong.append("pixels")
    if analysis.directions is not None and not _are_directions(analysis.directions, count):
        wrong.append("directions")
    if wrong:
        raise FormatError(f"{folder}/analysis.h5 contradicts itself: {', '.join(wrong)}.")


def _wrong_columns(columns: Features, count: int) -> list[str]:
    """Name the columns that have not the axes or the kind of numbers that they should."""
    wrong: list[str] = []
    widths = {"5": 5, "2": 2}
    for field in fields(Features):
        name, column = field.name, getattr(columns, field.name)
        is_whole = name in _COUNTS or name in _IDS or name.endswith("_ids")
        shape = (count,)
        if name in _WIDE and column.ndim == 2:
            shape = (count, widths.setdefault(_WIDE[name], column.shape[1]))
        elif name in _WIDE:
            shape = (count, -1)
        if (
            column.shape != shape
            or (column.dtype.kind in "iu") != is_whole
            or (name in _COUNTS and column.size and column.min() < 0)
            or (name in _OF_FEATURES and not _within(column[column != -1], count))
        ):
            wrong.append(name)
    return wrong


def _wrong_inputs(inputs: TextInputs | ImageInputs) -> list[str]:
    """Name what of the inputs cannot be."""
    if isinstance(inputs, ImageInputs):
        images = len(inputs.label)
        fit = {
            "label": inputs.label.ndim == 1 and inputs.label.dtype.kind in "iu",
            "thumbnails": inputs.thumbnails.ndim == 4
            and inputs.thumbnails.dtype == np.uint8
            and len(inputs.thumbnails) == images
            and inputs.thumbnails.shape[3] in (1, 3),
            "names": _are_words(inputs.names) and len(inputs.names) == images,
            "classes": _are_words(inputs.classes),
            "grid": min(inputs.grid) > 0,
        }
        return [name for name, is_right in fit.items() if not is_right]
    offsets, contexts = inputs.offsets, len(inputs.document)
    arrays = (inputs.tokens, offsets, inputs.document, inputs.start)
    special: list[Any] = inputs.special
    fit = {
        "numbers of inputs": all(a.ndim == 1 and a.dtype.kind in "iu" for a in arrays),
        "offsets of inputs": len(offsets) == contexts + 1 == len(inputs.start) + 1
        and offsets[0] == 0
        and offsets[-1] == len(inputs.tokens)
        and not np.any(np.diff(offsets.astype(np.int64)) < 0),
        "tokens": not len(inputs.tokens) or int(inputs.tokens.min()) >= 0,
        "documents": _are_words(inputs.documents),
        "special": all(isinstance(token, int) for token in special),
    }
    return [name for name, is_right in fit.items() if not is_right]


def _are_words(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(word, str) for word in cast("Any", found))


def _are_inside(examples: Examples, inputs: TextInputs | ImageInputs) -> bool:
    """Return whether examples, and all that fires around them, lie in their contexts."""
    if isinstance(inputs, TextInputs):
        sizes = np.diff(inputs.offsets)[examples.context]
    else:
        sizes = np.full(len(examples.context), inputs.grid[0] * inputs.grid[1])
    around = np.repeat(sizes, np.diff(examples.offsets))
    pairs = ((examples.position, sizes), (examples.fired_position, around))
    return all(
        len(places) == len(ends) and bool(((places >= 0) & (places < ends)).all())
        for places, ends in pairs
    )


def _fit(pixels: Pixels, features: int) -> bool:
    """Return whether the arrays of drawn pixels are as long as each other."""
    shown = len(pixels.originals)
    image = pixels.originals.shape[1:]
    return (
        pixels.originals.ndim == 4
        and pixels.reconstructions.shape == pixels.originals.shape
        and pixels.labels.shape == (shown,)
        and pixels.codes.shape == (shown, features)
        and pixels.directions.shape == (features, *image)
        and pixels.histogram.ndim == 1
        and pixels.histogram_top.shape == (1,)
    )


def _are_directions(directions: NDArray[Any], features: int) -> bool:
    return (
        directions.ndim == 2
        and len(directions) == features
        and directions.dtype == np.float16
        and bool(np.isfinite(directions).all())
    )


def _wrong_pairs(pairs: Pairs, features: int) -> list[str]:
    """Name what of the pairs cannot be."""
    lengths = {len(getattr(pairs, field.name)) for field in fields(Pairs)}
    ends = np.concatenate([pairs.first, pairs.second])
    if len(lengths) > 1 or (len(ends) and not 0 <= ends.min() <= ends.max() < features):
        return ["pairs"]
    return []


def _wrong_rows(rows: SampledRows, features: int, contexts: int) -> list[str]:
    """Name what of the sampled rows cannot be."""
    number = len(rows.context)
    fit = (
        len(rows.position) == number
        and len(rows.offsets) == number + 1
        and bool(np.all(np.diff(rows.offsets) >= 0))
        and rows.offsets[0] == 0
        and rows.offsets[-1] == len(rows.feature) == len(rows.value)
        and len(rows.mapped) == len(rows.pca) == len(rows.umap)
        and _within(rows.context, contexts)
        and _within(rows.feature, features)
        and _within(rows.mapped, number)
    )
    return [] if fit else ["rows"]


def _within(numbers: NDArray[Any], end: int) -> bool:
    return not len(numbers) or 0 <= int(numbers.min()) <= int(numbers.max()) < end
