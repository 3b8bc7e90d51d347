"""Columns of all features for the list and the map, and chunks of 128 features for their pages."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.arrays import TOP, Examples
from probe_sae.analysis.contexts import TextInputs
from probe_sae.analysis.result import Analysis
from probe_sae.reporting.encoding import fraction16, narrow, pack, rounded, signed16
from probe_sae.reporting.inputs import Shown
from probe_sae.shown import clean

CHUNK = 128
"""Features in a file of `data/f`."""
SHOWN_TOKENS = 8
"""Tokens of a feature that its page shows."""
HALVING = 1024
"""Steps in which an example's value halves: right to 2**-11."""
LOGIT_STEPS = 6
"""Steps of a doubling in which the logits of a bar are counted: right to 6 %."""
LABEL_TOKENS = 5
"""Tokens of a feature that the list shows and searches."""
NEAR = 16
"""Tokens on either side of an example whose activations are kept finely; what the page shows."""
SORTED_THERE = 32_768
"""Features up to which a page sorts them itself when it is opened; 131,072 take it over 60 ms."""
THUMBS = 4
"""Images of a feature that the list shows."""
SPARK_BINS = 16
"""Bars of a list row's small histogram."""


def index(analysis: Analysis) -> dict[str, Any]:
    """Return what the list and the map need of every feature, about 20 bytes each.

    `order`, which only large dictionaries have, is that of the list when it is opened: features
    that fire most come first.
    `firings`, `cluster`, `module` and `part` are exact (cluster and module plus one, so that 0 is
    "none"); `fit`, how well the label fits, is in half per cents (255 is "not scored", and a clear
    label has `clear` 1);
    `max` and `mean` are right to 2**-16 of themselves, `share` to 2**-17, and `x`, `y` are 65534ths
    of the map's width (65535 is "none").
    """
    features = analysis.columns
    top_share = features.token_shares[:, :1].max(axis=1, initial=0)
    arrays: dict[str, NDArray[Any]] = {
        "firings": narrow(features.firings),
        "max": rounded(features.max, 15),
        "mean": rounded(features.mean, 15),
        "share": fraction16(top_share),
        "x": _places16(features.x),
        "y": _places16(features.y),
        "cluster": narrow(features.cluster.astype(np.int64) + 1),
        "module": narrow(features.module.astype(np.int64) + 1),
        "part": narrow(features.part),
        "fit": _halves8(analysis.labels.balanced_accuracy),
        "clear": analysis.labels.is_clear.astype(np.uint8),
    }
    if analysis.count > SORTED_THERE:
        arrays["order"] = narrow(np.argsort(-features.firings, kind="stable"))
    return pack(arrays)


def sparks(analysis: Analysis) -> dict[str, Any]:
    """Return every feature's histogram as bars from 0 to 15, on a log scale, two bars a byte."""
    counts = analysis.columns.histogram
    groups = np.array_split(np.arange(counts.shape[1]), SPARK_BINS)
    bars = np.stack([np.log1p(counts[:, group].sum(axis=1)) for group in groups], axis=1)
    tallest = np.maximum(bars.max(axis=1, keepdims=True, initial=0), 1e-9)
    heights = np.ceil(bars / tallest * 15).astype(np.uint8)
    return pack({"bars": heights[:, 0::2] * 16 + heights[:, 1::2]})


def strongest(analysis: Analysis, shown: Shown) -> dict[str, Any]:
    """Return the strongest images of each feature, [features, THUMBS].

    `context` is an image's rank plus one, so that 0 is "none"; `position` the patch.
    """
    examples = analysis.examples
    some = (examples.kind == TOP) & (examples.rank < THUMBS)
    at = examples.feature[some], examples.rank[some]
    context, position = np.zeros((2, analysis.count, THUMBS), np.int64)
    context[at] = shown.context_ranks(examples.context[some]) + 1
    position[at] = np.maximum(examples.position[some], 0)
    return pack({"context": narrow(context), "position": narrow(position)})


def labels(analysis: Analysis) -> dict[str, Any]:
    """Return what `label_lines` says as one text, and the length of each feature's part of it."""
    lines = label_lines(analysis)
    text = np.frombuffer(b"".join(lines), dtype=np.uint8)
    return pack({"text": text, "lengths": narrow(np.array([*map(len, lines)], np.int64))})


def label_lines(analysis: Analysis) -> list[bytes]:
    """Return each feature's label and commonest tokens, U+001F between, as UTF-8."""
    names: dict[int, str] = {}
    lines: list[bytes] = []
    for label, tokens in zip(
        analysis.labels.label, analysis.columns.token_ids[:, :LABEL_TOKENS].tolist(), strict=True
    ):
        for token in tokens:
            if token >= 0 and token not in names:
                names[token] = visible(analysis.token_text(token))
        shown = [names[token] for token in tokens if token >= 0]
        lines.append("\x1f".join([visible(label).replace("\x1f", " "), *shown]).encode())
    return lines


def visible(text: str) -> str:
    """Return text in which a reader sees control characters: newline as ↵, tab as →, NUL as ␀."""
    named = {0x0A: "↵", 0x09: "→", 0x7F: "␡", 0x85: "↵", 0x2028: "↵", 0x2029: "↵"}
    pictures = {code: chr(0x2400 + code) for code in range(32)}
    return clean(text).translate({**pictures, **named})


def chunk(analysis: Analysis, shown: Shown, first: int) -> dict[str, Any]:
    """Return everything the pages of features `first` to `first` + 127 show.

    Exact: counts and the moments. Right to 2**-12 of themselves: quantiles and lifts; to 2**-11:
    examples' values, as steps of `HALVING` down from the feature's maximum, then from the one
    before; to 2**-9: logit effects and their moments; to 2**-8: effects on the loss; to 6 %: bars
    of logits; to 2**-16: shares, cosines and phis. Activations around an example are whole 85ths of
    the feature's maximum, at least a third of one, and in text over 16 tokens away 15ths of it, at
    least a quarter of one: dense features fire at many such places, which only the whole context
    shows. The example's own level, which its value tells, is 0. Places are steps from one to the
    next, the first back from the example's own.
    """
    part = slice(first, min(first + CHUNK, analysis.count))
    return pack({
        **_statistics(analysis, part), **_labels(analysis, part), **_logits(analysis, part),
        **_relations(analysis, shown, part), **_examples(analysis, shown, part),
    })  # fmt: skip


def _statistics(analysis: Analysis, part: slice) -> dict[str, NDArray[Any]]:
    features = analysis.columns
    exact = ("mean", "mean_activation", "std", "skew", "kurtosis", "max", "decoder_norm",
             "histogram_top")  # fmt: skip
    arrays: dict[str, NDArray[Any]] = {
        name: getattr(features, name)[part].astype(np.float32) for name in exact
    }
    arrays["histogram"] = narrow(features.histogram[part])
    arrays["quantiles"] = rounded(features.quantiles[part], 11)
    return arrays


def _labels(analysis: Analysis, part: slice) -> dict[str, NDArray[Any]]:
    """How well labels fit, in half per cents, and where in contexts features fire."""
    names = ("low", "high", "sensitivity", "specificity", "precision", "hard_accuracy")
    arrays = {f"label_{name}": _halves8(getattr(analysis.labels, name)[part]) for name in names}
    arrays["label_firings"] = narrow(analysis.labels.firings_scored[part])
    return {**arrays, "places": narrow(analysis.columns.places[part])}


def _logits(analysis: Analysis, part: slice) -> dict[str, NDArray[Any]]:
    features = analysis.columns
    bars = np.rint(LOGIT_STEPS * np.log2(1 + features.logit_histogram[part]))
    names = ("range", "std", "skew", "kurtosis")
    moments = {
        f"logit_{name}": rounded(getattr(features, f"logit_{name}")[part], 8) for name in names
    }
    return {"logit_bars": np.minimum(bars, 255).astype(np.uint8), **moments}


def _relations(analysis: Analysis, shown: Shown, part: slice) -> dict[str, NDArray[Any]]:
    features = analysis.columns
    return {
        "token_ids": narrow(shown.token_ranks(features.token_ids[part, :SHOWN_TOKENS])),
        "token_shares": fraction16(features.token_shares[part, :SHOWN_TOKENS]),
        "token_lifts": rounded(features.token_lifts[part, :SHOWN_TOKENS], 11),
        "nearest_ids": narrow(features.nearest_ids[part].astype(np.int64) + 1),
        "nearest_cosines": signed16(features.nearest_cosines[part]),
        "cofiring_ids": narrow(features.cofiring_ids[part].astype(np.int64) + 1),
        "cofiring_phis": signed16(features.cofiring_phis[part]),
        "cofiring_counts": narrow(features.cofiring_counts[part]),
        "neuron_ids": narrow(features.neuron_ids[part].astype(np.int64) + 1),
        "neuron_correlations": signed16(features.neuron_correlations[part]),
        "followed_ids": narrow(features.followed_ids[part].astype(np.int64) + 1),
        "followed_phis": signed16(features.followed_phis[part]),
        "promoted_ids": narrow(shown.token_ranks(features.promoted_ids[part])),
        "promoted_values": rounded(features.promoted_values[part], 8),
        "suppressed_ids": narrow(shown.token_ranks(features.suppressed_ids[part])),
        "suppressed_values": rounded(features.suppressed_values[part], 8),
    }


def _examples(analysis: Analysis, shown: Shown, part: slice) -> dict[str, NDArray[Any]]:
    examples = analysis.examples
    bounds = np.searchsorted(examples.feature, np.arange(part.start, part.stop + 1))
    low, high = int(bounds[0]), int(bounds[-1])
    entries = slice(int(examples.offsets[low]), int(examples.offsets[high]))
    counts = np.diff(examples.offsets[low : high + 1])
    tops = np.repeat(analysis.columns.max[examples.feature[low:high]], counts)
    levels = examples.fired_value[entries] / np.where(tops > 0, tops, 1)
    places = examples.fired_position[entries]
    away = np.abs(places - np.repeat(examples.position[low:high], counts))
    is_text = isinstance(analysis.inputs, TextInputs)
    heat = np.where(is_text & (away > NEAR), _coarse(levels), _fine(levels))
    return {
        "example_counts": narrow(np.diff(bounds)),
        "example_kind": examples.kind[low:high],
        "example_context": narrow(shown.context_ranks(examples.context[low:high])),
        "example_position": narrow(np.maximum(examples.position[low:high], 0)),
        **_values(examples, slice(low, high), analysis.columns.max),
        "example_loss": rounded(examples.loss[low:high], 7),
        "fired_counts": narrow(counts),
        "fired_step": _steps(places, counts, examples.position[low:high]),
        "fired_level": np.where(away > 0, heat, 0).astype(np.uint8),
    }


def _values(examples: Examples, some: slice, tops: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return what examples are worth: in each group of a kind they descend, so steps are small."""
    feature, kind, value = examples.feature[some], examples.kind[some], examples.value[some]
    top = np.where(tops[feature] > 0, tops[feature], 1).astype(np.float64)
    halvings = np.rint(HALVING * np.log2(top / value)).astype(np.int64)
    steps = np.diff(halvings, prepend=0)
    begins = np.diff(feature * 8 + kind, prepend=-1) != 0
    steps[begins] = halvings[begins]
    is_down = steps.min(initial=0) >= 0
    return {
        "example_steps": narrow(steps) if is_down else steps.astype(np.int32),
    }


def _halves8(shares: NDArray[Any]) -> NDArray[np.uint8]:
    """Return shares from 0 to 1 in half per cents, 255 where there is none."""
    known = np.isfinite(shares)
    return np.where(known, np.rint(np.where(known, shares, 0) * 200), 255).astype(np.uint8)


def _fine(levels: NDArray[Any]) -> NDArray[np.uint8]:
    return np.maximum(np.rint(np.clip(levels, 0, 1) * 85) * 3, 1).astype(np.uint8)


def _coarse(levels: NDArray[Any]) -> NDArray[np.uint8]:
    return np.maximum(np.rint(np.clip(levels, 0, 1) * 15) * 17, 4).astype(np.uint8)


def _steps(places: NDArray[Any], counts: NDArray[np.int64], marked: NDArray[Any]) -> NDArray[Any]:
    """Return each example's places, which ascend, as differences; first how far before `marked`."""
    steps = np.diff(places.astype(np.int64), prepend=0)
    some = counts > 0
    starts = (np.cumsum(counts) - counts)[some]
    steps[starts] = marked[some].astype(np.int64) - places[starts]
    return narrow(steps) if steps.min(initial=0) >= 0 else steps.astype(np.int32)


def _places16(values: NDArray[Any]) -> NDArray[np.uint16]:
    known = np.isfinite(values)
    if not known.any():
        return np.full(values.shape, 65535, dtype=np.uint16)
    low, high = float(values[known].min()), float(values[known].max())
    scaled = (np.where(known, values, low) - low) / max(high - low, 1e-12)
    return np.where(known, np.rint(scaled * 65534), 65535).astype(np.uint16)
