"""An analysis as Neuronpedia takes it: `batch-N.json` of 128 features each, as SAEDashboard writes.

What an analysis does not hold stays empty rather than invented: the cosines beside correlations.
Correlations of features are phi, those of whether they fire.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis import Analysis, TextInputs
from probe_sae.analysis.arrays import FIFTHS, TOP
from probe_sae.errors import SettingsError
from probe_sae.outputs import whole_folder

BATCH = 128
"""Features of a file."""
AROUND = 64
"""Tokens shown on either side of a firing."""
ALIGNED = 3
"""Dimensions that a direction points along most."""


def write_neuronpedia(analysis: Analysis, out: str | Path, *, force: bool = False) -> int:
    """Write an analysis of texts as files for Neuronpedia; return how many.

    Args:
        analysis: of a text dataset.
        out: the folder to write.
        force: replace a finished `out`.

    Raises:
        SettingsError: it is of images, for which Neuronpedia has no form.
        OutputExists: `out` is there already.
    """
    inputs, info = analysis.inputs, analysis.info
    if not isinstance(inputs, TextInputs):
        raise SettingsError("Neuronpedia's files are of texts; this analysis is of images.")
    site = str(info.get("site", ""))
    layer = re.search(r"\d+", site)
    head = {
        "model_id": _name(info.get("host")),
        "layer": int(layer.group()) if layer else 0,
        "sae_set": site,
        "sae_id_suffix": None,
    }
    begins = range(0, analysis.count, BATCH)
    with whole_folder(out, force=force, marks=("probe_sae.json",)) as folder:
        for number, begin in enumerate(begins):
            features = range(begin, min(begin + BATCH, analysis.count))
            batch = head | {"features": [_feature(analysis, inputs, one) for one in features]}
            text = json.dumps(batch, ensure_ascii=True, allow_nan=False)
            (folder / f"batch-{number}.json").write_text(text, "ascii")
        note = {"format": "probe_sae.neuronpedia", "features": analysis.count, "site": site}
        (folder / "probe_sae.json").write_text(json.dumps(note), "ascii")
    return len(begins)


def _feature(analysis: Analysis, inputs: TextInputs, feature: int) -> dict[str, Any]:
    columns, lengths = analysis.columns, np.diff(inputs.offsets)
    bins = columns.histogram.shape[1]
    edges = np.arange(bins) + 0.5
    neurons, partners = columns.neuron_ids[feature], columns.cofiring_ids[feature]
    return {
        "feature_index": feature,
        **_alignment(analysis, feature),
        "correlated_neurons_indices": _whole(neurons[neurons >= 0]),
        "correlated_neurons_pearson": _rounded(columns.neuron_correlations[feature][neurons >= 0]),
        "correlated_neurons_l1": [],
        "correlated_features_indices": _whole(partners[partners >= 0]),
        "correlated_features_pearson": _rounded(columns.cofiring_phis[feature][partners >= 0]),
        "correlated_features_l1": [],
        "neg_str": [inputs.piece(int(token)) for token in columns.suppressed_ids[feature]],
        "neg_values": _rounded(columns.suppressed_values[feature]),
        "pos_str": [inputs.piece(int(token)) for token in columns.promoted_ids[feature]],
        "pos_values": _rounded(columns.promoted_values[feature]),
        "frac_nonzero": float(columns.density[feature]),
        "freq_hist_data_bar_values": _rounded(edges * columns.histogram_top[feature] / bins),
        "freq_hist_data_bar_heights": _whole(columns.histogram[feature]),
        **_logits(analysis, feature),
        "n_prompts_total": len(lengths),
        "n_tokens_in_prompt": int(lengths.max(initial=0)),
        "dataset": _name(analysis.info.get("dataset")),
        "decoder_weights_dist": [],
        "vector": [],
        "activations": _activations(analysis, inputs, feature),
    }


def _logits(analysis: Analysis, feature: int) -> dict[str, Any]:
    """Return the histogram of the direction's effects on all logits."""
    columns = analysis.columns
    heights, (low, high) = columns.logit_histogram[feature], columns.logit_range[feature]
    middles = low + (np.arange(len(heights)) + 0.5) * (high - low) / max(1, len(heights))
    return {
        "logits_hist_data_bar_heights": _whole(heights),
        "logits_hist_data_bar_values": [float(f"{middle:.5g}") for middle in middles],
    }


def _alignment(analysis: Analysis, feature: int) -> dict[str, Any]:
    """Return the dimensions that a decoder direction, of length 1, points along most."""
    if analysis.directions is None:
        return {f"neuron_alignment_{name}": [] for name in ("indices", "values", "l1")}
    direction = analysis.directions[feature].astype(np.float64)
    largest = np.argsort(-np.abs(direction), kind="stable")[:ALIGNED]
    share = np.abs(direction) / max(1e-12, float(np.abs(direction).sum()))
    return {
        "neuron_alignment_indices": _whole(largest),
        "neuron_alignment_values": _rounded(direction[largest]),
        "neuron_alignment_l1": _rounded(share[largest]),
    }


def _activations(analysis: Analysis, inputs: TextInputs, feature: int) -> list[dict[str, Any]]:
    """Return the examples with the tokens around: the strongest, then those of each fifth."""
    examples, own = analysis.examples, analysis.examples.of(feature)
    found: list[dict[str, Any]] = []
    for kind in (TOP, *reversed(FIFTHS)):
        ones = np.arange(own.start, own.stop)[examples.kind[own] == kind]
        values = examples.value[ones]
        low, high, share = -1.0, float(values.max(initial=0)), -1.0
        if kind != TOP:
            low, share = float(values.min(initial=high)), 0.2
        for one in ones:
            span = {"bin_min": low, "bin_max": high, "bin_contains": share}
            found.append(span | _example(analysis, inputs, int(one)))
    return found


def _example(analysis: Analysis, inputs: TextInputs, one: int) -> dict[str, Any]:
    examples = analysis.examples
    context, place = int(examples.context[one]), int(examples.position[one])
    begin, end = (int(edge) for edge in inputs.offsets[context : context + 2])
    first, last = max(0, place - AROUND), min(end - begin, place + AROUND + 1)
    values = np.zeros(end - begin)
    entries = slice(int(examples.offsets[one]), int(examples.offsets[one + 1]))
    values[examples.fired_position[entries]] = examples.fired_value[entries]
    return {
        "tokens": [inputs.piece(int(t)) for t in inputs.tokens[begin + first : begin + last]],
        "values": _rounded(values[first:last]),
        "qualifying_token_index": place - first,
    }


def _name(described: Any) -> str:
    """Return the name of a host or dataset, described by a table or by its name alone."""
    return str(described.get("name", "") if isinstance(described, dict) else described or "")


def _whole(column: NDArray[Any]) -> list[int]:
    return [int(value) for value in column]


def _rounded(column: NDArray[Any]) -> list[float]:
    """Return numbers as SAEDashboard rounds them; what is none is 0."""
    return [round(float(value), 3) for value in np.nan_to_num(column)]
