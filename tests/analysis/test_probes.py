"""Probes find what was planted, nothing where nothing is, and never peek at the other side."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.stats import chisquare
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from probe_sae.analysis.code_matrix import code_matrix, pooled_codes, pooled_rows
from probe_sae.analysis.probe_examples import Question, drawn, examples_of_store
from probe_sae.analysis.probe_fits import differences, scored, split_by_group
from probe_sae.analysis.probes import probe
from probe_sae.errors import SettingsError, ShapeError
from probe_sae.host import load_host
from probe_sae.recording import CaptureSettings, capture, load_dataset
from probe_sae.sae import TopK, make_sae
from probe_sae.store import (
    ContextInput,
    RecordedRows,
    SiteInfo,
    Store,
    StoreWriter,
    open_store,
)

from .planted import WIDTH, planted

FEATURE = 5


def make_store(folder: Path, rows: torch.Tensor, length: int = 10) -> Store:
    """Return a store of contexts of some length, two to a document."""
    folder.mkdir()
    writer = StoreWriter(folder, [SiteInfo("site", rows.shape[1], "float32")], "text")
    for index, part in enumerate(rows.split(length)):
        context = np.full(len(part), index, np.uint32)
        columns: dict[str, Any] = {"context": context, "doc": context // 2}
        columns["pos"] = np.arange(len(part), dtype=np.uint32)
        columns["token"] = np.full(len(part), index % 3, np.int32)
        inputs = ContextInput(index, index // 2, "", 0, np.zeros(len(part), np.int32))
        writer.append(RecordedRows({"site": part}, columns, [inputs]))
    (folder / "vocabulary.json").write_text(json.dumps(["a", "b", "c"]))
    writer.finish({"host": {}, "dataset": {}, "special": []})
    return open_store(folder)


def test_one_feature_tells_its_own_label_and_one_neuron_does_not() -> None:
    world = planted()
    label = world.codes[:, FEATURE] > 0

    found = probe(world.sae, world.rows, label, k=(1, 4), repeats=3)

    assert found.interval("features", 1).mean == 1
    assert found.interval("features", 1, "auc").mean == 1
    assert found.interval("neurons", 1).mean < 0.9
    assert found.interval("neurons", None).mean > 0.95
    assert found.interval("random features", 1).mean < 0.9
    assert found.margin("neurons", 1).low > 0.1
    first = found.features().query("k == 1").iloc[0]
    assert (first["class"], first["feature"], first["chosen"]) == ("True", FEATURE, 1)
    assert first["weight"] > 0
    codes = world.codes[:, FEATURE]
    assert first["difference"] == pytest.approx(float(codes[label].mean()), rel=1e-5)


def test_a_feature_that_is_silent_tells_as_much_as_one_that_fires() -> None:
    world = planted(400)
    silent = world.codes[:, FEATURE] == 0

    found = probe(world.sae, world.rows, silent, k=(1,), repeats=2)

    assert found.interval("features", 1).mean == 1
    assert found.features()["weight"][0] < 0


def test_of_several_classes_each_finds_its_feature() -> None:
    world = planted()
    fires = world.codes[:, :3] > 0
    label = [str(int(row.float().argmax())) if row.sum() == 1 else None for row in fires]

    found = probe(world.sae, world.rows, label, k=(1, 3), repeats=2)

    assert found.classes == ("0", "1", "2")
    assert found.examples == sum(name is not None for name in label)
    chosen = found.features().query("k == 1").groupby("class")["feature"].first()
    assert chosen.to_dict() == {"0": 0, "1": 1, "2": 2}
    table = found.table(by_class=True)
    assert table.query("inputs == 'features' and k == 1")["balanced_accuracy"].min() == 1


def test_labels_that_mean_nothing_are_told_at_chance() -> None:
    world = planted(600)
    label = np.random.default_rng(0).permutation(np.arange(600) % 2)

    table = probe(world.sae, world.rows, label, k=(1, 5), repeats=6).table()

    assert (table["balanced_accuracy"] - 0.5).abs().max() < 0.07
    assert (table["auc"] - 0.5).abs().max() < 0.1
    assert (table["balanced_accuracy_low"] < 0.5).mean() > 0.8


def test_features_are_chosen_without_a_look_at_the_test_part() -> None:
    """Of 2,000 inputs without meaning, the best on all 80 examples would tell the test part."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(80, 16, generator=generator)
    sae = make_sae(TopK(features=2000, k=400), 16, generator).requires_grad_(False)
    label = torch.arange(80) % 2 == 0

    found = probe(sae, x, label, k=(5,), repeats=12, test=0.4)

    assert abs(found.interval("features", 5).mean - 0.5) < 0.1


def test_what_is_known_of_a_group_does_not_help_with_other_groups() -> None:
    generator = torch.Generator().manual_seed(1)
    sae = planted(10).sae
    group = torch.arange(400) // 10
    own = torch.randn(40, WIDTH, generator=generator)[group]
    rows = own + 0.01 * torch.randn(400, WIDTH, generator=generator)
    label = torch.arange(40)[group] % 2

    leaked = probe(sae, rows, label, k=(2,), repeats=4).interval("neurons", None).mean
    held = probe(sae, rows, label, k=(2,), repeats=4, groups=group).interval("neurons", None)

    assert leaked > 0.85
    assert held.mean < 0.7


def test_no_group_is_on_both_sides_and_both_sides_have_every_class() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        group = generator.integers(0, 12, 200)
        label = (group % 3).astype(np.int64)
        split = split_by_group(group, label, ("a", "b", "c"), 0.3, generator)

        assert not set(group[split.train]) & set(group[split.test])
        assert len(split.train) + len(split.test) == 200
        assert set(label[split.train]) == set(label[split.test]) == {0, 1, 2}
        assert 0.15 < len(split.test) / 200 < 0.6


def test_scores_equal_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    truth = generator.random(300) < 0.3
    margin = np.round(generator.standard_normal(300) + truth, 1)  # with ties

    says = margin > 0
    expected = [
        balanced_accuracy_score(truth, says),
        roc_auc_score(truth, margin),
        f1_score(truth, says),
    ]
    assert scored(margin, truth) == pytest.approx(expected)


def test_differences_and_pools_equal_brute_force() -> None:
    generator = np.random.default_rng(0)
    dense = generator.random((60, 7)) * (generator.random((60, 7)) < 0.3)
    owner = np.sort(generator.integers(0, 9, 60))
    owner[owner == 4] = 3  # nobody owns number 4
    chosen = generator.random(60) < 0.5
    brute: dict[str, Any] = {"mean": np.zeros((9, 7)), "max": np.zeros((9, 7))}
    for i in set(owner.tolist()):
        brute["mean"][i], brute["max"][i] = dense[owner == i].mean(0), dense[owner == i].max(0)

    expected = dense[chosen].mean(0) - dense[~chosen].mean(0)
    assert differences(csr_matrix(dense), chosen) == pytest.approx(expected)
    assert differences(dense, chosen) == pytest.approx(expected)
    for how, wanted in brute.items():
        assert pooled_codes(csr_matrix(dense), owner, 9, how).toarray() == pytest.approx(wanted)
        rows = pooled_rows(torch.from_numpy(dense), owner, 9, how)
        assert rows.numpy() == pytest.approx(wanted)


def test_codes_are_those_of_the_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    world = planted(100, noise=0.1)
    monkeypatch.setattr("probe_sae.analysis.code_matrix.BLOCK_ROWS", 33)

    codes = code_matrix(world.sae, world.rows)

    assert codes.nnz < 100 * WIDTH / 3
    assert codes.toarray() == pytest.approx(world.sae.encode(world.rows).numpy())


def test_a_store_gives_the_same_as_its_rows(tmp_path: Path) -> None:
    world = planted(600)
    store = make_store(tmp_path / "store", world.rows)
    label = world.codes[:, FEATURE] > 0

    of_store = probe(world.sae, store, label, k=(1, 2), repeats=2)
    of_rows = probe(
        world.sae, world.rows, label, k=(1, 2), repeats=2, groups=store.column("doc").tolist()
    )

    assert of_store.scores == pytest.approx(of_rows.scores)
    assert of_store.table().equals(of_rows.table())


def test_contexts_of_a_store_are_pooled(tmp_path: Path) -> None:
    world = planted(600)
    store = make_store(tmp_path / "store", world.rows)
    count = (world.codes[:, FEATURE] > 0).reshape(60, 10).sum(1)

    found = probe(world.sae, store, count > 1, k=(1,), pool="mean", groups="context", repeats=3)
    largest = probe(world.sae, store, count > 0, k=(1,), pool="max", repeats=3)

    assert found.examples == 60
    assert found.interval("features", 1).mean > 0.9
    assert largest.interval("features", 1).mean == 1


def test_examples_of_a_store_know_their_label_and_their_document(tmp_path: Path) -> None:
    world = planted(600, noise=0.01)
    store = make_store(tmp_path / "store", world.rows)
    of_context = np.arange(60) % 4
    question = Question(of_context, None, None, 10_000, 0)

    rows = examples_of_store(world.sae, store, question)
    pooled = examples_of_store(world.sae, store, replace(question, pool="mean"))
    some = examples_of_store(world.sae, store, replace(question, most=100, groups="context"))

    context = np.repeat(np.arange(60), 10)
    assert (rows.label == of_context[context]).all()
    assert (rows.group == context // 2).all()
    assert (pooled.label == of_context).all()
    assert (pooled.group == np.arange(60) // 2).all()
    assert (some.label == of_context[some.group]).all()
    places = [int((world.rows == row).all(1).nonzero()) for row in some.rows]
    assert (context[places] == some.group).all()


def test_at_most_so_many_rows_are_read(tmp_path: Path) -> None:
    world = planted(600)
    store = make_store(tmp_path / "store", world.rows)

    found = probe(world.sae, store, "token", k=(1,), repeats=2, most=200)

    assert found.examples == 200
    assert found.classes == ("0", "1", "2")


def test_a_sample_is_drawn_evenly_among_what_is_known() -> None:
    known = np.arange(1000) % 3 == 0
    counts = np.zeros(1000, np.int64)
    for seed in range(400):
        taken = drawn(known, Question(None, None, None, 20, seed))
        assert len(set(taken.tolist())) == 20
        counts[taken] += 1

    assert (counts[~known] == 0).all()
    assert chisquare(counts[known]).pvalue > 0.001
    assert len(drawn(known, Question(None, None, None, 300, 0))) == 300
    assert len(drawn(known, Question(None, None, None, 999, 0))) == 334


def test_the_classes_of_images_are_told(tmp_path: Path) -> None:
    host = load_host("bundled:digits-vit", device="cpu")
    recorded = CaptureSettings(rows=5000)
    digits = load_dataset("digits")
    store = capture(host, digits, "blocks.3.resid_post", tmp_path / "store", recorded)
    sae = make_sae(TopK(features=64, k=8), 64).requires_grad_(False)

    found = probe(sae, store, "class", k=(1,), pool="mean", repeats=3)

    assert found.classes == tuple("0123456789")
    assert found.interval("neurons", None).mean > 0.9
    assert found.interval("neurons", 1).mean < 0.9


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"labels": [0, 1]}, ShapeError, r"labels have shape \(2,\); expected \[40\]"),
        ({"labels": [1] * 40}, SettingsError, "1 different values"),
        ({"labels": [i % 2 for i in range(40)], "most": 1}, SettingsError, "at least 2"),
        ({"labels": [0] * 39 + [1]}, SettingsError, "class 1 is in 1 group only"),
        ({"k": (0,)}, SettingsError, "whole numbers from 1"),
        ({"repeats": 1}, SettingsError, "at least 2 splits"),
        ({"test": 1.0}, SettingsError, "between 0 and 1"),
        ({"pool": "mean"}, SettingsError, "pooled rows need groups"),
        ({"pool": "sum"}, SettingsError, "mean or max"),
        ({"pool": "max", "groups": [0] * 20 + [1] * 20}, SettingsError, "different labels"),
        ({"rows": torch.zeros(40)}, ShapeError, r"expected \[rows, width\]"),
        ({"rows": torch.zeros(40, 5)}, ShapeError, "this dictionary takes"),
    ],
)
def test_a_mistake_is_told(given: dict[str, Any], error: type[Exception], message: str) -> None:
    world = planted(40)
    rows, labels = given.pop("rows", world.rows), given.pop("labels", np.arange(40) % 2)

    settings: dict[str, Any] = {"k": (1,), "repeats": 2, **given}

    with pytest.raises(error, match=message):
        probe(world.sae, rows, labels, **settings)


def test_labels_must_fit_a_store(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", planted(60).rows)
    sae = planted(10).sae

    with pytest.raises(ShapeError, match="60 rows and 6 contexts"):
        probe(sae, store, [0, 1, 0])
    with pytest.raises(SettingsError, match="knows no classes"):
        probe(sae, store, "class")
    with pytest.raises(SettingsError, match="one label for each of the 6"):
        probe(sae, store, np.arange(60) % 2, pool="mean")
    with pytest.raises(SettingsError, match="document, context or an array"):
        probe(sae, store, np.arange(60) % 2, groups="page")
