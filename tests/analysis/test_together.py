"""Several dictionaries of sites recorded together; neurons that features go with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from probe_sae.analysis import Analysis, analyse, encode, load_analysis
from probe_sae.analysis import neurons as neurons_module
from probe_sae.analysis.neurons import neurons_of
from probe_sae.errors import SettingsError, SiteNotFound
from probe_sae.sae import SAE, TopK, make_sae
from probe_sae.store import ContextInput, RecordedRows, SiteInfo, Store, StoreWriter, open_store

EARLY, LATE = 8, 14
ROWS = 1200


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("together") / "store"
    folder.mkdir()
    generator = np.random.default_rng(0)
    early = generator.standard_normal((ROWS, EARLY)).astype(np.float32)
    late = (early @ generator.standard_normal((EARLY, LATE))).astype(np.float32)
    late += 0.1 * generator.standard_normal(late.shape).astype(np.float32)
    with StoreWriter(
        folder,
        [SiteInfo("early", EARLY, "float32"), SiteInfo("late", LATE, "float32")],
        "text",
    ) as writer:
        context = np.arange(ROWS, dtype=np.uint32) // 10
        columns: dict[str, Any] = {"doc": context, "context": context}
        columns["pos"] = np.arange(ROWS, dtype=np.uint32) % 10
        columns["token"] = (np.arange(ROWS) % 7).astype(np.int32)
        inputs = [
            ContextInput(i, i, "", 0, columns["token"][i * 10 : i * 10 + 10])
            for i in range(ROWS // 10)
        ]
        acts = {"early": torch.from_numpy(early), "late": torch.from_numpy(late)}
        writer.append(RecordedRows(acts, columns, inputs))
        (folder / "vocabulary.json").write_text('["a", "b", "c", "d", "e", "f", "g"]')
        writer.finish({"host": {}, "dataset": {}, "special": []})
    return open_store(folder)


def dictionary(site: str, width: int, features: int, seed: int) -> SAE:
    sae = make_sae(TopK(features=features, k=3), width, torch.Generator().manual_seed(seed))
    sae.provenance = {"sites": [site]}
    return sae.requires_grad_(False)


@pytest.fixture(scope="module")
def both() -> list[SAE]:
    return [dictionary("early", EARLY, 24, 1), dictionary("late", LATE, 40, 2)]


@pytest.fixture(scope="module")
def analysis(store: Store, both: list[SAE], tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    folder = tmp_path_factory.mktemp("together") / "analysis"
    analyse(both, store, folder, neurons=["late"], rows="all")
    return load_analysis(folder)


def codes_of(store: Store, both: list[SAE]) -> Any:
    parts = [
        sae.encode(store.read(site, 0, ROWS))
        for sae, site in zip(both, ("early", "late"), strict=True)
    ]
    return torch.cat(parts, 1).double().numpy()


def test_features_of_all_dictionaries_are_numbered_one_after_the_other(
    analysis: Analysis, store: Store, both: list[SAE]
) -> None:
    dense = codes_of(store, both)

    assert analysis.count == 64
    assert analysis.columns.part.tolist() == [0] * 24 + [1] * 40
    assert analysis.columns.firings.tolist() == (dense > 0).sum(0).tolist()
    assert [part["site"] for part in analysis.info["parts"]] == ["early", "late"]
    assert [part["first"] for part in analysis.info["parts"]] == [0, 24]


def test_partners_span_sites(analysis: Analysis, store: Store, both: list[SAE]) -> None:
    fires = (codes_of(store, both) > 0).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected: Any = np.nan_to_num(np.corrcoef(fires.T))
    np.fill_diagonal(expected, 0)
    expected = np.where(fires.T @ fires >= 2, expected, 0).clip(0)

    assert np.allclose(analysis.columns.cofiring_phis, np.sort(expected)[:, ::-1][:, :8], atol=1e-6)
    crosses = analysis.columns.cofiring_ids[:24]
    assert (crosses >= 24).any()


def test_a_feature_is_followed_to_the_next_site(
    analysis: Analysis, store: Store, both: list[SAE]
) -> None:
    fires = (codes_of(store, both) > 0).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        r: Any = np.nan_to_num(np.corrcoef(fires.T))[:24, 24:]
    best = np.where((fires.T @ fires)[:24, 24:] >= 2, r, 0).clip(0)

    assert np.allclose(
        analysis.columns.followed_phis[:24], np.sort(best)[:, ::-1][:, :4], atol=1e-6
    )
    assert (analysis.columns.followed_ids[24:] == -1).all()
    assert np.isnan(analysis.columns.followed_cosines).all()  # the sites differ in width


def test_nearest_directions_stay_within_a_dictionary(analysis: Analysis) -> None:
    ids = analysis.columns.nearest_ids

    assert (ids[:24] < 24).all()
    assert (ids[24:] >= 24).all()


def test_neurons_equal_brute_force(analysis: Analysis, store: Store, both: list[SAE]) -> None:
    dense, x = codes_of(store, both), store.read("late", 0, ROWS).double().numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.corrcoef(dense.T, x.T)[:64, 64:]

    for i in range(64):
        if dense[:, i].any():
            order = np.argsort(-np.abs(r[i]), kind="stable")[:8]
            assert analysis.columns.neuron_ids[i].tolist() == order.tolist()
            assert np.allclose(analysis.columns.neuron_correlations[i], r[i, order], atol=1e-6)
        else:
            assert (analysis.columns.neuron_ids[i] == -1).all()
    assert analysis.info["neurons"] == {"sites": ["late"], "rows": ROWS}


def test_a_large_common_part_takes_no_digits_of_correlations(
    store: Store, both: list[SAE], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neurons_module, "_STEP", 100)
    codes = encode(both, store, tmp_path / "codes")
    everyone = np.ones(store.contexts, np.bool_)
    plain = neurons_of(codes, store, ["late"], everyone)
    dense, x = codes_of(store, both), store.read("late", 0, ROWS).double().numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        r: Any = np.nan_to_num(np.corrcoef(dense.T, x.T)[:64, 64:])
    strongest = -np.sort(-np.abs(r), axis=1)[:, :8]
    assert np.allclose(np.abs(plain.correlations), strongest, atol=1e-6)
    real = type(store["late"]).__getitem__
    monkeypatch.setattr(
        type(store["late"]), "__getitem__", lambda rows, key: real(rows, key).double() + 1e6
    )
    moved = neurons_of(codes, store, ["late"], everyone)

    assert np.allclose(plain.correlations, moved.correlations, atol=1e-5)


def test_sampled_rows_hold_all_that_fires_on_them(
    analysis: Analysis, store: Store, both: list[SAE]
) -> None:
    dense, rows = codes_of(store, both), analysis.rows

    assert len(rows.context) == ROWS  # so few are all kept
    for i in range(0, ROWS, 37):
        at = int(rows.context[i]) * 10 + int(rows.position[i])
        mine = slice(*rows.offsets[i : i + 2])
        assert rows.feature[mine].tolist() == np.flatnonzero(dense[at]).tolist()
        assert np.allclose(rows.value[mine], dense[at][dense[at] != 0])
    assert rows.umap.shape == rows.pca.shape == (len(rows.mapped), 2)


def test_groups_of_directions_are_a_tree(store: Store, both: list[SAE], tmp_path: Path) -> None:
    analysis = analyse(both[1], store, tmp_path / "analysis", rows="all")
    alive = int((analysis.columns.firings > 0).sum())

    assert analysis.tree.shape == (alive - 1, 2)
    assert sorted(analysis.tree.ravel().tolist()) == list(range(2 * alive - 2))
    assert np.isfinite(analysis.columns.pca_x).sum() == alive
    assert (analysis.columns.group >= 0).sum() == alive


def test_dictionaries_of_other_sites_are_refused(
    store: Store, both: list[SAE], tmp_path: Path
) -> None:
    with pytest.raises(SiteNotFound, match="no site 'later'"):
        analyse(dictionary("later", LATE, 8, 0), store, tmp_path / "a")
    with pytest.raises(SiteNotFound, match="no site 'lat'"):
        analyse(both, store, tmp_path / "a", neurons=["lat"])
    with pytest.raises(SettingsError, match="no dictionary"):
        analyse([], store, tmp_path / "a")
    assert not (tmp_path / "a").exists()
