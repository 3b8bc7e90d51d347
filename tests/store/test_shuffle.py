"""A shuffled copy holds each row once, traceable, in any order with equal chance."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from probe_sae.errors import StoreError
from probe_sae.store import Store, StoreStream, shuffle, shuffle_store

from .conftest import MakeStore


@pytest.fixture
def piles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make piles and blocks so small that a few hundred rows need several."""
    monkeypatch.setattr(shuffle, "PILE_BYTES", 2000)
    monkeypatch.setattr(shuffle, "DEALT_BYTES", 1000)
    monkeypatch.setattr(shuffle, "SAFE_BLOCKS", 3)


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    return make_store([50, 70, 33, 90], dtype="bfloat16")


@pytest.mark.usefixtures("piles")
def test_every_row_is_there_once_with_its_columns(store: Store, tmp_path: Path) -> None:
    shuffled = shuffle_store(store, tmp_path / "shuffled", seed=1)

    before = np.lexsort((store.column("pos"), store.column("context")))
    after = np.lexsort((shuffled.column("pos"), shuffled.column("context")))
    assert torch.equal(store["site"][before], shuffled["site"][after])
    for name in ("doc", "context", "pos", "token"):
        assert (store.column(name)[before] == shuffled.column(name)[after]).all()
    assert [c.name for c in shuffled.inputs()] == [c.name for c in store.inputs()]
    assert shuffled.is_shuffled
    assert shuffled.recording == store.recording
    assert shuffled.verify() == []
    assert sorted(p.name for p in shuffled.folder.iterdir()) == [
        "journal.jsonl",
        "manifest.json",
        "shard-00000.h5",
    ]


@pytest.mark.usefixtures("piles")
def test_seeds_have_orders_of_their_own(store: Store, tmp_path: Path) -> None:
    rows = [
        shuffle_store(store, tmp_path / name, seed=seed)["site"][:]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]

    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


def spearman_p(order: np.ndarray) -> float:
    """Return the chance of a rank correlation as large as that of `order` with 0, 1, 2, ..."""
    n = len(order)
    correlation = np.corrcoef(np.arange(n), order)[0, 1]
    return math.erfc(abs(correlation) * math.sqrt(n - 1) / math.sqrt(2))


@pytest.mark.usefixtures("piles")
def test_places_do_not_depend_on_places_in_the_corpus(store: Store, tmp_path: Path) -> None:
    from scipy.stats import kstest

    row_of = {(c, p): i for i, (c, p) in enumerate(_places(store))}
    values: list[float] = []
    for seed in range(12):
        shuffled = shuffle_store(store, tmp_path / f"{seed}", seed=seed)
        values.append(spearman_p(np.array([row_of[place] for place in _places(shuffled)])))

    assert min(values) > 1e-4
    assert kstest(values, "uniform").pvalue > 0.001
    assert spearman_p(np.arange(243)) < 1e-9  # the test can fail


def _places(store: Store) -> list[tuple[int, int]]:
    return list(zip(store.context_of_row.tolist(), store.column("pos").tolist(), strict=True))


@pytest.mark.usefixtures("piles")
def test_a_copy_of_something_else_is_not_continued(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shuffle, "copy_vocabulary", interrupted)
        with pytest.raises(KeyboardInterrupt):
            shuffle_store(store, tmp_path / "out", seed=1)

    with pytest.raises(StoreError, match="another seed"):
        shuffle_store(store, tmp_path / "out", seed=2, resume=True)
    assert shuffle_store(store, tmp_path / "out", seed=1, resume=True).rows == store.rows


def test_a_finished_copy_of_something_else_is_not_returned(
    store: Store, make_store: MakeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shuffle_store(store, tmp_path / "out", seed=1)
    fewer = make_store([50, 70, 33], dtype="bfloat16", name="fewer")

    for source, seed, differing in (
        (store, 2, r"seed \(1 there, 2 here\)\."),
        (fewer, 1, r"recording, rows \(243 there, 153 here\), contexts"),
    ):
        with pytest.raises(StoreError, match=rf"out is finished, .*{differing}"):
            shuffle_store(source, tmp_path / "out", seed=seed, resume=True)
    with pytest.raises(StoreError, match=r"seed \(none there, 1 here\)"):
        shuffle_store(store, fewer.folder, seed=1, resume=True)
    assert "nothing to do" not in capsys.readouterr().err
    assert shuffle_store(store, tmp_path / "out", seed=1, resume=True).rows == store.rows


def test_a_stream_of_a_shuffled_store_says_that_it_is_mixed(store: Store, tmp_path: Path) -> None:
    shuffled = shuffle_store(store, tmp_path / "shuffled")

    assert StoreStream(shuffled, "site", 0).mixing(32) == 1
    assert StoreStream(shuffled, "site", 0).rows == store.rows


@pytest.mark.parametrize("what", ["write", "shuffle"])
def test_no_row_is_lost_or_doubled_by_kills(
    what: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    kills = "200" if request.config.getoption("--long") else "8"
    script = Path(__file__).with_name("killed.py")
    root = Path(__file__).parents[2]

    done = subprocess.run(
        [sys.executable, "-P", script, what, kills, tmp_path],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{what}: {kills} kills" in done.stdout
