"""The page that compares two dictionaries: what it needs of the other one, and the matching.

`data/compare.js` costs about 60 bytes a feature of either; `report.json` gets the numbers.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.counterparts import Counterparts, Side, counterparts
from probe_sae.analysis.result import Analysis
from probe_sae.reporting.encoding import narrow, pack, plain, signed16
from probe_sae.reporting.features import label_lines
from probe_sae.shown import clean

THRESHOLDS = (0.7, 0.9)
"""Cosines from which on two features are said to be the same."""
BINS = 40
"""Bars of the histograms of best cosines."""


def compared(a: Analysis, b: Analysis) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what `report.json` says of a comparison, and what `data/compare.js` adds to it.

    Exact: whose counterpart is whose, firings. Cosines are right to 2**-16.

    Raises:
        SettingsError, FormatError: the two cannot be compared.
    """
    found = counterparts(a, b)
    low = -1.0 if _lowest(found) < 0 else 0.0
    edges = np.linspace(low, 1, BINS + 1)
    summary = plain({
        "either_sign": found.either_sign,
        "thresholds": THRESHOLDS,
        "edges": edges,
        "a": _head(a, found.a, edges),
        "b": _head(b, found.b, edges),
        "same_rows": _rows(a) == _rows(b),
    })  # fmt: skip
    data = pack({
        **_side("a", found.a),
        **_side("b", found.b),
        "b_firings": narrow(b.columns.firings),
        "b_tokens": np.frombuffer(b"\n".join(label_lines(b)), dtype=np.uint8),
        "a_words": _words(a),
        "b_words": _words(b),
    })  # fmt: skip
    return summary, data


def _head(analysis: Analysis, side: Side, edges: NDArray[Any]) -> dict[str, Any]:
    """Return facts, metrics and how far the dictionary is found again in the other."""
    alive = analysis.columns.firings > 0
    paired = np.nan_to_num(side.pair_cosine[alive], nan=-1)
    best = np.nan_to_num(side.best_cosine[alive], nan=-1)
    some = max(int(alive.sum()), 1)
    info = analysis.info
    return {
        "sae": info.get("sae"),
        "split": info.get("split"),
        "rows": info.get("rows"),
        "features": analysis.count,
        "alive": int(alive.sum()),
        "metrics": dict(info.get("metrics") or {}),
        "matched": {f"{bound:g}": int((paired >= bound).sum()) for bound in THRESHOLDS},
        "found_again": {f"{bound:g}": float((best >= bound).sum() / some) for bound in THRESHOLDS},
        "found_again_count": {f"{bound:g}": int((best >= bound).sum()) for bound in THRESHOLDS},
        "median_best": float(np.median(best)) if alive.any() else None,
        "best_histogram": np.histogram(best, edges)[0],
    }


def _side(name: str, side: Side) -> dict[str, NDArray[Any]]:
    """Return one side's columns; ids are one more than they are, so that 0 is "none"."""
    return {
        f"{name}_pair": narrow(side.pair + 1),
        f"{name}_pair_cosine": signed16(side.pair_cosine),
        f"{name}_best": narrow(side.best + 1),
        f"{name}_best_cosine": signed16(side.best_cosine),
    }


def _words(analysis: Analysis) -> NDArray[np.uint8]:
    """Return each feature's label in words as text, a line a feature."""
    lines = [clean(text).replace("\n", " ") for text in analysis.labels.label]
    return np.frombuffer("\n".join(lines).encode(), dtype=np.uint8)


def _lowest(found: Counterparts) -> float:
    every = np.concatenate([found.a.best_cosine, found.b.best_cosine])
    return float(np.nanmin(every)) if np.isfinite(every).any() else 0.0


def _rows(analysis: Analysis) -> list[Any]:
    """Return what tells on which rows an analysis was made, and its metrics measured."""
    info = analysis.info
    dataset = info.get("dataset")
    if isinstance(dataset, Mapping):
        dataset = dataset.get("fingerprint") or dataset
    metrics = info.get("metrics") or {}
    return [dataset, info.get("store"), info.get("rows"), metrics.get("rows_evaluated")]
