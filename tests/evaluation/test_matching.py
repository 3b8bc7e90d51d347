"""What dictionaries share: all of themselves, nothing of a random one."""

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from probe_sae.errors import SettingsError, ShapeError
from probe_sae.evaluation import compare, match, splitting, stability
from probe_sae.evaluation import matching as matching_room
from probe_sae.sae import SAE, Plain, SignedTopK, TopK, make_sae

FEATURES, WIDTH = 40, 16


def drawn(seed: int, features: int = FEATURES) -> SAE:
    sae = make_sae(TopK(features=features, k=3), WIDTH, torch.Generator().manual_seed(seed))
    return sae.requires_grad_(False)


def with_directions(directions: Tensor, encoder: Tensor | None = None) -> SAE:
    sae = drawn(0, len(directions))
    unit = normalize(directions, dim=1)
    weights = {"W_dec": unit, "W_enc": unit if encoder is None else encoder}
    sae.load_state_dict(sae.state_dict() | weights)
    return sae


def permuted(sae: SAE, seed: int = 1) -> SAE:
    order = torch.randperm(sae.features, generator=torch.Generator().manual_seed(seed))
    return with_directions(sae.directions()[order])


def test_a_matching_is_the_best_of_all_there_are() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(5, 3, generator=generator), torch.randn(6, 3, generator=generator)
    cosines = (normalize(a, dim=1) @ normalize(b, dim=1).T).double().numpy()

    found = match(a, b)

    best = max(sum(cosines[i, j] for i, j in enumerate(p)) for p in permutations(range(6), 5))
    assert found.cosine.sum() == pytest.approx(best, rel=1e-6)
    assert found.mean_cosine == pytest.approx(best / 5, rel=1e-6)
    assert found.method == "hungarian"


def test_a_greedy_matching_has_each_feature_once_and_all_mutual_nearest() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(300, 20, generator=generator), torch.randn(350, 20, generator=generator)
    cosines = (normalize(a, dim=1) @ normalize(b, dim=1).T).numpy()

    found = match(a, b, greedy=True)

    assert len(set(found.a)) == len(set(found.b)) == len(found.a)
    assert np.allclose(found.cosine, cosines[found.a, found.b], atol=1e-6)
    forth, back = cosines.argmax(1), cosines.argmax(0)
    mutual = {(i, int(forth[i])) for i in range(300) if back[forth[i]] == i}
    assert mutual <= set(zip(found.a.tolist(), found.b.tolist(), strict=True))
    assert 0.9 * match(a, b).mean_cosine < found.mean_cosine <= match(a, b).mean_cosine + 1e-9


def test_a_large_dictionary_is_matched_greedily(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching_room, "MOST_EXACT", 30)
    sae = drawn(0)

    found = compare(sae, permuted(sae))

    assert found.matches.method == "greedy"
    assert found.pw_mcc == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("other", ["itself", "permuted"])
def test_a_dictionary_shares_all_with_itself_in_any_order(other: str) -> None:
    sae = drawn(0)

    found = compare(sae, sae if other == "itself" else permuted(sae))

    assert found.pw_mcc == pytest.approx(1, abs=1e-6)
    assert found.shared == 1
    assert found.mean_max_cosine == pytest.approx((1, 1), abs=1e-6)
    assert found.pw_mcc_at_chance < 0.7
    assert len(found.table()) == FEATURES


def test_random_dictionaries_share_what_chance_gives() -> None:
    found = compare(drawn(0), drawn(1))

    low, high = found.pw_mcc_interval
    assert low < found.pw_mcc < high
    assert found.pw_mcc == pytest.approx(found.pw_mcc_at_chance, abs=0.05)
    assert found.shared < 0.2


def test_a_feature_is_shared_only_if_decoder_and_encoder_agree() -> None:
    """Ten of forty read something else here."""
    sae = drawn(0)
    encoder = sae.directions().clone()
    encoder[:10] = torch.randn(10, WIDTH, generator=torch.Generator().manual_seed(2))
    other = with_directions(sae.directions(), encoder)

    found = compare(sae, other)

    assert found.pw_mcc == pytest.approx(1, abs=1e-6)
    assert found.shared == pytest.approx(0.75, abs=0.06)
    assert found.encoder_cosine is not None
    assert (found.encoder_cosine[10:] > 0.999).all()


def test_an_opposite_is_another_feature_unless_activations_have_a_sign() -> None:
    sae = drawn(0)
    mirrored = with_directions(-sae.directions())
    signed = [
        make_sae(SignedTopK(features=FEATURES, k=3), WIDTH, torch.Generator().manual_seed(0))
        for _ in range(2)
    ]
    with torch.no_grad():
        for name in ("W_dec", "W_enc"):
            signed[1].get_parameter(name).mul_(-1)

    assert compare(sae, mirrored).pw_mcc < 0.9
    assert compare(signed[0], signed[1]).pw_mcc == pytest.approx(1, abs=1e-6)


def test_an_imported_dictionary_with_signed_activations_is_compared_by_lines() -> None:
    settings = Plain(features=FEATURES, activation="signed_topk", k=3)
    plain = [make_sae(settings, WIDTH, torch.Generator().manual_seed(0)) for _ in range(2)]
    with torch.no_grad():
        for name in ("W_dec", "W_enc"):
            plain[1].get_parameter(name).mul_(-1)

    assert compare(plain[0], plain[1]).pw_mcc == pytest.approx(1, abs=1e-6)


def test_dictionaries_of_other_widths_are_refused() -> None:
    with pytest.raises(ShapeError, match="same sites"):
        compare(drawn(0), make_sae(TopK(features=8, k=2), 5))


def test_copies_are_stable_and_a_stranger_is_not() -> None:
    sae = drawn(0)

    same = stability([sae, permuted(sae, 1), permuted(sae, 2)])
    mixed = stability([sae, permuted(sae, 1), drawn(9)])

    assert same.pw_mcc == pytest.approx(1, abs=1e-6)
    assert same.shared == 1
    assert (same.found_again == 1).all()
    assert same.unstable == (0, 0, 0)
    assert np.isnan(same.subspace_overlap)
    assert mixed.pw_mcc_range[0] < 0.75
    assert mixed.pw_mcc_range[1] == pytest.approx(1, abs=1e-6)
    assert 0.5 <= mixed.found_again[0].mean() < 0.65
    assert mixed.found_again[2].mean() < 0.2
    assert mixed.unstable[2] > 20
    assert len(mixed.table()) == 3 * FEATURES


def test_unstable_features_of_one_subspace_are_known_by_it() -> None:
    """Thirty features are the same; ten are drawn anew in the same two dimensions of sixteen."""
    stable = torch.cat([torch.randn(30, WIDTH - 2, generator=torch.Generator().manual_seed(0))], 1)
    stable = torch.cat([stable, torch.zeros(30, 2)], 1)

    def dictionary(seed: int) -> SAE:
        turn = torch.rand(10, generator=torch.Generator().manual_seed(seed)) * 0.5 + seed
        plane = torch.stack([turn.cos(), turn.sin()], 1)
        return with_directions(torch.cat([stable, torch.cat([torch.zeros(10, 14), plane], 1)]))

    found = stability([dictionary(0), dictionary(2), dictionary(4)], threshold=0.95)

    assert found.unstable == (10, 10, 10)
    assert max(found.subspace_ranks) <= 2
    assert found.subspace_overlap > found.subspace_overlap_at_chance
    assert found.subspace_overlap_at_chance <= 2 / WIDTH


def test_stability_wants_two_of_one_size() -> None:
    with pytest.raises(SettingsError, match="got 1"):
        stability([drawn(0)])
    with pytest.raises(SettingsError, match="40, 41"):
        stability([drawn(0), drawn(1, 41)])


def test_features_split_persist_vanish_and_appear_as_planted() -> None:
    """Of ten: 0-3 split in two, 4-7 stay, 8 and 9 are gone; two of fourteen are new."""
    eye = torch.eye(WIDTH)
    small = with_directions(eye[:10])
    halves = [eye[i] + sign * 0.6 * eye[10 + i] for i in range(4) for sign in (1, -1)]
    large = with_directions(torch.stack([*halves, *eye[4:8], eye[14], eye[15]]))

    found = splitting(small, large)

    assert (found.split, found.persist, found.lost) == (0.4, 0.4, 0.2)
    assert found.new == pytest.approx(2 / 14)
    assert found.table()["small"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7]
    assert found.table()["large"].tolist() == list(range(12))
    assert found.split_interval[0] < 0.4 < found.split_interval[1]


def test_splitting_takes_the_smaller_first_and_thresholds_in_range() -> None:
    with pytest.raises(SettingsError, match="other way round"):
        splitting(drawn(0, 41), drawn(1))
    with pytest.raises(SettingsError, match="from 0 to 1"):
        splitting(drawn(0), drawn(1), cosine=2)


def test_dictionaries_of_different_sites_are_not_compared() -> None:
    from probe_sae.errors import SettingsError
    from probe_sae.evaluation import compare, splitting, stability
    from probe_sae.sae import TopK, make_sae

    one, other = (make_sae(TopK(features=12, k=2), 8) for _ in range(2))
    one.provenance, other.provenance = {"sites": ["blocks.1"]}, {"sites": ["blocks.2"]}

    for refused in (
        lambda: compare(one, other),
        lambda: stability([one, other]),
        lambda: splitting(one, other),
    ):
        with pytest.raises(SettingsError, match=r"one dictionary is of blocks\.1"):
            refused()
