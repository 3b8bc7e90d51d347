"""Files for Neuronpedia say what the analysis says, in SAEDashboard's layout."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probe_sae.analysis import Analysis, TextInputs
from probe_sae.analysis.arrays import TOP
from probe_sae.errors import SettingsError
from probe_sae.reporting import neuronpedia, write_neuronpedia

FIELDS = {
    "feature_index", "neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1",
    "correlated_neurons_indices", "correlated_neurons_l1", "correlated_neurons_pearson",
    "correlated_features_indices", "correlated_features_l1", "correlated_features_pearson",
    "neg_str", "neg_values", "pos_str", "pos_values", "frac_nonzero", "freq_hist_data_bar_values",
    "freq_hist_data_bar_heights", "logits_hist_data_bar_heights", "logits_hist_data_bar_values",
    "n_prompts_total", "n_tokens_in_prompt", "dataset", "decoder_weights_dist", "activations",
    "vector",
}  # fmt: skip
"""Read in SAEDashboard 0.8.0."""


def written(analysis: Analysis, out: Path) -> list[dict[str, Any]]:
    count = write_neuronpedia(analysis, out)
    batches = [json.loads((out / f"batch-{i}.json").read_text()) for i in range(count)]
    assert all(set(batch) == {"model_id", "layer", "sae_set", "sae_id_suffix", "features"}
               for batch in batches)  # fmt: skip
    return [feature for batch in batches for feature in batch["features"]]


def test_every_feature_has_every_field_and_the_analysis_numbers(
    text: Analysis, tmp_path: Path
) -> None:
    analysis = text
    columns, inputs, examples = analysis.columns, analysis.inputs, analysis.examples
    assert isinstance(inputs, TextInputs)

    features = written(analysis, tmp_path / "out")

    assert [feature["feature_index"] for feature in features] == list(range(analysis.count))
    for i, feature in enumerate(features):
        assert set(feature) == FIELDS
        assert feature["frac_nonzero"] == columns.density[i]
        assert feature["freq_hist_data_bar_heights"] == columns.histogram[i].tolist()
        assert feature["pos_str"] == [inputs.piece(int(t)) for t in columns.promoted_ids[i]]
        heights = feature["logits_hist_data_bar_heights"]
        assert heights == columns.logit_histogram[i].tolist()
        middles = feature["logits_hist_data_bar_values"]
        assert len(middles) == len(heights) == 40
        low, high = columns.logit_range[i]
        assert low < middles[0] < middles[-1] < high
        own = examples.of(i)
        shown = feature["activations"]
        tops = int((examples.kind[own] == TOP).sum())
        assert [a["bin_min"] for a in shown].count(-1.0) == tops
        for activation in shown:
            place = activation["qualifying_token_index"]
            assert len(activation["tokens"]) == len(activation["values"])
            assert activation["values"][place] > 0
        strongest = [a["values"][a["qualifying_token_index"]] for a in shown[:tops]]
        assert strongest == sorted(strongest, reverse=True)
    assert any(feature["activations"] for feature in features)


def test_a_direction_is_aligned_with_its_largest_entries(text: Analysis, tmp_path: Path) -> None:
    directions = np.zeros((text.count, 6), np.float16)
    directions[:, 4], directions[:, 1] = -0.8, 0.6

    feature, *_ = written(replace(text, directions=directions), tmp_path / "out")

    assert feature["neuron_alignment_indices"][:2] == [4, 1]
    assert feature["neuron_alignment_values"][:2] == pytest.approx([-0.8, 0.6], abs=2e-3)
    assert feature["neuron_alignment_l1"][:2] == pytest.approx([0.571, 0.429], abs=2e-3)


def test_images_have_no_such_form(images: Analysis, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="of texts"):
        write_neuronpedia(images, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_the_firing_is_marked_where_a_long_context_is_cut(
    text: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neuronpedia, "AROUND", 3)
    inputs, examples = text.inputs, text.examples
    assert isinstance(inputs, TextInputs)

    features = written(text, tmp_path / "out")

    cut = 0
    for i, feature in enumerate(features):
        own = examples.of(i)
        tops = np.arange(own.start, own.stop)[examples.kind[own] == TOP]
        for one, shown in zip(tops, feature["activations"], strict=False):
            place = int(inputs.offsets[examples.context[one]] + examples.position[one])
            marked = shown["qualifying_token_index"]
            assert len(shown["tokens"]) <= 7
            assert shown["tokens"][marked] == inputs.piece(int(inputs.tokens[place]))
            assert shown["values"][marked] == pytest.approx(float(examples.value[one]), abs=1e-3)
            cut += int(examples.position[one] > 3)
    assert cut
