"""Every result equals brute force over the dense code matrix."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from probe_sae.analysis import (
    Analysis,
    TextInputs,
    analyse,
    codes,
    encode,
    encoding,
    load_analysis,
    save_analysis,
)
from probe_sae.analysis.arrays import FIFTHS, RANDOM, TOP, Features
from probe_sae.analysis.by_feature import ByFeature
from probe_sae.analysis.codes import join
from probe_sae.analysis.structure import quiet_umap as REAL_UMAP  # noqa: N812
from probe_sae.analysis.tally import BINS, Tally
from probe_sae.errors import FormatError, OutputExists, SettingsError, StoreError
from probe_sae.store import Store, layout, shuffle_store

from .small import FEATURES, VOCABULARY, dictionary, make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(layout, "SHARD_BYTES", 20_000)
        store = make_store(tmp_path_factory.mktemp("analysis") / "store")
    assert len(store.shards) > 2
    return store


@pytest.fixture(scope="module")
def dense(store: Store) -> NDArray[np.float64]:
    return dictionary().encode(store.read("site", 0, store.rows)).double().numpy()


@pytest.fixture(scope="module")
def analysis(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    folder = tmp_path_factory.mktemp("analysis") / "analysis"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(encoding, "BLOCK_ROWS", 10_000)
        return analyse(dictionary(), store, folder)


def test_statistics_equal_brute_force(analysis: Analysis, dense: NDArray[np.float64]) -> None:
    features = analysis.columns
    for i in range(FEATURES):
        fired = dense[:, i][dense[:, i] > 0]
        assert features.firings[i] == len(fired)
        assert features.density[i] == len(fired) / len(dense)
        assert features.mean_activation[i] == pytest.approx(dense[:, i].mean(), rel=1e-5)
        assert features.max[i] == pytest.approx(fired.max(initial=0), rel=1e-6)
        if len(fired) > 3:
            centred = (fired - fired.mean()) / fired.std()
            assert features.mean[i] == pytest.approx(fired.mean(), rel=1e-5)
            assert features.std[i] == pytest.approx(fired.std(), rel=1e-3)
            assert features.skew[i] == pytest.approx((centred**3).mean(), abs=1e-3)
            assert features.kurtosis[i] == pytest.approx((centred**4).mean(), abs=1e-2)


def test_a_dead_feature_has_no_statistics(analysis: Analysis) -> None:
    assert analysis.columns.firings[7] == 0
    assert np.isnan(analysis.columns.mean[7])
    assert np.isnan(analysis.columns.x[7])
    assert analysis.columns.module[7] == -1


def test_histograms_equal_brute_force(analysis: Analysis, dense: NDArray[np.float64]) -> None:
    for i in range(FEATURES):
        fired = dense[:, i][dense[:, i] > 0]
        top = float(analysis.columns.histogram_top[i])
        if len(fired):
            expected, _ = np.histogram(fired, BINS, (0, top))
            assert analysis.columns.histogram[i].tolist() == expected.tolist()
            assert top / 2 <= fired.max() < top


def test_quantiles_are_right_to_half_a_bin(analysis: Analysis, dense: NDArray[np.float64]) -> None:
    for i in range(FEATURES):
        fired = dense[:, i][dense[:, i] > 0]
        if len(fired) > 20:
            exact = np.quantile(fired, (0.1, 0.25, 0.5, 0.75, 0.9), method="inverted_cdf")
            width = analysis.columns.histogram_top[i] / (BINS * 4)
            assert np.abs(analysis.columns.quantiles[i] - exact).max() <= width


def test_top_examples_equal_brute_force(
    analysis: Analysis, dense: NDArray[np.float64], store: Store
) -> None:
    context = store.context_of_row
    examples = analysis.examples
    for i in range(FEATURES):
        best = np.array([dense[context == c, i].max() for c in range(store.contexts)])
        expected = np.sort(best[best > 0])[::-1][:20]
        part = examples.of(i)
        shown = examples.value[part][examples.kind[part] == TOP]
        assert np.allclose(shown, expected, rtol=1e-6)
        assert examples.rank[part][examples.kind[part] == TOP].tolist() == list(range(len(shown)))


def test_random_examples_are_firings_without_repeats(
    analysis: Analysis, dense: NDArray[np.float64]
) -> None:
    examples = analysis.examples
    for i in range(FEATURES):
        part = examples.of(i)
        drawn = examples.value[part][examples.kind[part] == RANDOM]
        fired = np.sort(dense[:, i][dense[:, i] > 0])
        assert len(drawn) == min(40, len(fired))
        assert np.isin(drawn, fired.astype(np.float32)).all()
        assert len(set(drawn.tolist())) == len(drawn)


def test_the_sample_is_uniform(store: Store, tmp_path: Path) -> None:
    """Over seeds, each firing of a feature that always fires is drawn about equally often."""
    made = encode(dictionary(), store, tmp_path / "codes")
    (firings,) = [ByFeature.of(block, FEATURES) for block in [join(list(made.blocks()))]]
    rows = firings.row[firings.starts[8] : firings.starts[9]]
    drawn = np.zeros(store.rows)
    for seed in range(300):
        tally = Tally(FEATURES, VOCABULARY, None, seed)
        tally.add(firings)
        drawn[tally.sample().row[8, :10]] += 1
    expected = 300 * 10 / len(rows)
    counts = drawn[rows]

    assert counts.sum() == 3000
    assert ((counts - expected) ** 2 / expected).sum() < 1.3 * len(rows)


def test_fifths_come_from_the_weakest_to_the_strongest(
    analysis: Analysis, dense: NDArray[np.float64]
) -> None:
    examples = analysis.examples
    part = examples.of(8)  # fires on every row
    fired = np.sort(dense[:, 8])
    places = [
        np.searchsorted(fired, examples.value[part][examples.kind[part] == kind]) / len(fired)
        for kind in FIFTHS
    ]

    assert [len(place) for place in places] == [8] * 5
    assert all(
        abs(float(np.mean(place)) - (0.1 + 0.2 * i)) < 0.12 for i, place in enumerate(places)
    )


def test_examples_carry_every_firing_of_their_context(
    analysis: Analysis, dense: NDArray[np.float64], store: Store
) -> None:
    examples, inputs = analysis.examples, analysis.inputs
    assert isinstance(inputs, TextInputs)
    pos: Any = store.column("pos")
    row_context: Any = store.context_of_row
    kept = [c for c in store.inputs() if c.index in set(row_context.tolist())]
    starts = {tuple(c.tokens.tolist()): c for c in kept if c.tokens is not None}
    for e in range(0, len(examples.feature), 17):
        number = examples.context[e]
        tokens = inputs.tokens[inputs.offsets[number] : inputs.offsets[number + 1]]
        context = starts[tuple(tokens.tolist())]
        mine = row_context == context.index
        column = dense[mine, examples.feature[e]]
        fired = np.flatnonzero(column)
        part = slice(examples.offsets[e], examples.offsets[e + 1])
        assert examples.fired_position[part].tolist() == (fired + 1).tolist()
        assert np.allclose(examples.fired_value[part], column[fired], rtol=1e-6)
        at = int(examples.position[e]) - 1
        assert column[at] == pytest.approx(examples.value[e], rel=1e-6)
        assert tokens[at + 1] == store.column("token")[mine][at]
        assert pos[mine][at] == context.start + at


def test_co_firing_equals_brute_force(analysis: Analysis, dense: NDArray[np.float64]) -> None:
    fires = (dense > 0).astype(np.float64)
    both = fires.T @ fires
    with np.errstate(invalid="ignore", divide="ignore"):
        phi: Any = np.corrcoef(fires.T)
    features = analysis.columns
    for i in range(FEATURES):
        for j, value, count in zip(
            features.cofiring_ids[i],
            features.cofiring_phis[i],
            features.cofiring_counts[i],
            strict=True,
        ):
            if j >= 0:
                assert count == both[i, j]
                assert value == pytest.approx(phi[i, j], abs=1e-5)
        candidates = phi[i] * (both[i] >= 2) * (np.arange(FEATURES) != i)
        expected = np.sort(np.nan_to_num(candidates))[::-1][:8]
        assert np.allclose(features.cofiring_phis[i], expected.clip(0), atol=1e-5)


def test_token_counts_equal_brute_force(
    analysis: Analysis, dense: NDArray[np.float64], store: Store
) -> None:
    token = store.column("token")
    for i in range(FEATURES):
        fired = token[dense[:, i] > 0]
        counts = np.bincount(fired, minlength=VOCABULARY)
        shares = np.sort(counts / max(1, len(fired)))[::-1][:16]
        assert np.allclose(analysis.columns.token_shares[i], shares, atol=1e-6)
        best = analysis.columns.token_ids[i, 0]
        if len(fired):
            assert counts[best] == counts.max()
            base = (token == best).mean()
            assert analysis.columns.token_lifts[i, 0] == pytest.approx(
                counts[best] / len(fired) / base, rel=1e-5
            )


def test_nearest_features_equal_brute_force(analysis: Analysis) -> None:
    directions = dictionary().directions()
    cosines = (directions @ directions.T).fill_diagonal_(-2).sort(descending=True)

    assert np.allclose(analysis.columns.nearest_cosines, cosines.values[:, :8], atol=1e-5)


@pytest.mark.parametrize("block", [1, 7, 64])
def test_the_size_of_blocks_changes_nothing(
    analysis: Analysis, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """Blocks smaller than a context as well."""
    monkeypatch.setattr(encoding, "BLOCK_ROWS", block)
    monkeypatch.setattr(codes, "BLOCK_FIRINGS", 5 * block)
    monkeypatch.setattr(encoding, "PART_FIRINGS", 11 * block)
    other = analyse(dictionary(), store, tmp_path / "other")

    assert np.allclose(analysis.examples.value, other.examples.value)
    assert np.array_equal(analysis.examples.position, other.examples.position)

    for field in fields(Features):
        one, two = getattr(analysis.columns, field.name), getattr(other.columns, field.name)
        assert np.allclose(one, two, equal_nan=True), field.name


def test_an_analysis_comes_back_as_written(analysis: Analysis, tmp_path: Path) -> None:
    save_analysis(analysis, tmp_path)
    loaded = load_analysis(tmp_path)

    for name in ("columns", "examples", "inputs"):
        one, two = getattr(analysis, name), getattr(loaded, name)
        for field in fields(one):
            a, b = getattr(one, field.name), getattr(two, field.name)
            if isinstance(a, np.ndarray):
                assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), field.name
            else:
                assert a == b, field.name
    assert loaded.features().shape[0] == FEATURES


def _change(change: Callable[[h5py.File], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        with h5py.File(folder / "analysis.h5", "r+") as file:
            change(file)

    return apply


def _delete(file: h5py.File) -> None:
    del file["features/density"]


def _far(file: h5py.File) -> None:
    data: Any = file["examples/context"]
    data[0] = 10**6


def _with(name: str, make: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Put another array in the place of one."""

    def change(file: h5py.File) -> None:
        data = np.asarray(file[name])
        del file[name]
        file.create_dataset(name, data=make(data))

    return _change(change)


def _newer(folder: Path) -> None:
    path = folder / "analysis.json"
    path.write_text(path.read_text().replace('"version": 2', '"version": 3'))


def _said(**words: Any) -> Callable[[Path], None]:
    """Let an analysis say something else of itself."""

    def change(folder: Path) -> None:
        path = folder / "analysis.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | words))

    return change


def _flipped(folder: Path) -> None:
    """Turn bits of packed numbers, whose checksum then tells."""
    path = folder / "analysis.h5"
    with h5py.File(path) as file:
        place = file["examples/value"].id.get_chunk_info(0).byte_offset  # pyright: ignore
    data = bytearray(path.read_bytes())
    data[place + 8] ^= 0xFF
    path.write_bytes(bytes(data))


def _cut(folder: Path) -> None:
    path = folder / "analysis.h5"
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_change(_delete), "lacks density"),
        (_change(_far), "out of range"),
        (_with("features/logit_histogram", lambda a: np.zeros(len(a), int)), "logit_histogram"),
        (_with("features/logit_histogram", lambda a: np.full((len(a), 3), -1)), "logit_histogram"),
        (_with("features/histogram", lambda a: a - 10**6), "histogram"),
        (_with("features/histogram", lambda a: a + 0.5), "histogram"),
        (_with("features/logit_range", lambda a: np.c_[a, a]), "logit_range"),
        (_with("features/logit_std", lambda a: a[:, None]), "logit_std"),
        (_with("features/promoted_values", lambda a: np.ones((len(a), 1))), "promoted_values"),
        (_with("features/quantiles", lambda a: a[:, :4]), "quantiles"),
        (_with("features/module", lambda a: a * 0.5), "module"),
        (_with("examples/loss", lambda a: a[:, None]), "loss"),
        (_with("examples/loss", lambda a: np.full_like(a, np.inf)), "loss"),
        (_with("examples/loss", lambda a: a[0]), "loss"),
        (_with("examples/value", lambda a: a * 0), "value"),
        (_with("examples/value", lambda a: a * np.nan), "value"),
        (_with("examples/feature", lambda a: a[::-1]), "not in order"),
        (_with("examples/position", lambda a: a + 10**6), "position"),
        (_with("examples/fired_position", lambda a: a - 10**6), "position"),
        (_with("features/nearest_ids", lambda a: a + 10**6), "nearest_ids"),
        (_with("inputs/offsets", lambda a: a * 2), "offsets of inputs"),
        (_with("inputs/tokens", lambda a: -a - 5), "tokens"),
        (_with("inputs/tokens", lambda a: a * 0.5), "numbers of inputs"),
        (_with("inputs/documents", lambda _: np.frombuffer(b"{}", np.uint8)), "documents"),
        (_with("inputs/pieces", lambda _: np.frombuffer(b"[1, 2]", np.uint8)), "damaged"),
        (_with("inputs/pieces", lambda _: np.frombuffer(b"[1,", np.uint8)), "damaged"),
        (_change(lambda file: file.pop("inputs/start")), "damaged"),
        (_change(lambda file: file.pop("tree/merges")), "damaged"),
        (_said(kind="video"), "kind"),
        (_said(sae="x"), "sae"),
        (_said(training=[1]), "training"),
        (_said(rows=None), "rows"),
        (_flipped, "damaged"),
        (_newer, "version 3"),
        (_cut, "not a readable HDF5 file"),
    ],
)
def test_a_damaged_analysis_is_refused(
    analysis: Analysis, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    save_analysis(analysis, tmp_path)
    spoil(tmp_path)

    with pytest.raises(FormatError, match=message):
        load_analysis(tmp_path)


def test_a_shuffled_store_is_not_analysed(store: Store, tmp_path: Path) -> None:
    shuffled = shuffle_store(store, tmp_path / "shuffled")

    with pytest.raises(StoreError, match="analyse the store that it was shuffled from"):
        analyse(dictionary(), shuffled, tmp_path / "analysis")
    assert not (tmp_path / "analysis").exists()


def test_umap_is_repeatable_and_leaves_the_number_of_threads_as_it_was() -> None:
    """Numbers round by it; numba would set it to that of the cores."""
    generator = np.random.default_rng(0)
    groups = np.repeat(np.eye(3), 30, 0) + 0.1 * generator.standard_normal((90, 3))
    rows = (groups / np.linalg.norm(groups, axis=1, keepdims=True)).astype(np.float32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one, two = REAL_UMAP(rows, 5), REAL_UMAP(rows, 5)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)

    assert np.array_equal(one, two)
    centres = one.reshape(3, 30, 2).mean(1)
    within = np.linalg.norm(one.reshape(3, 30, 2) - centres[:, None], axis=2).max()
    assert within < min(np.linalg.norm(centres[i] - centres[i - 1]) for i in range(3))


def test_a_finished_analysis_is_not_overwritten(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()

    with pytest.raises(OutputExists):
        analyse(dictionary(), store, tmp_path / "a")


def test_a_rule_is_scored_as_the_labels_are(analysis: Analysis) -> None:
    """On the same rows: the label's own rule has the label's own scores."""
    scored = [i for i in range(FEATURES) if np.isfinite(analysis.labels.balanced_accuracy[i])]
    assert scored

    for i in scored[:10]:
        rule = analysis.labels.rule[i]
        assert rule is not None
        score = analysis.score_rule(rule, i)
        assert score.balanced_accuracy == pytest.approx(analysis.labels.balanced_accuracy[i])
        assert score.precision == pytest.approx(analysis.labels.precision[i])


def test_the_sample_that_labels_are_learned_from_holds_firings(
    analysis: Analysis, dense: NDArray[np.float64]
) -> None:
    drawn = analysis.drawn

    for i in range(FEATURES):
        mine = drawn.value[drawn.feature == i]
        fired = dense[:, i][dense[:, i] > 0].astype(np.float32)
        assert len(mine) == min(100, len(fired))
        assert np.isin(mine, fired).all()


def test_one_site_is_not_two_layers(store: Store, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="of the same site"):
        analyse([dictionary(), dictionary()], store, tmp_path / "a")


def test_a_column_that_is_not_there_is_not_called_damage(store: Store) -> None:
    with pytest.raises(StoreError, match="no column 'tokens'; it has doc, context, pos, token"):
        store.column("tokens")
