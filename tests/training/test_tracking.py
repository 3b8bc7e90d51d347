"""Trackers are told the log and nothing else, go on where a training goes on, and harm nothing."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import probe_sae
from probe_sae.errors import SettingsError
from probe_sae.sae import SAE, TopK
from probe_sae.training import TrainSettings, train, train_several
from probe_sae.training.loop import Training
from probe_sae.training.trackers import Line, TrackedRun
from probe_sae.training.tracking import _known

from .fake_trackers import ENDS, FAKES, Told
from .test_train import world

RUN = TrainSettings(rows=6_000, batch_size=256, lr=2e-3, save_seconds=0)
SMALL = TopK(features=32, k=3)
ROWS = world(1_000, 1)


def consumed(steps: int) -> int:
    """Return the rows of so many steps: a tenth is held out, and an epoch's last batch shorter."""
    return steps // 4 * 900 + steps % 4 * 256


CONSUMED = consumed(27)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Told:
    """Put stand-ins in the place of all trackers' packages, and work in an empty folder."""
    told = Told()
    for name, fake in FAKES.items():
        for package, module in fake(told).items():
            monkeypatch.setitem(sys.modules, package, module)
        monkeypatch.delitem(sys.modules, f"probe_sae.training.trackers.to_{name}", raising=False)
    monkeypatch.chdir(tmp_path)
    return told


def learn(**how: Any) -> SAE:
    return train(ROWS, SMALL, RUN, device="cpu", **how)


def before_step(monkeypatch: pytest.MonkeyPatch, step: int, do: Callable[[], Any]) -> None:
    real = Training._step

    def wrapped(self: Training, rows: torch.Tensor, at: Any, began: float) -> None:
        if at.step == step:
            do()
        real(self, rows, at, began)

    monkeypatch.setattr(Training, "_step", wrapped)


def break_off() -> None:
    raise RuntimeError("as if killed")


def timeless(lines: Any) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def test_a_function_is_told_every_line_and_how_it_ended() -> None:
    seen: list[tuple[TrackedRun, Line]] = []

    sae = learn(track=lambda run, line: seen.append((run, line)))

    *lines, final = [line for _, line in seen]
    assert lines == sae.log
    assert final["rows"] == sae.log[-1]["rows"]
    held = ROWS[torch.randperm(1_000, generator=torch.Generator().manual_seed(0))[900:]]
    codes = sae.encode(held)
    error = (held - sae.decode(codes)).double().square().sum()
    spread = (held.double() - held.double().mean(0)).square().sum()
    assert final["final_rows_evaluated"] == 100
    assert final["final_fraction_unexplained"] == pytest.approx(float(error / spread), rel=1e-5)
    assert final["final_l0"] == pytest.approx(float((codes > 0).sum() / 100))
    assert final["final_dead_fraction"] == float((~(codes > 0).any(0)).double().mean())
    (run,) = {id(run): run for run, _ in seen}.values()
    assert (run.name, run.group) == ("topk", "")
    assert run.flat_config["settings.k"] == 3
    assert run.flat_config["trainer.lr"] == 2e-3


def test_being_tracked_changes_no_bit(told: Told, tmp_path: Path) -> None:
    learn(out=tmp_path / "plain")
    learn(out=tmp_path / "tracked", track=list(FAKES))

    for file in ("sae.safetensors", "config.json"):
        one, other = (tmp_path / name / file for name in ("plain", "tracked"))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("name", FAKES)
def test_a_tracker_gets_config_lines_final_metrics_and_its_end(
    told: Told, tmp_path: Path, name: str
) -> None:
    sae = learn(out=tmp_path / "sae", track=name)

    (run,) = told.runs.values()
    lines = {line["rows"]: dict(line) for line in sae.log}
    final = run["lines"][CONSUMED]
    assert set(final) - set(lines[CONSUMED]) == {
        f"final_{n}" for n in ("rows_evaluated", "fraction_unexplained", "l0", "dead_fraction")
    }
    run["lines"][CONSUMED] = {n: value for n, value in final.items() if n in lines[CONSUMED]}
    assert run["lines"] == lines
    config = str(run["begun"][0]["config"])
    for part in ("batch_size", "features", "device", "2000" if "2000" in config else "0.002"):
        assert part in config
    assert run["end"] == ENDS[name]["finished"]


@pytest.mark.parametrize("name", FAKES)
def test_each_of_several_is_a_run_of_its_own(told: Told, tmp_path: Path, name: str) -> None:
    saes = train_several(
        ROWS, [SMALL, TopK(32, 4)], RUN, out=tmp_path / "saes", track=name, device="cpu"
    )

    ends = [run["lines"][CONSUMED]["fraction_unexplained"] for run in told.runs.values()]
    assert ends == [sae.log[-1]["fraction_unexplained"] for sae in saes.values()]
    facts = [str(run["begun"][0]) for run in told.runs.values()]
    assert all("saes" in fact for fact in facts)
    assert ["k3" in fact for fact in facts] == [True, False]
    assert ["k4" in fact for fact in facts] == [False, True]


@pytest.mark.parametrize("name", FAKES)
@pytest.mark.parametrize("how", ["interrupted", "failed"])
def test_a_resumed_training_goes_on_with_the_same_run(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    out, saved = tmp_path / "sae", Training._save
    with monkeypatch.context() as patched:
        if how == "interrupted":
            before_step(patched, 12, lambda: signal.raise_signal(signal.SIGINT))
        else:  # and what came after step 8 was not saved
            before_step(patched, 12, break_off)
            patched.setattr(
                Training,
                "_save",
                lambda self, folder, whats, at: at.step > 8 or saved(self, folder, whats, at),
            )
        with pytest.raises((KeyboardInterrupt, RuntimeError)):
            learn(out=out, track=name)
    (run,) = told.runs.values()
    assert max(run["lines"]) >= consumed(12)
    assert run["end"] == ENDS[name][how]

    sae = learn(out=out, track=[name], resume=True)

    assert len(told.runs) == 1
    assert run["end"] == ENDS[name]["finished"]
    assert len(run["begun"]) == 2
    assert timeless(run["lines"].values())[:-1] == timeless(sae.log)[:-1]
    assert "final_l0" in run["lines"][CONSUMED]
    if name == "mlflow":  # it would keep both of two numbers of one step
        assert run["calls"] == len(sae.log) + 1
    if name == "tensorboard":
        next_rows = consumed({"interrupted": 13, "failed": 8}[how]) + 256
        assert run["begun"][1]["purge_step"] == next_rows


def test_a_tracker_that_comes_later_is_told_what_was_before(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Line] = []
    with monkeypatch.context() as patched:
        before_step(patched, 12, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            learn(out=tmp_path / "sae")

    sae = learn(
        out=tmp_path / "sae", track=["wandb", lambda _, line: seen.append(line)], resume=True
    )

    (run,) = told.runs.values()
    assert list(run["lines"]) == [line["rows"] for line in sae.log]
    assert seen[:-1] == sae.log


@pytest.mark.parametrize("name", FAKES)
def test_a_tracker_that_fails_is_left_alone(
    told: Told, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told.fails_at, seen = 2_000, list[Line]()

    sae = learn(out=tmp_path / "sae", track=[lambda _, line: seen.append(line), name])

    (run,) = told.runs.values()
    warnings = [s for s in capsys.readouterr().err.splitlines() if "the tracker" in s]
    assert max(run["lines"]) < 2_000
    assert warnings == [
        f"warning: the tracker {name} failed and is told no more (OSError: the network is down); "
        "log.jsonl has every line."
    ]
    assert seen[:-1] == sae.log


@pytest.mark.parametrize("name", FAKES)
def test_a_missing_package_is_named_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    package = {"tensorboard": "torch.utils.tensorboard"}.get(name, name)
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(SettingsError, match=rf"{name} needs a package.*probe_sae\[track\]"):
        train(tmp_path / "no store", SMALL, RUN, out=tmp_path / "sae", track=name)

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("track", "message"),
    [
        ("wanbd", "Near it: wandb"),
        (["wandb", "wandb"], "given twice"),
        ([3], "no tracker 3; there are tensorboard, wandb, mlflow, or give a function"),
        (3, "track is 3; expected"),
    ],
)
def test_what_is_no_tracker_is_refused(told: Told, track: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        learn(track=track)


def test_a_tracker_that_cannot_begin_stops_what_has_not_begun(told: Told, tmp_path: Path) -> None:
    def refuse(**facts: Any) -> None:
        raise PermissionError("log in first.")

    sys.modules["wandb"].__dict__["init"] = refuse

    with pytest.raises(SettingsError, match=r"wandb cannot begin: log in first\. Mend that"):
        learn(out=tmp_path / "sae", track=["mlflow", "wandb"])

    assert [run["end"] for run in told.runs.values()] == ["FAILED"]
    assert not list(tmp_path.iterdir())


def test_a_run_that_the_user_has_begun_is_used_and_left_open(told: Told) -> None:
    wandb = sys.modules["wandb"].__dict__
    wandb["run"] = wandb["Run"]("theirs")

    learn(track="wandb")

    assert list(told.runs) == ["theirs"]
    assert told.runs["theirs"]["begun"][0]["config"]["arch"] == "topk"
    assert "final_l0" in told.runs["theirs"]["lines"][CONSUMED]
    assert "end" not in told.runs["theirs"]


@pytest.mark.parametrize("bad", ["../../x", "a/b", "", ".", 7, None, "x" * 300])
def test_ids_from_a_file_name_no_place_outside(bad: Any) -> None:
    assert _known({"tensorboard": ["fine_1.2-3"]}, "tensorboard", 1) == ["fine_1.2-3"]
    assert _known({"tensorboard": [bad]}, "tensorboard", 1) == [None]
    assert _known({"tensorboard": ["fine"]}, "tensorboard", 2) == [None, None]
    assert _known(bad, "tensorboard", 1) == [None]


def test_a_finished_run_is_known_again_whoever_watches_it(told: Told, tmp_path: Path) -> None:
    learn(out=tmp_path / "sae", track="wandb")

    learn(out=tmp_path / "sae", track="mlflow", resume=True)

    assert len(told.runs) == 1


def test_a_function_that_changes_its_line_changes_no_log() -> None:
    sae = learn(track=lambda _, line: dict.clear(line))  # type: ignore[arg-type]

    assert all("loss" in line for line in sae.log)


def test_the_guides_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    guide = (Path(probe_sae.__file__).parent / "guide" / "trackers.md").read_text("utf-8")
    code, _, rest = guide.partition("```python\n")[2].partition("```\n```\n")

    exec(code, {})

    assert capsys.readouterr().out == rest.partition("```")[0]
