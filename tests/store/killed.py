"""Kill a process at random moments until its work is done; run as a script, outside pytest.

    python tests/store/killed.py write|shuffle|capture KILLS FOLDER

Everything is imported once, then each attempt is a forked child that gets SIGKILL. The result is
compared with an undisturbed one, row by row.
"""

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import probe_sae as ps
from probe_sae.recording.rows import since
from probe_sae.store import (
    ContextInput,
    RecordedRows,
    SiteInfo,
    Store,
    StoreWriter,
    layout,
    open_store,
    shuffle,
    shuffle_store,
)

SITES = [SiteInfo("a", 24, "float16"), SiteInfo("b", 8, "float32")]
BATCHES = 60


def write(folder: Path) -> None:
    """Record generated rows, and go on where an earlier attempt stopped."""
    if (folder / "manifest.json").exists():
        return
    folder.mkdir(exist_ok=True)
    with StoreWriter(folder, SITES, "text") as writer:
        for number in range(BATCHES):
            batch = made(number)
            if batch.contexts[-1].index < writer.contexts:
                continue
            writer.append(since(batch, writer.contexts))
        writer.finish({})


def made(number: int) -> RecordedRows:
    """Return one batch of rows, the same for the same number."""
    generator = np.random.default_rng(number)
    lengths = generator.integers(1, 60, 16)
    contexts = [
        ContextInput(
            number * 16 + i, i, f"doc {number} {i}", 0, generator.integers(0, 99, n).astype("i4")
        )
        for i, n in enumerate(lengths)
    ]
    index = np.repeat(np.arange(number * 16, number * 16 + 16, dtype=np.uint32), lengths)
    rows = int(lengths.sum())
    sites = {
        s.name: torch.from_numpy(generator.standard_normal((rows, s.width), np.float32))
        for s in SITES
    }
    columns = {"doc": index, "context": index, "pos": index, "token": index.astype(np.int32)}
    return RecordedRows(sites, columns, contexts)


def until_done(work: Callable[[], None], kills: int, longest: float) -> int:
    """Attempt `work` until it ends by itself; return how many attempts were killed."""
    killed = 0
    while True:
        child = os.fork()
        if not child:
            torch.set_num_threads(1)
            with Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            try:
                work()
            except BaseException as problem:
                print(f"after {killed} kills: {problem!r}", flush=True)
                os._exit(1)
            os._exit(0)
        if killed < kills:
            time.sleep(random.random() * longest)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return killed
        if not os.WIFSIGNALED(status):
            raise SystemExit(f"failed with {status} after {killed} kills")
        killed += 1


def seconds(work: Callable[[], None]) -> float:
    """Return how long `work` takes in a child."""
    began = time.perf_counter()
    until_done(work, 0, 0)
    return time.perf_counter() - began


def compare(one: Store, other: Store) -> None:
    """Stop unless two stores hold the same rows, columns and contexts, and verify."""
    assert one.rows == other.rows
    assert one.contexts == other.contexts
    for name in one.sites:
        assert torch.equal(one.read(name, 0, one.rows), other.read(name, 0, other.rows))
    for name in ("doc", "context", "pos", "token"):
        assert (one.column(name) == other.column(name)).all()
    for mine, theirs in zip(one.inputs(), other.inputs(), strict=True):
        assert (mine.index, mine.name) == (theirs.index, theirs.name)
        assert mine.tokens is not None
        assert theirs.tokens is not None
        assert mine.tokens.tolist() == theirs.tokens.tolist()
    assert one.verify() == other.verify() == []


def main(what: str, kills: int, folder: Path) -> None:
    """Do the work undisturbed and killed, and compare."""
    random.seed(kills)
    layout.SHARD_BYTES, layout.COMMIT_BYTES, layout.CHUNK_BYTES = 300_000, 40_000, 4096
    shuffle.PILE_BYTES, shuffle.DEALT_BYTES, shuffle.SAFE_BLOCKS = 200_000, 20_000, 4
    if what == "capture":
        layout.SHARD_BYTES, layout.COMMIT_BYTES = 3_000_000, 400_000
        loaded = ps.load_host("bundled:code-lm")
        settings = ps.CaptureSettings(rows=12_000, max_length=64, batch_size=8)
        arguments = (ps.load_dataset("stdlib"), "blocks.0.resid_post")

        def work(folder: Path) -> None:
            ps.capture(loaded, *arguments, folder, settings, resume=True)
    elif what == "shuffle":
        source = folder / "source"
        write(source)

        def work(folder: Path) -> None:
            shuffle_store(source, folder, seed=3, resume=True)
    else:
        work = write
    longest = seconds(lambda: work(folder / "whole"))
    whole = open_store(folder / "whole")
    killed = 0
    while killed < kills:
        shutil.rmtree(folder / "killed", ignore_errors=True)
        shutil.rmtree(folder / "killed.partial", ignore_errors=True)
        killed += until_done(lambda: work(folder / "killed"), kills - killed, longest)
        compare(whole, open_store(folder / "killed"))
    print(f"{what}: {killed} kills, {whole.rows} rows: equal")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
