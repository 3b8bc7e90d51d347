"""What is committed stays, whatever ends the writing; memory is bounded; packed sites too."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from probe_sae.errors import ShapeError, StoreError
from probe_sae.store import SiteInfo, StoreStream, StoreWriter, layout, open_store, recovery, writer
from probe_sae.store.growing_shard import RawRows
from probe_sae.store.shard_file import ShardFile

from .conftest import some_rows

SITES = [SiteInfo("site", 8, "float32")]
ROOT = Path(__file__).parents[2]


def test_contexts_are_cut_into_commits_and_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "COMMIT_BYTES", 1000)
    monkeypatch.setattr(layout, "SHARD_BYTES", 3000)
    rows = some_rows([9, 30, 2, 60, 1, 0, 17], 8)

    with StoreWriter(tmp_path, SITES, "text") as made:
        made.append(rows)
        made.finish({})

    store = open_store(tmp_path)
    assert len(store.shards) > 1
    assert torch.equal(store["site"][:], rows.sites["site"])
    assert store.context_of_row.tolist() == rows.columns["context"].tolist()
    for shard in store.shards:
        part = slice(shard.first_row, shard.first_row + shard.rows)
        assert set(store.context_of_row[part]) <= set(
            range(shard.first_context, shard.first_context + shard.contexts)
        )


@pytest.mark.parametrize("is_named", [False, True])
def test_a_shard_cut_short_keeps_what_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_named: bool
) -> None:
    """What a crash leaves: commits, and a file that HDF5 cannot open any more."""
    monkeypatch.setattr(layout, "CHUNK_BYTES", 256)
    rows = some_rows([9, 30, 2], 8)
    made = StoreWriter(tmp_path, SITES, "text")
    made.append(rows)
    made.commit()
    made.append(some_rows([5], 8, first=3, seed=1))
    writing = tmp_path / "shard-00000.h5.writing"
    left = bytearray(writing.read_bytes())
    left[:96] = bytes(96)  # the superblock
    if is_named:
        writing.rename(tmp_path / "shard-00000.h5").write_bytes(left)
    else:
        writing.write_bytes(left)

    with StoreWriter(tmp_path, SITES, "text") as again:
        assert (again.rows, again.contexts) == (41, 3)
        again.finish({})

    store = open_store(tmp_path)
    assert torch.equal(store["site"][:], rows.sites["site"])
    assert [c.name for c in store.inputs()] == [f"doc {i}" for i in range(3)]
    assert store.statistics("site").count == 41
    assert store.verify() == []
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "journal.jsonl",
        "manifest.json",
        "shard-00000.h5",
    ]


class _Killed(BaseException):
    """Stands for SIGKILL: nobody catches it."""


def _killed_before(step: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Recover until a step that changes the folder; return whether there are so many."""
    left = step

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*given: Any, **named: Any) -> Any:
            nonlocal left
            if not left:
                raise _Killed
            left -= 1
            return real(*given, **named)

        return change

    changes = [(Path, "replace"), (Path, "unlink"), (ShardFile, "close")]
    changes += [(recovery, name) for name in ("sync", "sync_folder", "enter")]
    with monkeypatch.context() as patched:
        for owner, name in changes:
            patched.setattr(owner, name, counted(getattr(owner, name)))
        try:
            recovery.recover(folder)
        except _Killed:
            return True
    return False


def test_crashes_while_a_crash_is_mended_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy has rows elsewhere than the commits say; they are of the file it was made from."""
    monkeypatch.setattr(layout, "CHUNK_BYTES", 256)
    rows = [some_rows([9, 30], 8, first=2 * i, seed=i) for i in range(3)]
    crashed, folder = tmp_path / "crashed", tmp_path / "store"
    crashed.mkdir()
    made = StoreWriter(crashed, SITES, "text")
    for some in rows:
        made.append(some)
        made.commit()
    with monkeypatch.context() as patched:
        patched.setattr(recovery, "enter", _killed)
        with pytest.raises(_Killed):
            made.close()
    assert (crashed / "shard-00000.h5").exists()  # named, and the journal has no line of it

    was_killed = True
    for first, second in itertools.product(range(11), (2, 4, 6)):
        shutil.copytree(crashed, folder)
        was_killed = _killed_before(first, folder, monkeypatch)
        for step in (second, second):
            _killed_before(step, folder, monkeypatch)
        with StoreWriter(folder, SITES, "text") as again:
            assert again.contexts == 6, (first, second)
            again.finish({})
        whole = torch.cat([some.sites["site"] for some in rows])
        assert torch.equal(open_store(folder)["site"][:], whole), (first, second)
        shutil.rmtree(folder)
    assert not was_killed  # all steps were tried


def _killed(*_: object) -> None:
    raise _Killed


def test_rows_are_committed_when_they_are_old_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "COMMIT_SECONDS", 0.05)
    flushed = threading.Event()
    flush = ShardFile.flush
    monkeypatch.setattr(ShardFile, "flush", lambda self: (flushed.set(), flush(self))[1])

    with StoreWriter(tmp_path, SITES, "text") as made:
        made.append(some_rows([3], 8))
        assert flushed.wait(30)  # though nobody asked, and no more rows come


def test_a_faster_caller_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, taken = threading.Event(), threading.Semaphore(0)
    take = writer.StoreWriter._take

    def slow(self: StoreWriter, rows: RawRows) -> None:
        gate.wait(30)
        take(self, rows)

    monkeypatch.setattr(writer.StoreWriter, "_take", slow)
    with StoreWriter(tmp_path, SITES, "text") as made:

        def fill() -> None:
            for i in range(writer.WAITING + 5):
                made.append(some_rows([3], 8, first=i))
                taken.release()

        caller = threading.Thread(target=fill)
        caller.start()
        for _ in range(writer.WAITING + 1):  # one at work, the others wait
            assert taken.acquire(timeout=30)
        assert not taken.acquire(timeout=0.3)
        gate.set()
        caller.join()
        made.finish({})
    assert open_store(tmp_path).rows == 3 * (writer.WAITING + 5)


def test_an_array_that_changes_its_shape_is_an_error(tmp_path: Path) -> None:
    rows = some_rows([3, 3], 8)
    thumbnails = [np.zeros((4, 4, 1), np.uint8), np.zeros((5, 4, 1), np.uint8)]
    for context, thumbnail in zip(rows.contexts, thumbnails, strict=True):
        object.__setattr__(context, "thumbnail", thumbnail)

    made = StoreWriter(tmp_path, SITES, "text")
    made.append(rows)

    with pytest.raises(ShapeError, match="of one size"):
        made.finish({})


def test_packed_sites_take_less_room_and_read_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "COMMIT_BYTES", 20_000)
    monkeypatch.setattr(layout, "CHUNK_BYTES", 4096)
    rows = some_rows([400, 500], 64)
    rows.sites["site"].mul_(rows.sites["site"] > 1.5)
    size: list[int] = []
    for name, packed in (("plain", False), ("packed", True)):
        (tmp_path / name).mkdir()
        with StoreWriter(
            tmp_path / name, [SiteInfo("site", 64, "float32", packed)], "text"
        ) as made:
            made.append(rows)
            made.finish({})
        store = open_store(tmp_path / name)
        size.append(sum(shard.path.stat().st_size for shard in store.shards))
        assert store.sites["site"].compressed == packed
        assert torch.equal(store["site"][:], rows.sites["site"])
        assert torch.equal(store["site"][[899, 3]], rows.sites["site"][[899, 3]])
        batches = torch.cat(list(StoreStream(store, "site", 0).epoch(0, 64)))
        assert torch.equal(batches.sort(0).values, rows.sites["site"].sort(0).values)
        assert store.verify() == []
    assert size[1] < 0.6 * size[0]  # columns and tokens are not packed


def test_hdf5_reads_what_was_written_by_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "CHUNK_BYTES", 256)
    rows = some_rows([50, 33], 8)
    with StoreWriter(tmp_path, [SiteInfo("site", 8, "bfloat16")], "text") as made:
        made.append(rows)
        made.commit()
        made.finish({})

    with h5py.File(tmp_path / "shard-00000.h5") as file:
        acts: Any = file["sites/site/acts"]
        pos: Any = file["rows/pos"]
        tokens: Any = file["inputs/tokens"]
        bits = torch.from_numpy(acts[:]).view(torch.bfloat16)
        assert acts.chunks == (16, 8)
        assert acts.attrs["logical_dtype"] == "bfloat16"
        assert torch.equal(bits, rows.sites["site"].bfloat16())
        assert pos[:].tolist() == rows.columns["pos"].tolist()
        assert tokens[:].tolist() == [*range(50), *range(33)]


FULL = """
import resource, signal, sys
from pathlib import Path
from typing import Any
from tests.store.conftest import some_rows
from probe_sae.errors import StoreError
from probe_sae.store import SiteInfo, StoreWriter, layout
layout.COMMIT_BYTES, layout.CHUNK_BYTES = 20_000, 4096
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
with StoreWriter(Path(sys.argv[1]), [SiteInfo("site", 8, "float32")], "text") as made:
    for i in range(1000):
        made.append(some_rows([200], 8, first=i, seed=i))
"""


def test_a_full_disk_ends_it_with_everything_committed_kept(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: writes fail in the midst of a shard."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    commits = [json.loads(s) for s in (tmp_path / "shard-00000.commits.jsonl").open()]

    with StoreWriter(tmp_path, SITES, "text") as again:
        kept = again.rows
        again.finish({})

    assert "probe_sae.errors.StoreError: cannot write to" in done.stderr
    assert ": File too large. What was committed before is safe" in done.stderr
    assert "resume=True" in done.stderr
    assert kept == commits[-1]["rows"] > 1000
    rows = torch.cat([some_rows([200], 8, seed=i).sites["site"] for i in range(kept // 200)])
    assert torch.equal(open_store(tmp_path)["site"][:], rows)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    made = StoreWriter(tmp_path / "nowhere", SITES, "text")
    made.append(some_rows([3], 8))

    with pytest.raises(StoreError, match=r"cannot write to .*No such file"):
        made.close()
