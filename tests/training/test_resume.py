"""A run that was interrupted or killed and resumed ends with the bits of one that was not."""

import json
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from probe_sae.errors import FormatError, OutputExists, SettingsError
from probe_sae.sae import ARCHITECTURES, TopK
from probe_sae.store import (
    ContextInput,
    RecordedRows,
    SiteInfo,
    Store,
    StoreWriter,
    open_store,
)
from probe_sae.training import TrainSettings, train
from probe_sae.training.loop import Training

RUN = TrainSettings(rows=12_000, batch_size=256, lr=5e-3, dead_after=500, seed=1)
STEPS = RUN.steps
ARCHS = sorted(ARCHITECTURES)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("resume") / "store"
    folder.mkdir()
    rows = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0)).relu_()
    context = np.repeat(np.arange(200, dtype=np.uint32), 20)
    columns = {"doc": context, "context": context, "pos": context, "token": context.astype("i4")}
    contexts = [ContextInput(i, i, "", 0, np.zeros(20, np.int32)) for i in range(200)]
    with StoreWriter(folder, [SiteInfo("site", 16, "float32")], "text") as writer:
        writer.append(RecordedRows({"site": rows}, columns, contexts))
        writer.finish({})
    return open_store(folder)


def settings(arch: str) -> TopK:
    return ARCHITECTURES[arch](features=256, k=2)


def _interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals) -> None:
    """Send a signal in the midst of a step."""
    real = Training._step

    def interrupted(self: Training, rows: torch.Tensor, at: int) -> Any:
        if at == step:
            signal.raise_signal(number)
        return real(self, rows, at)

    monkeypatch.setattr(Training, "_step", interrupted)


def _same(one: Path, other: Path) -> None:
    assert {p.name for p in one.iterdir()} == {p.name for p in other.iterdir()}
    for file in ("sae.safetensors", "config.json"):
        assert (one / file).read_bytes() == (other / file).read_bytes()
    logs = [
        [json.loads(s) for s in (p / "log.jsonl").read_text().splitlines()] for p in (one, other)
    ]
    assert [line | {"seconds": 0} for line in logs[0]] == [
        line | {"seconds": 0} for line in logs[1]
    ]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupts_at_any_step_change_no_bit(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str, number: signal.Signals
) -> None:
    train(store, settings(arch), RUN, out=tmp_path / "whole", device="cpu")
    steps = sorted(random.Random(arch).sample(range(STEPS), 2))

    for step in [0, *steps, STEPS - 1]:
        with monkeypatch.context() as patched:
            _interrupt_at(patched, step, number)
            with pytest.raises(KeyboardInterrupt):
                train(store, settings(arch), RUN, out=tmp_path / "sae", device="cpu", resume=True)
    train(store, settings(arch), RUN, out=tmp_path / "sae", device="cpu", resume=True)

    _same(tmp_path / "sae", tmp_path / "whole")


def _in_a_child(store: Store, arch: str, out: Path, lives: float | None) -> bool:
    """Train in a forked process that is killed after some seconds; return whether it ended."""
    child = os.fork()
    if not child:
        torch.set_num_threads(1)
        often = replace(RUN, save_seconds=0.0)
        try:
            train(store, settings(arch), often, out=out, device="cpu", resume=True)
        except BaseException:
            os._exit(1)
        os._exit(0)
    if lives is not None:
        time.sleep(lives)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status == 0


@pytest.mark.parametrize("arch", ARCHS)
def test_kills_at_any_moment_change_no_bit(
    store: Store, tmp_path: Path, arch: str, request: pytest.FixtureRequest
) -> None:
    began = time.perf_counter()
    assert _in_a_child(store, arch, tmp_path / "whole", None)
    longest = time.perf_counter() - began
    kills, drawn = 0, random.Random(arch)

    while kills < (50 if request.config.getoption("--long") else 4):
        out = tmp_path / f"after {kills}"
        while not _in_a_child(store, arch, out, drawn.random() * longest):
            kills += 1
        _same(out, tmp_path / "whole")


def test_what_a_killed_process_left_half_written_is_not_kept(store: Store, tmp_path: Path) -> None:
    (tmp_path / "sae.partial").mkdir()
    (tmp_path / "sae.partial" / ".tmpQeQ6hJ").write_bytes(b"safetensors writes beside, too")

    train(store, settings("topk"), RUN, out=tmp_path / "sae", device="cpu", resume=True)

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
            train(store, settings("topk"), RUN, out=tmp_path / "sae", device="cpu")
    begun = tmp_path / "sae.partial" / "training.safetensors"

    with pytest.raises(OutputExists, match="--resume"):
        train(store, settings("topk"), RUN, out=tmp_path / "sae", device="cpu")
    with pytest.raises(SettingsError, match="begun with another settings"):
        train(store, TopK(32, 3), RUN, out=tmp_path / "sae", device="cpu", resume=True)
    begun.write_bytes(begun.read_bytes()[:-100])
    with pytest.raises(FormatError, match="start anew with --force"):
        train(store, settings("topk"), RUN, out=tmp_path / "sae", device="cpu", resume=True)


def test_a_finished_run_is_left_as_it_is(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = train(store, settings("topk"), RUN, out=tmp_path / "sae", device="cpu")
    two = train(store, settings("topk"), RUN, out=tmp_path / "sae", device="cpu", resume=True)

    with pytest.raises(SettingsError, match="is finished, and was trained with another settings"):
        train(store, TopK(32, 3), RUN, out=tmp_path / "sae", device="cpu", resume=True)

    assert torch.equal(one.W_dec, two.W_dec)
    assert "nothing to do" in capsys.readouterr().err
