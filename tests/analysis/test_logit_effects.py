"""Effects on logits equal the plain product with the unembedding."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from probe_sae.analysis import logit_effects as module
from probe_sae.analysis.logit_effects import LOGIT_BINS, LogitEffects, logit_effects

FEATURES, TOKENS, WIDTH = 23, 301, 7


@pytest.fixture(scope="module")
def directions() -> Tensor:
    return torch.randn(FEATURES, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def table() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    common = 3 * torch.randn(WIDTH, generator=generator)
    return torch.randn(TOKENS, WIDTH, generator=generator) + common


@pytest.fixture(params=[1, 5 * TOKENS, 1 << 25])
def found(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    directions: Tensor,
    table: Tensor,
) -> LogitEffects:
    monkeypatch.setattr(module, "_LOGITS_AT_ONCE", request.param)
    return logit_effects(directions, table, count=4)


def test_everything_equals_brute_force(
    found: LogitEffects, directions: Tensor, table: Tensor
) -> None:
    effect = (directions.double() @ table.double().T).numpy()
    effect -= effect.mean(1, keepdims=True)
    order = np.argsort(effect, 1)

    assert np.array_equal(found.promoted_ids, order[:, ::-1][:, :4])
    assert np.array_equal(found.suppressed_ids, order[:, :4])
    close: Any = {"rtol": 1e-4, "atol": 1e-5}
    ascending = np.sort(effect, 1)
    np.testing.assert_allclose(found.promoted_values, ascending[:, ::-1][:, :4], **close)
    np.testing.assert_allclose(found.suppressed_values, ascending[:, :4], **close)
    np.testing.assert_allclose(found.logit_range, ascending[:, [0, -1]], **close)
    np.testing.assert_allclose(found.logit_std, effect.std(1), **close)
    np.testing.assert_allclose(found.logit_skew, stats.skew(effect, axis=1), **close)
    kurtosis = stats.kurtosis(effect, axis=1, fisher=False)
    np.testing.assert_allclose(found.logit_kurtosis, kurtosis, **close)


def test_every_token_is_in_the_bin_of_its_effect(
    found: LogitEffects, directions: Tensor, table: Tensor
) -> None:
    effect = directions @ table.T
    effect -= effect.mean(1, keepdim=True)

    assert found.logit_histogram.sum(1).tolist() == [TOKENS] * FEATURES
    for own, counts, (low, high) in zip(
        effect.numpy(), found.logit_histogram, found.logit_range, strict=True
    ):
        bins = np.floor((own.astype(float) - low) / (float(high) - low) * LOGIT_BINS)
        expected = np.bincount(bins.clip(0, LOGIT_BINS - 1).astype(int), minlength=LOGIT_BINS)
        assert np.abs(np.cumsum(counts - expected)).max() <= 1  # what lies on an edge


def test_a_direction_that_moves_no_logit_has_no_shape(table: Tensor) -> None:
    found = logit_effects(torch.zeros(2, WIDTH), table)

    assert np.array_equal(found.logit_std, [0, 0])
    assert np.isnan(found.logit_skew).all()
    assert found.logit_histogram.sum(1).tolist() == [TOKENS, TOKENS]


def test_few_tokens_are_all_listed(directions: Tensor) -> None:
    found = logit_effects(directions, torch.eye(3, WIDTH))

    assert found.promoted_ids.shape == (FEATURES, 3)


@pytest.mark.parametrize("table", [None, torch.ones(9, WIDTH + 1)])
def test_without_an_unembedding_there_is_none(directions: Tensor, table: Tensor | None) -> None:
    found = logit_effects(directions, table)

    assert found.promoted_ids.shape == found.logit_histogram.shape == (FEATURES, 0)
    assert np.isnan(found.logit_range).all()
    assert np.isnan(found.logit_kurtosis).all()
