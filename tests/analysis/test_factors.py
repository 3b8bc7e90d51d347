"""Effects equal textbook formulas, find what is there, and under chance alone find nothing."""

from itertools import permutations as orders

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.sparse import csr_matrix

from probe_sae.analysis.factors import factor_effects
from probe_sae.analysis.permutations import Design, benjamini_hochberg, deals, permutation_p
from probe_sae.analysis.shapes import shape_of
from probe_sae.errors import SettingsError, ShapeError


def crossed(levels: int, groups: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return level and group of inputs, each level once in each group."""
    group, level = np.divmod(np.arange(levels * groups), levels)
    return level, group


def test_one_group_gives_the_usual_eta_omega_and_f() -> None:
    generator = np.random.default_rng(0)
    level = generator.integers(0, 3, 40)
    values = generator.standard_normal((40, 6)) + np.outer(level, [0, 0, 0, 1, 2, 3])
    found = factor_effects(values, level, levels=("a", "b", "c"), is_ordered=False)

    for i in range(6):
        parts = [values[level == j, i] for j in range(3)]
        f = stats.f_oneway(*parts).statistic
        eta = 2 * f / (2 * f + 37)
        assert found.eta_squared[i] == pytest.approx(eta)
        assert found.omega_squared[i] == pytest.approx(2 * (f - 1) / (2 * (f - 1) + 40))
        means = [part.mean() for part in parts]
        a, b = parts[int(np.argmax(means))], parts[int(np.argmin(means))]
        pooled = (a.var(ddof=1) * (len(a) - 1) + b.var(ddof=1) * (len(b) - 1)) / (
            len(a) + len(b) - 2
        )
        assert found.d[i] == pytest.approx((a.mean() - b.mean()) / pooled**0.5)
        assert found.means[i] == pytest.approx(means)
    assert np.isnan(found.rho).all()


def test_with_groups_eta_is_the_partial_one_of_the_additive_model() -> None:
    """By least squares: the same sums as from dropping the factor out of group + level."""
    level, group = crossed(4, 5)
    generator = np.random.default_rng(0)
    values = generator.standard_normal((20, 3)) + 5 * group[:, None] + np.outer(level, [0, 1, 2])
    found = factor_effects(values, level, group, levels=tuple("abcd"), is_ordered=False)

    groups = (group[:, None] == np.arange(5)).astype(float)
    both = np.concatenate([groups, (level[:, None] == np.arange(1, 4)).astype(float)], 1)
    left = [values - x @ np.linalg.lstsq(x, values, rcond=None)[0] for x in (groups, both)]
    without, noise = ((part**2).sum(0) for part in left)
    assert found.eta_squared == pytest.approx((without - noise) / without)
    f = (without - noise) / 3 / (noise / 12)
    assert found.omega_squared == pytest.approx(3 * (f - 1) / (3 * (f - 1) + 20))


def test_rho_equals_scipys_with_one_group_and_compares_within_several() -> None:
    generator = np.random.default_rng(0)
    level = generator.integers(0, 6, 50)
    values = np.round(generator.standard_normal((50, 4)) + np.outer(level, [-1, 0, 0.3, 1]), 1)
    found = factor_effects(values, level, levels=tuple(range(6)), is_ordered=True)
    for i in range(4):
        assert found.rho[i] == pytest.approx(stats.spearmanr(level, values[:, i])[0])

    level, group = crossed(5, 8)
    shifted = (level + 100 * group)[:, None].astype(float)
    within = factor_effects(shifted, level, group, levels=tuple(range(5)), is_ordered=True)
    assert within.rho[0] == pytest.approx(1)
    assert within.eta_squared[0] == pytest.approx(1)
    assert within.d[0] == np.inf


def test_p_is_that_of_all_deals() -> None:
    """Three levels in two groups have 36 deals; each is tried."""
    level, group = crossed(3, 2)
    values = np.array([0.0, 1.0, 5.0, 0.2, 0.3, 4.0])
    within = values - np.repeat([values[:3].mean(), values[3:].mean()], 3)
    every = [np.array([*a, *b]) for a in orders(range(3)) for b in orders(range(3))]
    squares = [sum(within[deal == j].sum() ** 2 / 2 for j in range(3)) for deal in every]
    exact = np.mean(np.array(squares) >= squares[0] - 1e-9)

    design = Design(level, group, 3, False)
    p = permutation_p(within[:, None], None, design, permutations=20_000, tests=1, seed=0)

    assert p[0] == pytest.approx(exact, abs=0.01)
    assert design.lowest_p == pytest.approx(6 / 36)
    assert exact == pytest.approx(design.lowest_p)


def test_deals_stay_within_groups_and_are_all_as_likely() -> None:
    level, group = crossed(3, 2)
    design = Design(level, group, 3, False)

    dealt = deals(design, 6000, np.random.default_rng(0))

    assert (np.sort(dealt.reshape(-1, 2, 3), 2) == np.arange(3)).all()
    _, counts = np.unique(dealt, axis=0, return_counts=True)
    assert len(counts) == 36
    assert stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize("is_ordered", [False, True])
def test_without_an_effect_p_is_uniform_and_discoveries_are_rare(is_ordered: bool) -> None:
    """Sparse values with strong groups, as features have them; twelve runs of 100 features."""
    level, group = crossed(6, 10)
    p: list[NDArray[np.float64]] = []
    discovering = 0
    for seed in range(12):
        generator = np.random.default_rng(seed)
        fires = generator.random((60, 100)) < 0.4
        values = fires * np.abs(generator.standard_normal((60, 100)) + 2 * (group % 3)[:, None])
        found = factor_effects(
            csr_matrix(values), level, group, levels=tuple(range(6)), is_ordered=is_ordered,
            permutations=400, seed=seed,
        )  # fmt: skip
        p.append(found.p)
        discovering += len(found.responding) > 0

    every = np.concatenate(p)
    assert len(every) == 1200
    for bar in (0.005, 0.05, 0.2):
        spread = 3 * (bar / 1200) ** 0.5
        assert (every <= bar).mean() <= bar + spread
        assert (every <= bar).mean() >= (bar / 2 if is_ordered else bar) - spread
    assert discovering <= 2


def test_among_many_features_without_effect_those_with_one_are_found() -> None:
    level, group = crossed(8, 6)
    generator = np.random.default_rng(0)
    values = np.abs(generator.standard_normal((48, 300)))
    curves = {10: level, 20: 7 - level, 30: -((level - 3.5) ** 2) / 2, 40: (level - 3.5) ** 2 / 2}
    for feature, curve in curves.items():
        values[:, feature] += 2 * curve - 2 * curve.min()

    found = factor_effects(
        values, level, group, levels=tuple(range(8)), is_ordered=True, permutations=300
    )

    assert set(curves) <= set(found.responding.tolist())
    assert 0 < found.p.min() < 0.05 / 300
    assert len(found.responding) <= 6
    shapes = {f: found.shapes[f].name for f in curves}
    assert shapes == {10: "rising", 20: "falling", 30: "peaked", 40: "dipped"}
    assert found.rho[10] > 0.9
    assert found.rho[20] < -0.9
    assert abs(found.rho[30]) < 0.3
    assert set(found.table()["feature"][:4]) == set(curves)


def test_one_surrounding_knows_no_noise_but_a_trend() -> None:
    level = np.arange(12)
    values = np.stack([level + 0.1, np.cos(level * 9.0), np.zeros(12)], 1)

    ordered = factor_effects(values, level, levels=tuple(range(12)), is_ordered=True)
    unordered = factor_effects(values, level, levels=tuple("abcdefghijkl"), is_ordered=False)

    assert ordered.feature.tolist() == [0, 1]
    assert np.isnan(ordered.eta_squared).all()
    assert ordered.responding.tolist() == [0]
    assert (unordered.p == 1).all()
    assert len(unordered.responding) == 0


def test_a_feature_that_never_changes_has_no_effect() -> None:
    level, group = crossed(3, 4)
    values = np.stack([np.full(12, 2.5), group + 1.0, level + 1.0], 1)

    found = factor_effects(values, level, group, levels=tuple("abc"), is_ordered=False)

    assert found.p[:2].tolist() == [1, 1]
    assert np.isnan(found.eta_squared[:2]).all()
    assert found.d.tolist() == [0, 0, np.inf]
    assert found.responding.tolist() == [2]


def test_false_discovery_rates_equal_the_definition() -> None:
    p = np.array([0.001, 0.02, 0.03, 0.5, 0.9])
    expected = [min(p[j] * 5 / (j + 1) for j in range(i, 5)) for i in range(5)]

    assert benjamini_hochberg(p) == pytest.approx(expected)


def test_shapes_are_told() -> None:
    assert shape_of(np.array([0.0, 0, 1, 1, 5])) == ("rising", 1)
    assert shape_of(np.array([3.0, 1, 1, 0])).name == "falling"
    assert shape_of(np.array([0.0, 1, 3, 2, 0])).name == "peaked"
    assert shape_of(np.array([3.0, 0, 0, 1, 4])).name == "dipped"
    assert shape_of(np.array([0.0, 1, 0, 1, 0, 1])).name == "irregular"
    assert shape_of(np.ones(4)).name == "flat"
    peak = shape_of(np.array([0.0, 1, 0]))
    assert peak.monotone == pytest.approx(1 - 0.5 / (2 / 3))  # best rising: 0, 1/2, 1/2


def test_shapes_of_inputs_must_agree() -> None:
    with pytest.raises(ShapeError, match="3 inputs have 2 levels"):
        factor_effects(np.ones((3, 1)), np.arange(2), levels=(1, 2), is_ordered=True)
    with pytest.raises(SettingsError, match="at least two levels"):
        factor_effects(np.ones((3, 1)), np.zeros(3, int), levels=(1, 2), is_ordered=True)


def test_no_firing_feature_and_an_absent_level_are_no_trouble() -> None:
    level = np.array([0, 0, 2, 2])
    nothing = factor_effects(np.zeros((4, 5)), level, levels=("a", "b", "c"), is_ordered=True)
    some = factor_effects(
        np.array([[1.0], [2], [5], [6]]), level, levels=("a", "b", "c"), is_ordered=True
    )

    assert len(nothing.table()) == len(nothing.responding) == 0
    assert some.table().iloc[0][["highest", "lowest"]].tolist() == ["c", "a"]
    assert np.isnan(some.means[0, 1])
