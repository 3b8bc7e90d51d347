"""Synthetic worlds are what they say: rates, trees, groups, rows that are sums of directions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from probe_sae.errors import SettingsError
from probe_sae.recording.synthetic import World, WorldSettings, like_synthsaebench, truth_of

TREES = WorldSettings(features=300, d_model=20, l0=12, roots=10, branching=3, depth=2, grouped=0.4)
ROWS = 40_000


@pytest.mark.parametrize(
    "settings", [WorldSettings(), TREES, replace(TREES, is_exclusive=True, grouped=0.0)]
)
def test_features_fire_as_often_as_it_says(settings: WorldSettings) -> None:
    world = World(settings)

    truth = truth_of(world.firings(ROWS, 3), settings.features)

    spread = np.sqrt(world.rates * (1 - world.rates) / ROWS)
    assert np.abs((truth.mean(0) - world.rates) / spread).max() < 5
    assert world.rates.max() <= settings.commonest + 1e-9
    assert settings.roots or world.rates.sum() == pytest.approx(settings.l0)


@pytest.mark.parametrize("is_exclusive", [False, True])
def test_children_fire_with_their_parents_only(is_exclusive: bool) -> None:
    world = World(replace(TREES, is_exclusive=is_exclusive))
    truth, nodes = truth_of(world.firings(ROWS, 4), 300), world._nodes

    pairs = together = 0
    for node in np.flatnonzero(nodes.features >= 0):
        below = nodes.children[nodes.children_start[node] : nodes.children_start[node + 1]]
        children = truth[:, nodes.features[below]]
        assert not children[~truth[:, nodes.features[node]]].any()
        pairs += len(below) > 0
        together += int((children.sum(1) > 1).sum())
    assert pairs == 10 + 30
    assert (together == 0) is is_exclusive


def test_members_of_a_group_fire_together_more_than_by_chance() -> None:
    world = World(WorldSettings(grouped=1.0))
    truth, nodes = truth_of(world.firings(ROWS, 5), 1024), world._nodes
    gates = np.flatnonzero(nodes.features < 0)

    assert len(gates) == 128
    ratios = []
    for gate in gates[:20]:
        below = nodes.children[nodes.children_start[gate] : nodes.children_start[gate + 1]]
        one, other = truth[:, nodes.features[below[0]]], truth[:, nodes.features[below[1]]]
        ratios.append((one & other).mean() / (one.mean() * other.mean()))
    assert np.median(ratios) > 2


def test_rows_are_sums_of_directions() -> None:
    world = World(WorldSettings(features=50, d_model=9, l0=4, noise=0.0, offset=2.0, spread=0.1))
    firings = world.firings(100, 1)

    rows = world.rows(firings, 1)

    codes = torch.zeros(100, 50)
    at = np.repeat(np.arange(100), np.diff(firings.starts))
    codes[at, firings.features] = torch.from_numpy(firings.strengths)
    torch.testing.assert_close(rows - world._offset, codes @ world.directions)
    assert float(world._offset.norm()) == pytest.approx(2)
    assert float(torch.from_numpy(firings.strengths).mean()) == pytest.approx(1, abs=0.05)
    noisy = World(replace(world.settings, noise=0.3)).rows(firings, 1) - rows
    assert float(noisy.std()) == pytest.approx(0.3, rel=0.1)


def test_a_world_is_a_stream_that_can_be_gone_on_with() -> None:
    world = World(WorldSettings(features=50, d_model=9, l0=4), rows=20_000)

    whole = list(world.epoch(0, 700))

    assert sum(len(batch) for batch in whole) == 20_000
    for start in (1, 13, 28):
        rest = list(world.epoch(0, 700, start))
        assert torch.equal(torch.cat(rest), torch.cat(whole[start:]))
    assert not torch.equal(next(world.epoch(1, 700)), whole[0])
    assert world.sample(10_000).shape == (10_000, 9)
    assert not torch.equal(world.sample(700), whole[0])


def test_the_benchmarks_shape_has_its_figures() -> None:
    world = World(like_synthsaebench())

    assert world.rates.sum() == pytest.approx(34, abs=1)
    assert world.settings.in_trees == 128 * 85
    assert world.directions.shape == (16_384, 768)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"features": 0}, "features is 0"),
        ({"l0": 1e9}, "l0 is"),
        ({"roots": 1000}, "85000 nodes"),
        ({"grouped": 1.5}, "0 to 1"),
        ({"noise": -1.0}, "at least 0"),
    ],
)
def test_impossible_worlds_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        replace(WorldSettings(), **wrong)
