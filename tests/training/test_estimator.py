"""The dictionary as a scikit-learn transformer: their checks, and ours against `train`."""

import re
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import probe_sae
from probe_sae.errors import SettingsError
from probe_sae.sae import ARCHITECTURES, BatchTopK, fraction_unexplained, names_of
from probe_sae.training import TrainSettings, train
from probe_sae.training.estimator import CHUNK, SparseAutoencoder

from .test_train import world

SMALL: dict[str, Any] = {"rows": 2_000, "batch_size": 256, "random_state": 0, "device": "cpu"}
OF_ONE_SITE = [arch for arch in ARCHITECTURES if arch not in ("transcoder", "crosscoder")]


def estimator(arch: str = "batchtopk", **changes: Any) -> SparseAutoencoder:
    has = names_of(ARCHITECTURES[arch])
    more: dict[str, Any] = {"settings": {"points": 64}} if "points" in has else {}
    k = 3 if "k" in has else None
    return SparseAutoencoder(32, k, arch, **{**SMALL, **more, **changes})


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return world(1_000, 1).double().numpy()


@parametrize_with_checks(
    [
        SparseAutoencoder(16, 2, rows=256, batch_size=64, device="cpu"),
        SparseAutoencoder(16, 2, "topk", rows=256, batch_size=64, device="cpu", sparse_output=True),
    ]
)
def test_it_passes_the_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def test_fit_learns_what_train_learns(x: np.ndarray) -> None:
    fitted = estimator(settings={"lr": 2e-3, "aux_coefficient": 0.1}, random_state=5).fit(x)
    trainer = TrainSettings(rows=2_000, batch_size=256, seed=5, lr=2e-3)

    alone = train(torch.from_numpy(x), BatchTopK(32, 3, aux_coefficient=0.1), trainer, device="cpu")

    assert fitted.sae_.settings == alone.settings
    for name, tensor in alone.state_dict().items():
        assert torch.equal(fitted.sae_.state_dict()[name], tensor), name


@pytest.mark.parametrize("arch", OF_ONE_SITE)
def test_codes_and_rows_are_those_of_the_dictionary(x: np.ndarray, arch: str) -> None:
    dense, as_csr = estimator(arch), estimator(arch, sparse_output=True)
    many = np.tile(x, (3, 1))
    assert len(many) > CHUNK

    codes, matrix = dense.fit(x).transform(many), as_csr.fit(x).transform(many)

    sae = dense.sae_
    wanted = sae.encode(torch.from_numpy(many))
    rows = sae.decode(wanted)
    assert sparse.isspmatrix_csr(matrix)
    assert matrix.has_canonical_format
    assert np.array_equal(matrix.toarray(), codes)
    assert matrix.nnz == np.count_nonzero(codes)
    np.testing.assert_allclose(codes, wanted.numpy(), rtol=1e-4, atol=1e-5)
    for given in (codes, matrix):
        np.testing.assert_allclose(dense.inverse_transform(given), rows, rtol=1e-4, atol=1e-4)
    explained = 1 - fraction_unexplained(torch.from_numpy(many), rows)
    assert dense.score(many) == pytest.approx(explained, rel=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_in_is_precision_out(x: np.ndarray, dtype: Any) -> None:
    fitted = estimator("topk").fit(x)

    codes = fitted.transform(x.astype(dtype))
    rows = fitted.inverse_transform(codes)

    assert codes.dtype == rows.dtype == dtype


@pytest.mark.parametrize(
    "given", [np.asfortranarray, pd.DataFrame, torch.from_numpy, np.ndarray.tolist]
)
def test_rows_may_come_in_many_forms(x: np.ndarray, given: Any) -> None:
    plain, other = estimator(), estimator()

    codes = plain.fit_transform(x)

    assert np.array_equal(other.fit_transform(given(x)), codes)


@pytest.mark.parametrize("table", [np.asarray, pd.DataFrame])
def test_arrays_of_half_precision_count_as_float32(x: np.ndarray, table: Any) -> None:
    rows = x.astype(np.float16)
    fitted = estimator("topk").fit(table(rows))

    codes = fitted.transform(table(rows))

    assert codes.dtype == fitted.inverse_transform(codes.astype(np.float16)).dtype == np.float32
    assert np.array_equal(codes, fitted.transform(rows.astype(np.float32)))


def test_too_few_rows_to_keep_some_from_training_are_refused(x: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"5 sample\(s\).*minimum of 10"):
        estimator().fit(x[:5])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tensors_of_half_precision_count_as_float32(x: np.ndarray, dtype: torch.dtype) -> None:
    rows = torch.from_numpy(x).to(dtype)
    fitted = estimator("topk").fit(rows)

    codes = fitted.transform(rows.requires_grad_())

    assert np.array_equal(codes, fitted.transform(rows.detach().float().numpy()))


def test_tables_get_named_columns(x: np.ndarray) -> None:
    table = pd.DataFrame(x, index=np.arange(len(x)) + 7).add_prefix("d")
    codes = estimator().set_output(transform="pandas").fit_transform(table)

    assert list(codes.columns) == [f"sparseautoencoder{i}" for i in range(32)]
    assert codes.index.equals(table.index)


def test_a_seed_repeats_itself_and_none_does_not(x: np.ndarray) -> None:
    one, two = estimator().fit(x), estimator().fit(x)
    random = [estimator(random_state=None).fit(x) for _ in range(2)]
    state = estimator(random_state=np.random.RandomState(0)).fit(x)

    assert np.array_equal(one.transform(x), two.transform(x))
    assert not np.array_equal(random[0].transform(x), random[1].transform(x))
    seeds = {each.sae_.provenance["trainer"]["seed"] for each in (*random, state)}
    assert len(seeds) == 3


def test_it_works_inside_pipelines_and_searches(x: np.ndarray) -> None:
    y = (x[:, 0] > np.median(x[:, 0])).astype(int)
    pipeline = make_pipeline(StandardScaler(), estimator(), LogisticRegression(max_iter=1_000))
    how: dict[str, Any] = {"cv": 2, "error_score": "raise"}
    search = GridSearchCV(pipeline, {"sparseautoencoder__k": [1, 6]}, **how)
    own = GridSearchCV(estimator(), {"k": [1, 6]}, **how)

    search.fit(x, y)
    own.fit(x)

    assert search.best_params_ == {"sparseautoencoder__k": 6}
    assert np.mean(search.predict(x) == y) > 0.8
    assert own.best_params_ == {"k": 6}


@pytest.mark.parametrize("arch", OF_ONE_SITE)
def test_what_joblib_kept_gives_the_same(x: np.ndarray, arch: str, tmp_path: Path) -> None:
    fitted = estimator(arch).fit(x)

    joblib.dump(fitted, tmp_path / "fitted")

    assert np.array_equal(joblib.load(tmp_path / "fitted").transform(x), fitted.transform(x))
    assert not hasattr(clone(fitted), "sae_")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "topkk"}, "Near it: topk"),
        ({"arch": "transcoder"}, "a transcoder learns from rows of several sites"),
        ({"arch": "crosscoder"}, "a crosscoder learns from rows of several sites"),
        ({"k": None, "features": 16}, "k is 32, the default of batchtopk, but .* 16 features"),
        ({"arch": "kl", "k": 3}, "neither kl nor the trainer has a setting 'k'"),
        ({"k": 33}, "between 1 and 32"),
        ({"features": 2.5}, "expected a whole number"),
        ({"settings": {"lrr": 1}}, "Near it: lr"),
        ({"settings": {"seed": 1, "k": 2}}, "settings hold k, seed.*seed as random_state"),
        ({"device": "gpu"}, "cannot be used here"),
    ],
)
def test_wrong_settings_are_named(x: np.ndarray, changes: dict[str, Any], message: str) -> None:
    wrong = estimator().set_params(**changes)

    with pytest.raises(SettingsError, match=message):
        wrong.fit(x)


def test_codes_of_another_dictionary_are_refused(x: np.ndarray) -> None:
    with pytest.raises(ValueError, match="codes have 31 columns; expected 32"):
        estimator().fit(x).inverse_transform(np.zeros((2, 31)))


def test_the_guides_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    guide = (Path(probe_sae.__file__).parent / "guide" / "scikit-learn.md").read_text("utf-8")
    code, _, rest = guide.partition("```python\n")[2].partition("```\n```\n")

    exec(code.replace("50_000", "4_000"), {})

    printed = capsys.readouterr().out.strip()
    numbers = re.compile(r"\d[\d.]*")
    assert numbers.sub("#", printed) == numbers.sub("#", rest.partition("\n```")[0])


@pytest.mark.parametrize(
    ("rows", "run", "batch"), [(80, 8_000, 10), (30_000, 2_000_000, 3_750), (1 << 20, 2e6, 4096)]
)
def test_few_rows_are_read_a_hundred_times_in_small_batches(
    rows: int, run: int, batch: int
) -> None:
    table = SparseAutoencoder()._table(rows)

    assert (table["rows"], table["batch_size"]) == (run, batch)
