"""A run that was interrupted or killed and resumed ends with the bits of one that was not."""

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from probe_sae.errors import FormatError, OutputExists, SettingsError
from probe_sae.sae import ARCHITECTURES, TopK, load_sae
from probe_sae.store import Store, shuffle_store
from probe_sae.training import TrainSettings, learner
from probe_sae.training import train as train_anywhere
from probe_sae.training.learner import Learner
from probe_sae.training.loop import Training
from probe_sae.training.runs import Run

from .killed import RUN, check_same, make_store, settings, sites
from .test_train import world

train = partial(train_anywhere, device="cpu")
STEPS = RUN.steps
RUN_SHORT = replace(RUN, rows=2 * RUN.batch_size)
ARCHS = sorted(ARCHITECTURES)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("resume") / "store")


def _interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals) -> None:
    """Send a signal in the midst of a step."""
    real = Training._step

    def interrupted(self: Training, batch: torch.Tensor, at: Any, began: float) -> None:
        if at.step == step:
            signal.raise_signal(number)
        real(self, batch, at, began)

    monkeypatch.setattr(Training, "_step", interrupted)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupts_at_any_step_change_no_bit(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arch: str,
    number: signal.Signals,
    request: pytest.FixtureRequest,
) -> None:
    train(store, settings(arch), RUN, site=sites(arch), out=tmp_path / "whole")
    few = STEPS - 2 if request.config.getoption("--long") else 2
    steps = sorted(random.Random(arch).sample(range(1, STEPS - 1), few))

    for step in [0, *steps, STEPS - 1]:
        with monkeypatch.context() as patched:
            _interrupt_at(patched, step, number)
            with pytest.raises(KeyboardInterrupt):
                train(
                    store,
                    settings(arch),
                    RUN,
                    site=sites(arch),
                    out=tmp_path / "sae",
                    device="cpu",
                    resume=True,
                )
    train(
        store,
        settings(arch),
        RUN,
        site=sites(arch),
        out=tmp_path / "sae",
        device="cpu",
        resume=True,
    )

    check_same(tmp_path / "sae", tmp_path / "whole")


def test_dead_features_that_were_asked_for_some_steps_ago_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, which is asked every eighth step, and would be asked anew when it goes on."""
    monkeypatch.setitem(learner.LOOK_EVERY, "cpu", 8)
    run = TrainSettings(rows=8_000, batch_size=64, lr=5e-3)
    rows = world(4_000, 1, features=8)  # of 64 features most die
    names = "whole", "sae"
    for name in names:
        out = tmp_path / name
        for step in (5, 49, 83, 90) if name == "sae" else ():
            with monkeypatch.context() as patched:
                _interrupt_at(patched, step, signal.SIGINT)
                with pytest.raises(KeyboardInterrupt):
                    train(rows, TopK(features=64, k=3), run, out=out, resume=True)
        train(rows, TopK(features=64, k=3), run, out=out, resume=True)

    whole, resumed = (load_sae(tmp_path / name) for name in names)
    assert whole.log[-1]["dead_fraction"] > 0.1
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


@pytest.mark.parametrize("numbers", [[64], [-1], [[3]], [0.5]])
def test_a_damaged_list_of_dead_features_is_refused(numbers: list[Any]) -> None:
    made = Learner(
        Run(TopK(features=64, k=3), 0),
        (24,),
        world(100, 1),
        TrainSettings(rows=1000, batch_size=64),
        torch.device("cpu"),
    )
    made.step(world(64, 2), 0)
    tensors, facts = made.state()
    made.restore(tensors, facts)
    assert tensors["known_dead"].numel() == 0

    with pytest.raises(FormatError, match="known_dead"):
        made.restore(tensors | {"known_dead": torch.tensor(numbers)}, facts)


@pytest.mark.parametrize("arch", ARCHS)
def test_kills_at_any_moment_change_no_bit(
    tmp_path: Path, arch: str, request: pytest.FixtureRequest
) -> None:
    is_long = bool(request.config.getoption("--long"))
    if not is_long and arch not in ("topk", "batchtopk", "jumprelu", "kl"):
        pytest.skip("with --long")
    kills = "50" if is_long else "4"
    script = Path(__file__).with_name("killed.py")

    done = subprocess.run(
        [sys.executable, "-P", script, arch, kills, tmp_path],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{arch}: {kills} times SIGKILL" in done.stdout


def test_what_a_killed_process_left_half_written_is_not_kept(store: Store, tmp_path: Path) -> None:
    (tmp_path / "sae.partial").mkdir()
    (tmp_path / "sae.partial" / ".tmpQeQ6hJ").write_bytes(b"safetensors writes beside, too")

    train(store, settings("topk"), RUN, site="site", out=tmp_path / "sae", resume=True)

    assert {p.name for p in (tmp_path / "sae").iterdir()} == {
        "config.json",
        "log.jsonl",
        "sae.safetensors",
    }


def test_another_run_is_not_continued(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        _interrupt_at(patched, 5, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            train(store, settings("topk"), RUN, site="site", out=tmp_path / "sae")
    begun = tmp_path / "sae.partial" / "training.safetensors"

    with pytest.raises(OutputExists, match="resume=True"):
        train(store, settings("topk"), RUN, site="site", out=tmp_path / "sae")
    with pytest.raises(SettingsError, match=r"\(features 256 there, 32 here, k 2 there, 3 here\)"):
        train(store, TopK(32, 3), RUN, site="site", out=tmp_path / "sae", resume=True)
    begun.write_bytes(begun.read_bytes()[:-100])
    with pytest.raises(FormatError, match="start anew with force=True"):
        train(
            store,
            settings("topk"),
            RUN,
            site="site",
            out=tmp_path / "sae",
            device="cpu",
            resume=True,
        )


def test_a_training_goes_on_over_the_same_rows_only(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = store["site"][:].float()
    other = rows.clone()
    other[0] += 1
    shuffled = shuffle_store(store, tmp_path / "shuffled", seed=1)
    begun: dict[str, dict[str, Any]] = {
        "store": {"data": store, "site": "site"},
        "tensor": {"data": rows},
    }
    with monkeypatch.context() as patched:
        _interrupt_at(patched, 5, signal.SIGINT)
        for name, given in begun.items():
            with pytest.raises(KeyboardInterrupt):
                train(settings=settings("topk"), trainer=RUN, out=tmp_path / name, **given)
        train(rows, settings("topk"), RUN_SHORT, out=tmp_path / "finished")

    with pytest.raises(SettingsError, match=r"begun otherwise \(manifest"):
        train(shuffled, settings("topk"), RUN, site="site", out=tmp_path / "store", resume=True)
    with pytest.raises(SettingsError, match=r"begun otherwise \(tensors\)"):
        train(other, settings("topk"), RUN, out=tmp_path / "tensor", resume=True)
    with pytest.raises(SettingsError, match="is finished, and was trained with another tensors"):
        train(other, settings("topk"), RUN_SHORT, out=tmp_path / "finished", resume=True)
    train(rows, settings("topk"), RUN, out=tmp_path / "tensor", resume=True)


def test_a_finished_run_is_left_as_it_is(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = train(store, settings("topk"), RUN, site="site", out=tmp_path / "sae")
    two = train(store, settings("topk"), RUN, site="site", out=tmp_path / "sae", resume=True)

    with pytest.raises(SettingsError, match="is finished, and was trained with another settings"):
        train(store, TopK(32, 3), RUN, site="site", out=tmp_path / "sae", resume=True)

    assert torch.equal(one.directions(), two.directions())
    assert "nothing to do" in capsys.readouterr().err
