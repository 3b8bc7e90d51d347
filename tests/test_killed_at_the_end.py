"""A kill between the last step of any work and its finished folder mixes and loses nothing."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from probe_sae import outputs
from probe_sae.analysis import analyse, encode
from probe_sae.errors import ProbeSaeError
from probe_sae.recording import CaptureSettings, capture
from probe_sae.sae import TopK, make_sae
from probe_sae.store import (
    ContextInput,
    RecordedRows,
    SiteInfo,
    Store,
    StoreWriter,
    open_store,
    shuffle_store,
)
from probe_sae.training import TrainSettings, train_several

Work = Callable[..., Any]


class _Killed(BaseException):
    """Stands for SIGKILL: nobody catches it."""


def _killed(*_: object) -> None:
    raise _Killed


def _store(folder: Path, seed: int) -> Store:
    """Return a small store of random rows."""
    folder.mkdir()
    context = np.repeat(np.arange(40, dtype=np.uint32), 10)
    pos = np.tile(np.arange(10, dtype=np.uint32), 40)
    columns = {"doc": context, "context": context, "pos": pos, "token": pos.astype(np.int32)}
    contexts = [ContextInput(i, i, "", 0, np.zeros(10, np.int32)) for i in range(40)]
    rows = torch.randn(400, 6, generator=torch.Generator().manual_seed(seed))
    with StoreWriter(folder, [SiteInfo("site", 6, "float32")], "text") as writer:
        writer.append(RecordedRows({"site": rows}, columns, contexts))
        (folder / "vocabulary.json").write_text(json.dumps(["a"] * 10))
        writer.finish({"host": {}, "dataset": {}, "special": []})
    return open_store(folder)


def _works(folder: Path, kind: str) -> tuple[Work, Work]:
    """Return some work over one input, and the same over another."""
    if kind == "capture":
        texts = [folder / "a.txt", folder / "b.txt"]
        for text, line in zip(texts, ("a = 1\n", "b: two\n"), strict=True):
            text.write_text(line * 50)
        how: dict[str, Any] = {"sites": "blocks.0.resid_post"}
        how["settings"] = CaptureSettings(max_length=16, batch_size=4)
        one, other = (partial(capture, "bundled:code-lm", text, **how) for text in texts)
        return one, other
    stores = [_store(folder / name, seed) for seed, name in enumerate(("one", "other"))]
    if kind == "shuffle":
        return partial(shuffle_store, stores[0]), partial(shuffle_store, stores[1])
    if kind == "train":
        given: dict[str, Any] = {"settings": [TopK(8, 2), TopK(8, 3)], "device": "cpu"}
        given["trainer"] = TrainSettings(rows=2_000, batch_size=100, save_seconds=0)
        one, other = (partial(train_several, store, **given) for store in stores)
        return one, other
    made = [make_sae(TopK(8, 2), 6, torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    work = {"encode": encode, "analyse": analyse}[kind]
    return partial(work, made[0], stores[0]), partial(work, made[1], stores[0])


def _bytes(folder: Path) -> dict[str, bytes]:
    """Return what a finished output holds, but for the seconds of a log."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "log.jsonl"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("kind", ["capture", "shuffle", "train", "encode", "analyse"])
def test_what_was_killed_before_it_had_its_name_goes_on_as_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    work, other = _works(tmp_path, kind)
    out = tmp_path / "out"
    work(out=tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(outputs, "_put_in_place", _killed)
        with pytest.raises(_Killed):
            work(out=out)

    with pytest.raises(ProbeSaeError, match=r"begun|another|something else"):
        other(out=out, resume=True)
    work(out=out, resume=True)

    assert _bytes(out) == _bytes(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["capture", "shuffle", "train", "encode", "analyse"])
def test_what_was_killed_when_it_had_its_name_is_finished(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    work, _ = _works(tmp_path, kind)
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(outputs, "_empty", _killed)
        with pytest.raises(_Killed):
            work(out=out)
    left = _bytes(out)

    work(out=out, resume=True)
    assert "nothing to do" in capsys.readouterr().err
    work(out=out, force=True)

    assert _bytes(out).items() < left.items()
    assert not list(tmp_path.glob("*.partial"))
