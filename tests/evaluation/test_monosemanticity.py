"""The linear form is the sum over pairs, whatever the batches."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.errors import SettingsError, ShapeError
from probe_sae.evaluation import MonosemanticityMeter, monosemanticity
from probe_sae.host import load_host
from probe_sae.recording import CaptureSettings, capture, load_dataset
from probe_sae.sae import SparseCodes, TopK, make_sae

INPUTS, FEATURES, WIDTH = 60, 9, 5


def sample(offset: float = 0.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(INPUTS, FEATURES, generator=generator, dtype=torch.float64).relu()
    codes[:, 7] = 0
    codes[:, 8] = 0
    codes[3, 8] = 2.0
    embeddings = torch.randn(INPUTS, WIDTH, generator=generator, dtype=torch.float64)
    return codes + offset, embeddings * torch.linspace(0.1, 9, INPUTS)[:, None]


def over_pairs(codes: Tensor, embeddings: Tensor) -> NDArray[np.float64]:
    """Return the score as the paper has it."""
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    alike = unit @ unit.T
    scores: list[float] = []
    for a in codes.T:
        a = (a - a.min()) / (a.max() - a.min())
        above = sum(float(a[n] * a[m] * alike[n, m]) for n, m in combinations(range(INPUTS), 2))
        below = sum(float(a[n] * a[m]) for n, m in combinations(range(INPUTS), 2))
        scores.append(above / below if below > 1e-12 else np.nan)
    return np.array(scores)


@pytest.mark.parametrize("offset", [0.0, 0.7, -3.0])
@pytest.mark.parametrize("sizes", [[60], [1, 2, 57], [20, 20, 20]])
def test_one_pass_gives_what_all_pairs_give(offset: float, sizes: list[int]) -> None:
    codes, embeddings = sample(offset)
    meter = MonosemanticityMeter(FEATURES, WIDTH)
    for part, those in zip(codes.split(sizes), embeddings.split(sizes), strict=True):
        meter.add(part, those)

    expected = over_pairs(codes[:, :7], embeddings)
    assert np.allclose(meter.scores()[:7], expected, atol=1e-9)
    assert np.isnan(meter.scores()[7:]).all()


def test_sparse_codes_score_as_dense_ones() -> None:
    codes, embeddings = sample()
    values, indices = codes.topk(FEATURES)

    sparse = monosemanticity(SparseCodes(values, indices), embeddings, features=FEATURES)
    dense = monosemanticity(codes, embeddings)

    assert np.allclose(sparse.scores, dense.scores, equal_nan=True)
    assert dense.interval[0] < dense.mean < dense.interval[1]
    assert len(dense.table()) == FEATURES


def test_chance_is_the_mean_over_shuffled_inputs() -> None:
    codes, embeddings = sample()
    generator = torch.Generator().manual_seed(1)
    shuffled = [
        monosemanticity(codes, embeddings[torch.randperm(INPUTS, generator=generator)]).scores[:7]
        for _ in range(300)
    ]

    found = monosemanticity(codes, embeddings)

    assert np.mean(shuffled) == pytest.approx(found.at_chance, abs=0.01)


def test_a_feature_of_one_kind_of_input_scores_one_and_of_two_kinds_half() -> None:
    kinds = torch.eye(4, dtype=torch.float64).repeat(50, 1)
    codes = torch.stack([kinds[:, 0], kinds[:, 0] + kinds[:, 1]], 1)

    found = monosemanticity(codes, kinds)

    assert found.scores[0] == pytest.approx(1)
    assert found.scores[1] == pytest.approx(0.5, abs=0.01)


def test_embeddings_of_other_inputs_and_of_no_length_are_refused() -> None:
    codes, embeddings = sample()

    with pytest.raises(ShapeError, match=r"expected \[60, 5\]"):
        monosemanticity(codes, embeddings[:-1])
    with pytest.raises(ShapeError, match="0 or not finite"):
        monosemanticity(codes, torch.zeros(INPUTS, WIDTH))
    with pytest.raises(SettingsError, match="how many features"):
        monosemanticity(SparseCodes(codes, codes.long()), embeddings)


def test_an_image_of_a_store_counts_with_its_strongest_patches(tmp_path: Path) -> None:
    host, digits = load_host("bundled:digits-vit", device="cpu"), load_dataset("digits")
    settings = CaptureSettings(rows=400, dtype="float32")
    store = capture(host, digits, "blocks.0.resid_post", tmp_path / "store", settings)
    rows = store.read("blocks.0.resid_post", 0, store.rows)
    sae = make_sae(TopK(features=32, k=4), rows.shape[1]).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    sae.initialise(rows, generator)
    embeddings = torch.randn(store.contexts, 6, generator=generator)
    images = torch.from_numpy(store.context_of_row)
    codes = sae.encode(rows)
    pooled = torch.stack([codes[images == image].amax(0) for image in range(store.contexts)])

    found = monosemanticity((sae, store), embeddings)

    assert found.inputs == store.contexts > 5
    assert np.allclose(found.scores, monosemanticity(pooled, embeddings).scores, equal_nan=True)
    with pytest.raises(ShapeError, match="contexts"):
        monosemanticity((sae, store), embeddings[1:])
