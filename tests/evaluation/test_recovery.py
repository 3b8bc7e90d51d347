"""What has been found of a world that is known: all, nothing, or what training finds."""

import re
from pathlib import Path

import pytest
import torch

import probe_sae
from probe_sae.errors import SettingsError
from probe_sae.evaluation import recovery
from probe_sae.recording.synthetic import World, WorldSettings
from probe_sae.sae import SAE, TopK, make_sae
from probe_sae.training import TrainSettings, train

SMALL = WorldSettings(features=96, d_model=48, l0=3.0, seed=5)


def untrained(world: World, features: int, seed: int = 0) -> SAE:
    settings = TopK(features=features, k=3)
    return make_sae(settings, world.widths, torch.Generator().manual_seed(seed))


def test_the_truth_is_found_in_the_truth() -> None:
    world = World(SMALL)
    sae = untrained(world, 96)
    order = torch.randperm(96, generator=torch.Generator().manual_seed(1))
    sae.load_state_dict(
        sae.state_dict() | {"W_dec": world.directions[order], "W_enc": world.directions[order]}
    )

    found = recovery(sae, world, rows=4000)

    assert found.mmcs == pytest.approx(1, abs=1e-5)
    assert found.mcc == pytest.approx(1, abs=1e-5)
    assert found.recovered == found.precision == found.f1 == found.uniqueness == 1
    assert found.detection_f1 > 0.55
    assert found.true_l0 == pytest.approx(3, abs=0.2)


@pytest.mark.parametrize("seed", [0, 5])
def test_nothing_is_found_before_training_even_with_the_worlds_own_seed(seed: int) -> None:
    world = World(SMALL)

    found = recovery(untrained(world, 96, seed), world, rows=2000)

    assert found.recovered == found.f1 == 0
    assert found.mmcs == pytest.approx(found.mmcs_at_chance, abs=0.02)
    assert found.detection_f1 < 0.3


def test_training_on_a_world_finds_it() -> None:
    world = World(SMALL, rows=100_000)
    run = TrainSettings(rows=200_000, batch_size=512)

    found = recovery(train(world, TopK(features=96, k=3), run), world, rows=8000)

    assert found.recovered > 0.6
    assert found.mmcs > found.mmcs_at_chance + 0.4
    assert found.detection_f1 > 0.6
    assert found.fraction_unexplained < 0.25


def test_a_dictionary_of_another_width_is_refused() -> None:
    sae = make_sae(TopK(features=8, k=2), (7,), torch.Generator())

    with pytest.raises(SettingsError, match="width 48"):
        recovery(sae, World(SMALL))


def test_the_guides_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    guide = (Path(probe_sae.__file__).parent / "guide" / "worlds.md").read_text("utf-8")
    code, _, rest = guide.partition("```python\n")[2].partition("```\n```\n")

    exec(code.replace("500_000", "20_000"), {})

    printed = capsys.readouterr().out.strip()
    numbers = re.compile(r"\d[\d.]*")
    assert numbers.sub("#", printed) == numbers.sub("#", rest.partition("\n```")[0])
