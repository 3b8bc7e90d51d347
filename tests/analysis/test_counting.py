"""Counts equal brute force on random codes, hostile ones included, however they are cut."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import fisher_exact, kurtosis, skew

from probe_sae.analysis import cofiring as cofiring_module
from probe_sae.analysis import tally as tally_module
from probe_sae.analysis.by_feature import ByFeature
from probe_sae.analysis.codes import Block
from probe_sae.analysis.cofiring import CoFiring, jaccard, npmi, p_values, phi, significant
from probe_sae.analysis.modules import agreement_of, modules_of
from probe_sae.analysis.tally import PLACES, Tally

ROWS, FEATURES, TOKENS = 900, 40, 30


def random_codes(seed: int = 0, rows: int = ROWS, features: int = FEATURES) -> NDArray[np.float32]:
    generator = np.random.default_rng(seed)
    rates = generator.uniform(0, 0.4, features)
    rates[3] = 0
    fires = generator.random((rows, features)) < rates
    return np.where(fires, generator.gamma(2, 1, fires.shape) + 0.01, 0).astype(np.float32)


def block_of(codes: NDArray[np.float32], first: int = 0, seed: int = 0) -> Block:
    """Contexts of nine rows; tokens depend on the row alone."""
    row = np.arange(first, first + len(codes))
    local, feature = np.nonzero(codes)
    starts = np.concatenate([[0], np.cumsum((codes != 0).sum(1))])
    token = np.random.default_rng(seed + 5).integers(-1, TOKENS, 10_000)[row]
    value = codes[local, feature]
    return Block(row, row // 9, row % 9 * 7, token, starts, feature.astype(np.int32), value)


def in_blocks(codes: NDArray[np.float32], size: int) -> list[ByFeature]:
    starts = range(0, len(codes), size)
    return [ByFeature.of(block_of(codes[i : i + size], i), codes.shape[1]) for i in starts]


def tallied(codes: NDArray[np.float32], size: int = ROWS) -> Tally:
    tally = Tally(codes.shape[1], TOKENS, None, 0)
    for firings in in_blocks(codes, size):
        tally.add(firings)
    return tally


@pytest.mark.parametrize("size", [9, 99, ROWS])
@pytest.mark.parametrize("offset", [0, 1000])
def test_moments_equal_brute_force_beside_a_large_mean(size: int, offset: int) -> None:
    """Sums of plain powers would lose every digit of the fourth moment."""
    codes = random_codes()
    codes[codes > 0] += offset
    columns = tallied(codes, size).columns()

    for i in range(FEATURES):
        fired = codes[:, i][codes[:, i] > 0].astype(np.float64)
        if len(fired) > 3:
            assert columns["mean"][i] == pytest.approx(fired.mean(), rel=1e-10)
            assert columns["std"][i] == pytest.approx(fired.std(), rel=1e-8)
            assert columns["skew"][i] == pytest.approx(skew(fired), abs=1e-7)
            assert columns["kurtosis"][i] == pytest.approx(kurtosis(fired, fisher=False), rel=1e-7)


def test_activations_that_do_not_vary_have_no_shape() -> None:
    codes = np.zeros((90, 2), np.float32)
    codes[::2, 0] = 3.0
    columns = tallied(codes).columns()

    assert (columns["std"][0], columns["skew"][0], columns["kurtosis"][0]) == (0, 0, 0)
    assert np.isnan(columns["std"][1])


@pytest.mark.parametrize("size", [9, 99])
def test_how_codes_are_cut_changes_nothing(size: int) -> None:
    one, two = tallied(random_codes()), tallied(random_codes(), size)

    for name, column in one.columns().items():
        assert np.allclose(column, two.columns()[name], equal_nan=True), name
    for name in ("value", "row", "context"):
        assert np.array_equal(getattr(one.strongest(), name), getattr(two.strongest(), name))
    for name in ("value", "row"):
        assert np.array_equal(getattr(one.sample(), name), getattr(two.sample(), name))


def test_of_equally_strong_firings_the_first_is_kept() -> None:
    codes = np.zeros((400, 1), np.float32)
    codes[:, 0] = 2.0
    kept = tallied(codes, 90).strongest()

    assert kept.row[0].tolist() == [9 * i for i in range(20)]


def test_places_are_counted_in_doubling_buckets() -> None:
    codes = random_codes()
    columns = tallied(codes).columns()
    pos = np.arange(ROWS) % 9 * 7
    bucket = np.where(pos == 0, 0, np.floor(np.log2(np.maximum(pos, 1))).astype(int) + 1)

    for i in range(FEATURES):
        expected = np.bincount(bucket[codes[:, i] > 0], minlength=PLACES)
        assert columns["places"][i].tolist() == expected.tolist()


@pytest.mark.parametrize("grid", [(4, 4), (14, 14), (1, 1), (37, 5)])
def test_places_of_images_are_counted_in_a_coarse_grid(grid: tuple[int, int]) -> None:
    height, width = grid
    codes = random_codes(rows=height * width * 3)
    block = block_of(codes)
    block.pos[:] = np.arange(len(codes)) % (height * width)
    tally = Tally(FEATURES, TOKENS, grid, 0)
    tally.add(ByFeature.of(block, FEATURES))

    places = tally.columns()["places"]
    assert places.sum(1).tolist() == (codes > 0).sum(0).tolist()
    assert places.shape[1] <= 64
    assert tally.row_places.max() <= 3 * (tally.row_places.min() + height + width)


def test_rare_tokens_that_are_dropped_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally_module, "COUNTED_TOKENS", 20)
    codes = random_codes()
    exact, token = tallied(codes).columns(), block_of(codes).token
    monkeypatch.setattr(tally_module, "COUNTED_TOKENS", 12)
    tally = tallied(codes, 99)
    columns = tally.columns()

    assert columns["token_undercount"].max() > 0
    for i in range(FEATURES):
        true = np.bincount(token[(codes[:, i] > 0) & (token >= 0)], minlength=TOKENS)
        for n, share in zip(columns["token_ids"][i], columns["token_shares"][i], strict=True):
            if n >= 0:
                count = round(share * exact["firings"][i])
                assert true[n] - columns["token_undercount"][i] <= count <= true[n]


def counted(codes: NDArray[np.float32], size: int, exact: int = 1000) -> CoFiring:
    made = CoFiring(codes.shape[1], exact)
    for firings in in_blocks(codes, size):
        made.add(firings)
    return made


@pytest.mark.parametrize("exact", [1000, 0])
@pytest.mark.parametrize("size", [9, 99, ROWS])
def test_common_rows_equal_brute_force(exact: int, size: int) -> None:
    """In a table of all pairs, and in a list of those that came."""
    codes = random_codes()
    made = counted(codes, size, exact)
    fires = (codes > 0).astype(np.int64)

    members = np.random.default_rng(0).permutation(FEATURES)
    assert np.array_equal(made.between(members), (fires.T @ fires)[np.ix_(members, members)])
    assert made.undercount == 0


@pytest.mark.parametrize("exact", [1000, 0])
def test_the_strongest_partners_equal_brute_force(exact: int) -> None:
    codes = random_codes()
    pairs = counted(codes, 99, exact).pairs(least=3, partners=5)
    fires = (codes > 0).astype(np.float64)
    both = fires.T @ fires
    with np.errstate(invalid="ignore", divide="ignore"):
        expected: Any = np.nan_to_num(np.corrcoef(fires.T))
    np.fill_diagonal(expected, 0)
    expected = np.where(both >= 3, expected, 0).clip(0)

    for i in range(FEATURES):
        mine = pairs.first == i
        best = np.sort(expected[i])[::-1][:5]
        assert np.allclose(pairs.phi[mine], best[best > 0])
        assert np.array_equal(pairs.count[mine], both[i, pairs.second[mine]])


@pytest.mark.parametrize("exact", [1000, 0])
def test_partners_can_be_asked_of_some_among_others(exact: int) -> None:
    codes = random_codes()
    pairs = counted(codes, 99, exact).pairs(2, 3, (range(10, 20), range(20, 40)))
    everything = counted(codes, 99, exact).pairs(2, FEATURES)

    kept = (everything.first >= 10) & (everything.first < 20) & (everything.second >= 20)
    for i in range(10, 20):
        assert np.allclose(
            pairs.phi[pairs.first == i], everything.phi[kept & (everything.first == i)][:3]
        )
    assert set(pairs.first.tolist()) <= set(range(10, 20))


@pytest.mark.parametrize("size", [45, ROWS])
def test_beyond_the_table_no_count_is_further_too_low_than_said(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    codes = random_codes()
    monkeypatch.setattr(cofiring_module, "MOST_PAIRS", 300)
    made = counted(codes, size, 0)
    fires = (codes > 0).astype(np.int64)
    true, found = fires.T @ fires, made.between(np.arange(FEATURES))

    assert made.undercount > 0
    assert (found <= true).all()
    assert (true - found)[~np.eye(FEATURES, dtype=bool)].max() <= made.undercount


def test_threads_change_nothing() -> None:
    codes = random_codes(rows=3000)
    before = torch.get_num_threads()
    try:
        results: list[Any] = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append((tallied(codes, 99).columns(), counted(codes, 99).pairs()))
    finally:
        torch.set_num_threads(before)

    for columns, pairs in results[1:]:
        for name, column in columns.items():
            assert np.array_equal(column, results[0][0][name], equal_nan=column.dtype.kind == "f")
        assert np.array_equal(pairs.phi, results[0][1].phi)


def test_measures_of_two_features_equal_their_formulas() -> None:
    codes = random_codes()
    fires = (codes > 0).astype(np.float64)
    a, b, n = fires[:, 5], fires[:, 6], ROWS
    both, one, two = (np.array([int(x)]) for x in ((a * b).sum(), a.sum(), b.sum()))

    assert phi(both, one, two, n)[0] == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert jaccard(both, one, two)[0] == pytest.approx((a * b).sum() / np.maximum(a, b).sum())
    expected = np.log(both * n / (one * two)) / -np.log(both / n)
    assert npmi(both, one, two, n)[0] == pytest.approx(expected[0])
    table = [[int(both[0]), int((one - both)[0])], [int((two - both)[0])]]
    table[1].append(n - sum(table[0]) - table[1][0])
    exact: Any = fisher_exact(table, "greater")
    assert p_values(both, one, two, n)[0] == pytest.approx(exact.pvalue)


def test_features_that_never_meet_have_the_least_npmi() -> None:
    none, some = np.array([0]), np.array([10])

    assert npmi(none, some, some, 100)[0] == -1
    assert npmi(some, some, some, 100)[0] == pytest.approx(1)
    assert np.isnan(npmi(none, none, some, 100)[0])


def test_few_of_the_pairs_of_independent_features_are_called() -> None:
    """At a rate of 5 %, hardly any of tests whose p-values are uniform."""
    generator = np.random.default_rng(0)
    called = [significant(generator.random(1000), 1000, 0.05).sum() for _ in range(200)]

    assert np.mean([count > 0 for count in called]) < 0.1
    strong = np.concatenate([np.full(50, 1e-9), generator.random(950)])
    assert significant(strong, 1000, 0.05)[:50].all()
    assert not significant(np.full(50, 1e-9), 10**9, 0.01).any()


def grouped_codes(groups: int, size: int, rows: int, seed: int = 0) -> NDArray[np.float32]:
    """Groups whose features fire together, beside others that fire alone."""
    generator = np.random.default_rng(seed)
    opened = generator.random((rows, groups)) < 0.05
    fires = np.repeat(opened, size, 1) & (generator.random((rows, groups * size)) < 0.6)
    alone = generator.random((rows, groups * size)) < 0.03
    return np.concatenate([fires, alone], 1).astype(np.float32)


def test_modules_are_the_groups_that_were_planted() -> None:
    codes = grouped_codes(12, 6, 4000)
    made = counted(codes, 99)
    modules = modules_of(made, made.pairs(), 0)
    truth = np.repeat([*range(12), *[-1] * 12], 6).astype(np.int32)

    assert agreement_of(modules.of_feature, truth) > 0.9
    assert (modules.of_feature[truth < 0] == -1).all()
    assert len(modules.found) == 12
    assert all(module.stability > 0.9 for module in modules.found)
    assert all(module.separation > 0.95 for module in modules.found)
    assert modules.summary["modularity"] > 0.8


def test_independent_features_have_no_modules() -> None:
    made = counted((np.random.default_rng(0).random((3000, 60)) < 0.05).astype(np.float32), 99)
    modules = modules_of(made, made.pairs(), 0)

    assert not modules.found
    assert (modules.of_feature == -1).all()


def test_cohesion_is_the_mean_phi_of_members() -> None:
    codes = grouped_codes(3, 4, 2000)
    made = counted(codes, 99)
    modules = modules_of(made, made.pairs(), 0)

    for module in modules.found:
        members = np.flatnonzero(modules.of_feature == module.module)
        r: Any = np.corrcoef((codes[:, members] > 0).T)
        assert module.cohesion == pytest.approx(r[np.triu_indices(len(members), 1)].mean())
