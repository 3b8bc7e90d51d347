"""The host `pixels`: rows are images, and what can be drawn of a dictionary of them is right."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from probe_sae.analysis import Analysis, analyse, load_analysis
from probe_sae.errors import FormatError, SiteNotFound
from probe_sae.evaluation import evaluate
from probe_sae.host import load_host
from probe_sae.recording import CaptureSettings, capture, load_dataset
from probe_sae.sae import KL, SAE
from probe_sae.store import Store
from probe_sae.training import TrainSettings, train


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    out = tmp_path_factory.mktemp("pixels") / "store"
    settings = CaptureSettings(dtype="float32")
    return capture(load_host("pixels"), load_dataset("digits"), ["input"], out, settings)


@pytest.fixture(scope="module")
def sae(store: Store) -> SAE:
    settings = KL(features=24, hidden=(32,), output="sigmoid")
    return train(store, settings, TrainSettings(rows=60_000, batch_size=128), device="cpu")


@pytest.fixture(scope="module")
def analysis(sae: SAE, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    folder = tmp_path_factory.mktemp("pixels") / "analysis"
    analyse(sae, store, folder, evaluation=evaluate(sae, store))
    return load_analysis(folder)


def test_rows_are_the_images_themselves(store: Store) -> None:
    from sklearn.datasets import load_digits

    images = np.asarray(load_digits(return_X_y=True)[0]) / 16

    rows = store["input"][:]
    assert np.abs(rows.numpy() - images).max() < 1 / 255


def test_its_only_site_is_input() -> None:
    with pytest.raises(SiteNotFound, match="input"):
        load_host("pixels").find_sites("blocks.1.resid_post")


def test_what_is_drawn_equals_the_dictionary(analysis: Analysis, sae: SAE) -> None:
    drawn = analysis.pixels
    assert drawn is not None
    rows = torch.from_numpy(drawn.originals.reshape(-1, 64)).float() / 255

    assert list(np.unique(drawn.labels)) == list(range(10))
    assert np.allclose(drawn.codes, sae.encode(rows).numpy(), atol=0.02)
    made = drawn.reconstructions.reshape(-1, 64) / 255
    assert np.abs(made - sae(rows).numpy()).max() < 0.02
    assert np.allclose(drawn.directions.reshape(24, 64), sae.directions().numpy(), atol=1e-5)
    assert np.abs(rows.numpy() - made).mean() < 0.15


def test_mean_activations_count_those_too_small_to_be_firings(
    analysis: Analysis, sae: SAE, store: Store
) -> None:
    metrics = analysis.info["metrics"]
    held = metrics["rows_evaluated"]

    assert held < store.rows
    assert np.allclose(metrics["mean_activation"], analysis.columns.mean_activation, atol=1e-5)
    assert 0 < metrics["test_mse"] < 0.1
    assert analysis.columns.density.max() < 1  # a sigmoid is never 0, but it does not always fire


def test_damaged_drawings_are_refused(analysis: Analysis, tmp_path: Path) -> None:
    from probe_sae.analysis.saved import save_analysis

    assert analysis.pixels is not None
    cut = replace(analysis.pixels, codes=analysis.pixels.codes[:, 1:])
    save_analysis(replace(analysis, pixels=cut), tmp_path)

    with pytest.raises(FormatError, match="pixels"):
        load_analysis(tmp_path)
