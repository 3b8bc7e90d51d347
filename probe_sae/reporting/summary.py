"""The numbers that the pages show about a dictionary as a whole; also `report.json`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from probe_sae.analysis.arrays import TOP
from probe_sae.analysis.result import Analysis
from probe_sae.reporting.encoding import plain

FORMAT = "probe_sae.report"
VERSION = 1

DEFINITIONS = {
    "alive": "Features that fire on at least one analysed row.",
    "dead": "Features that fire on no analysed row.",
    "dead_fraction": "Share of the features that fire on no evaluated row.",
    "dense_fraction": "Share of the features that fire on over 10 % of the evaluated rows.",
    "density": "Share of the analysed rows on which the feature fires.",
    "cohesion": "Mean phi coefficient of all pairs of a module's members.",
    "separation": "Share of the weight of its members' strong pairs that stays in the module.",
    "stability": "How much of the module is found again with other seeds: mean largest Jaccard "
    "overlap.",
    "balanced_accuracy": "Mean of sensitivity and specificity on contexts that the label was not "
    "made from; 0.5 is chance.",
    "sensitivity": "Share of held-out firings where the label holds.",
    "specificity": "Share of random held-out rows without a firing where it does not.",
    "precision": "Share of firings among rows where the label holds, at the feature's density.",
    "hard_accuracy": "Balanced accuracy against rows that are like firings: the same token, or "
    "the same one before.",
    "neuron": "Dimension of the site whose value goes with the feature's activation, by Pearson "
    "correlation.",
    "firings": "Analysed rows on which the feature fires.",
    "fraction_unexplained": "Share of the activations' variance that the reconstruction misses: "
    "0 is perfect, 1 is no better than the mean.",
    "kurtosis": "Fourth standardised moment of the firings; 3 for a normal law.",
    "l0": "Mean number of features that fire on a row.",
    "lift": "How much commoner a token is among the feature's firings than among all rows.",
    "loss_change": "What the host's loss of the input, summed over the tokens that it predicts, "
    "gains when this firing is taken out: above 0 where it helps.",
    "loss.mean_ablated": "The host's loss with the site's activations replaced by their mean.",
    "loss.original": "The host's loss, untouched.",
    "loss.spliced": "The host's loss with the site's activations replaced by reconstructions.",
    "loss.zero_ablated": "The host's loss with the site's activations replaced by zeros.",
    "loss_recovered": "(mean-ablated - spliced) / (mean-ablated - original) loss of the host: "
    "1 when splicing the reconstruction in costs nothing, 0 when it is as bad as the mean.",
    "logit_kurtosis": "Fourth standardised moment of the effects on all logits: 3 for a normal "
    "law, more where a few tokens stand out.",
    "logit_skew": "Third standardised moment of the effects on all logits: above 0 where a few "
    "tokens are promoted much, below 0 where a few are suppressed much.",
    "logit_std": "Standard deviation of the effects on all logits, for one unit of activation.",
    "max": "Largest activation over the analysed rows.",
    "mean": "Mean of the firings, zeros left out.",
    "mean_activation": "Mean over all analysed rows, zeros counted.",
    "phi": "Correlation of two features' firings, as yes or no on each row.",
    "rows": "Activation vectors that the analysis saw.",
    "rows_evaluated": "Held-out activation vectors that the metrics were computed on.",
    "skew": "Third standardised moment of the firings; 0 when symmetric.",
    "std": "Standard deviation of the firings.",
}

_CHECKS: list[tuple[str, str, float, bool, str]] = [
    ("dead_fraction", "Few dead features", 0.10, True,
     "Dead features are capacity that was paid for and learned nothing."),
    ("dense_fraction", "Few dense features", 0.05, True,
     "Features that fire on over 10 % of rows are seldom about one thing."),
    ("fraction_unexplained", "Reconstruction explains the variance", 0.30, True,
     "What the dictionary does not reconstruct, its features cannot explain."),
    ("loss_recovered", "The host still works on reconstructions", 0.90, False,
     "A low value means that what matters to the host is in the part that was missed."),
]  # fmt: skip
"""Metric, claim, threshold, whether the value must lie below it, why it matters."""


def summarise(analysis: Analysis) -> dict[str, Any]:
    """Return what `report.json` holds: facts, metrics, checks, density histogram, modules."""
    info = analysis.info
    features = analysis.columns
    dead = int(np.sum(features.firings == 0))
    metrics = dict(info.get("metrics") or {})
    measured = "held-out rows" if metrics else "analysed rows"
    if not metrics:
        metrics = {
            "dead_fraction": dead / max(analysis.count, 1),
            "dense_fraction": float(np.mean(features.density > 0.1)) if analysis.count else 0.0,
        }
    names = ("kind", "host", "site", "dataset", "split", "store", "sae", "versions")
    top = analysis.examples.kind == TOP
    return plain({
        "format": FORMAT,
        "version": VERSION,
        **{name: _public(info.get(name)) for name in names},
        "rows": info.get("rows"),
        "contexts": info.get("contexts"),
        "features": analysis.count,
        "alive": analysis.count - dead,
        "dead": dead,
        "examples": {"top": int(np.sum(top)), "random": int(np.sum(~top))},
        "metrics": metrics,
        "measured_on": measured,
        "definitions": {**DEFINITIONS, **dict(info.get("definitions") or {})},
        "checks": check(metrics),
        "density_histogram": density_histogram(analysis),
        "modules": modules(analysis),
        "structure": dict(info.get("structure") or {}),
        "parts": list(info.get("parts") or []),
        "places": list(info.get("places") or []),
        "neurons": dict(info.get("neurons") or {}),
        "labels": labelled(analysis),
        "start": good_starts(analysis),
        "training": list(info.get("training") or []),
    })  # fmt: skip


def _public(described: Any) -> Any:
    """Return a description whose name tells no folders of the machine that it was made on."""
    if not isinstance(described, Mapping) or not isinstance(described.get("name"), str):
        return described
    parts = [Path(part) for part in described["name"].split("@")]  # NAME@WEIGHTS
    short = "@".join(part.name if part.is_absolute() else str(part) for part in parts)
    return {**described, "name": short} if any(p.is_absolute() for p in parts) else described


def check(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the health checks: each a claim, the value, the threshold and whether it holds.

    The thresholds are rules of thumb. `holds` is None where the metric was not measured.
    """
    found: list[dict[str, Any]] = []
    for metric, claim, threshold, is_ceiling, why in _CHECKS:
        value = metrics.get(metric)
        known = value if isinstance(value, int | float) and np.isfinite(value) else None
        holds = None if known is None else known <= threshold if is_ceiling else known >= threshold
        found.append({
            "metric": metric, "claim": claim, "value": known,
            "threshold": threshold, "is_ceiling": is_ceiling, "holds": holds, "why": why,
        })  # fmt: skip
    return found


def density_histogram(analysis: Analysis) -> dict[str, list[float]]:
    """Return `edges` (log10 of density) and `counts` of features that fire, four bins a decade."""
    density = analysis.columns.density
    logs = np.log10(density[density > 0])
    low = np.floor(logs.min() * 4) / 4 if logs.size else -1.0
    low = min(float(low), -0.25)
    edges = np.linspace(low, 0, round(-low * 4) + 1)
    counts, _ = np.histogram(logs, edges)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def modules(analysis: Analysis) -> list[dict[str, Any]]:
    """Return each module's number, size, figures of trust and members, densest member first."""
    features = analysis.columns
    known = {module["module"]: module for module in analysis.info.get("modules") or []}
    found: list[dict[str, Any]] = []
    for module in np.unique(features.module[features.module >= 0]).tolist():
        members = np.flatnonzero(features.module == module)
        order = np.argsort(-features.density[members], kind="stable")
        figures = known.get(module, {})
        found.append({
            "module": module,
            "size": len(members),
            "mean_density": float(features.density[members].mean()),
            "firings": int(features.firings[members].sum()),
            **{name: figures.get(name) for name in ("cohesion", "separation", "stability")},
            "features": members[order].tolist(),
        })  # fmt: skip
    return found


def labelled(analysis: Analysis) -> dict[str, Any]:
    """Return how many features have a label that could be scored, and how many a clear one."""
    accuracy = analysis.labels.balanced_accuracy
    return {
        "scored": int(np.isfinite(accuracy).sum()),
        "over": int((accuracy > 0.8).sum()),
        "clear": int(analysis.labels.is_clear.sum()),
    }


def good_starts(analysis: Analysis, count: int = 6) -> list[int]:
    """Return features to look at first: from rare to dense, the clearest of each part.

    That is the feature with the largest share of its commonest token times log2 of the token's
    lift, among those that fire at least ten times; of images without classes, the one whose label
    fits best.
    """
    features = analysis.columns
    usable = np.flatnonzero((features.firings >= 10) & np.isfinite(features.max))
    if usable.size == 0:
        return []
    if features.token_shares.shape[1] and features.token_shares[usable, 0].any():
        share = np.nan_to_num(features.token_shares[usable, 0])
        lift = np.maximum(np.nan_to_num(features.token_lifts[usable, 0], posinf=1), 1)
        score = share * np.log2(lift)
    else:
        score = np.nan_to_num(analysis.labels.balanced_accuracy[usable])
    order = np.argsort(features.density[usable], kind="stable")
    parts = [part for part in np.array_split(order, count) if part.size]
    return [int(usable[part[np.argmax(score[part])]]) for part in parts]
