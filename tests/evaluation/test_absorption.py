"""Absorption that was planted is found, row by row, and none where none is."""

import numpy as np
import pytest
import torch
from torch import Tensor

from probe_sae.errors import SettingsError, ShapeError
from probe_sae.evaluation import absorption
from probe_sae.sae import SAE, TopK, make_sae

TOKENS, COPIES, WIDTH = 160, 12, 200
"""The first half of the tokens have the concept; each has a direction of its own."""
ABSORBED = tuple(range(20))


def world() -> tuple[Tensor, Tensor, Tensor]:
    """Return rows, whether they have the concept, and their tokens."""
    token = torch.arange(TOKENS).repeat_interleave(COPIES)
    generator = torch.Generator().manual_seed(0)
    noise = 0.01 * torch.randn(len(token), WIDTH, generator=generator)
    strength = 1 + 0.1 * torch.rand(len(token), 1, generator=generator)
    eye = torch.eye(WIDTH)
    x = eye[1 + token] + strength * (token < TOKENS // 2)[:, None] * eye[0] + noise
    return x, token < TOKENS // 2, token


def dictionary(absorbed: tuple[int, ...] = (), share: float = 1.0) -> SAE:
    """Return features: 0 is the concept, 1 + t token t.

    Tokens in `absorbed` say `share` of the concept as well, and on them feature 0 says the rest.
    """
    sae = make_sae(TopK(features=1 + TOKENS, k=2), WIDTH)
    eye = torch.eye(WIDTH)
    encoder, decoder = eye[: 1 + TOKENS].clone(), eye[: 1 + TOKENS].clone()
    for token in absorbed:
        decoder[1 + token, 0] = share
        encoder[0, 1 + token] = -share
    sae.load_state_dict(
        sae.state_dict()
        | {
            "W_enc": encoder,
            "W_dec": decoder,
            "b_enc": torch.full((1 + TOKENS,), -0.2),
            "input_scale": torch.ones(()),
        }
    )
    return sae.requires_grad_(False)


def test_a_clean_dictionary_absorbs_nothing() -> None:
    x, has, token = world()

    found = absorption(dictionary(), x, has, groups=token)

    assert found.main == (0,)
    assert found.full == found.fraction == 0
    assert found.full_interval == (0, 0)
    assert found.probe_f1 == found.main_f1 == 1
    assert float(found.probe[0]) > 0.9
    assert len(found.table()) == 0


def test_planted_absorbers_are_found_by_name_and_share() -> None:
    x, has, token = world()

    found = absorption(dictionary(ABSORBED), x, has, groups=token)

    measured = set((found.table()["feature"] - 1).tolist())
    assert found.main == (0,)
    assert measured <= set(ABSORBED)
    assert found.full == pytest.approx(len(measured) * COPIES / found.rows)
    assert found.fraction == pytest.approx(found.full)
    assert found.full_interval[0] < found.full < found.full_interval[1]
    assert 0.05 < found.full < 0.5


def test_a_part_that_is_absorbed_counts_as_that_part() -> None:
    """Six tenths of the concept on a quarter of its tokens; the feature itself still fires.

    Thresholds of 0.2 leave 0.8 * 0.6 for the absorber and about 1.05 - 0.6 - 0.2 for the feature.
    """
    x, has, token = world()
    all_of_it = absorption(dictionary(ABSORBED), x, has, groups=token, baselines=False)

    found = absorption(dictionary(ABSORBED, 0.6), x, has, groups=token, baselines=False)

    assert found.full == 0
    assert found.fraction == pytest.approx(0.48 / (0.48 + 0.25) * all_of_it.full, rel=0.06)
    assert np.isnan(found.untrained[0])


def test_labels_of_other_rows_and_too_few_of_a_kind_are_refused() -> None:
    x, has, _ = world()

    with pytest.raises(ShapeError, match="one each"):
        absorption(dictionary(), x, has[:-1])
    with pytest.raises(SettingsError, match="too few"):
        absorption(dictionary(), x, torch.zeros(len(x), dtype=torch.bool))
