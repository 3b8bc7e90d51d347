"""Is a shuffled copy in random order, and what does a large store cost in memory?

    python tests/benchmarks/shuffling.py ranks  [--rows 1000000] [--seeds 20]
    python tests/benchmarks/shuffling.py memory [--gigabytes 20] [--folder FOLDER]

`ranks`: for each seed, the rank correlation of a row's place in the training epoch with its place
in the corpus, as a p-value; if places are independent, these are uniform. Also, how many rows of
its own context a row meets in a batch, over what chance would give. `memory`: peak of a process
that does one thing with a store of so many gigabytes, and with a quarter of it.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from probe_sae.store import (
    ContextInput,
    SiteInfo,
    StoreStream,
    StoreWriter,
    open_store,
    shuffle,
    shuffle_store,
)
from probe_sae.store.growing_shard import RawRows

TOKENS, BATCH, WIDTH = 128, 4096, 768
WORK = ("read", "epoch", "verify", "shuffle")


def numbered(folder: Path, rows: int) -> None:
    """Write a store whose rows hold their own number."""
    folder.mkdir()
    with StoreWriter(folder, [SiteInfo("site", 2, "float32")], "text") as writer:
        for start in range(0, rows, 1 << 16):
            number = np.arange(start, min(rows, start + (1 << 16)))
            writer.append_raw(_rows(np.stack([number, number // TOKENS], 1).astype("<f4"), number))
        writer.finish({})


def _rows(acts: NDArray[Any], number: NDArray[Any]) -> RawRows:
    context = (number // TOKENS).astype(np.uint32)
    contexts = [
        ContextInput(int(i), int(i), "random", 0, np.arange(TOKENS, dtype=np.int32))
        for i in np.unique(context)
        if i * TOKENS >= number[0]
    ]
    pos = (number % TOKENS).astype(np.uint32)
    columns = {"doc": context, "context": context, "pos": pos, "token": pos.astype(np.int32)}
    return RawRows({"site": acts}, columns, contexts)


def ranks(rows: int, seeds: int) -> dict[str, Any]:
    """Return p-values of many seeds, and what a test says of them."""
    from scipy.stats import kstest

    shuffle.PILE_BYTES, shuffle.DEALT_BYTES = 2 << 20, 1 << 20
    values: list[float] = []
    values_of_epochs: list[float] = []
    companions: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        numbered(Path(temporary) / "store", rows)
        for seed in range(seeds):
            made = shuffle_store(Path(temporary) / "store", Path(temporary) / f"{seed}", seed=seed)
            order = made["site"][:][:, 0].long().numpy()
            assert (np.sort(order) == np.arange(rows)).all()
            values.append(p_value(order))
            batches = list(StoreStream(made, "site", seed).epoch(0, BATCH))
            values_of_epochs.append(p_value(torch.cat(batches)[:, 0].long().numpy()))
            companions.append(met(batches, rows))
    return {
        "p of the copies": [round(p, 4) for p in sorted(values)],
        "Kolmogorov-Smirnov p": kstest(values, "uniform").pvalue,
        "p of epochs, smallest": min(values_of_epochs),
        "Kolmogorov-Smirnov p of epochs": kstest(values_of_epochs, "uniform").pvalue,
        "companions over chance": [round(min(companions), 4), round(max(companions), 4)],
        "mean": round(float(np.mean(companions)), 4),
    }


def p_value(order: NDArray[np.int64]) -> float:
    """Return the chance of a rank correlation with 0, 1, 2, ... as large as this one."""
    correlation = float(np.corrcoef(np.arange(len(order)), order)[0, 1])
    return math.erfc(abs(correlation) * math.sqrt(len(order) - 1) / math.sqrt(2))


def met(batches: list[torch.Tensor], rows: int) -> float:
    """Return how many rows of its context a row meets in a batch, over what chance would give."""
    pairs = chance = 0.0
    for batch in batches:
        counts = np.unique(batch[:, 1].numpy(), return_counts=True)[1].astype(float)
        pairs += float((counts * (counts - 1)).sum())
        chance += len(batch) * (len(batch) - 1) * (TOKENS - 1) / (rows - 1)
    return pairs / chance


def memory(gigabytes: float, folder: Path | None) -> dict[str, Any]:
    """Return the peak memory in MiB of each work on a store, and on a quarter of it."""
    told: dict[str, Any] = {}
    for size in (gigabytes / 4, gigabytes):
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            large(Path(temporary) / "store", int(size * 2**30 / (2 * WIDTH)))
            for work in WORK:
                command = [sys.executable, __file__, "one", "--work", work, "--folder", temporary]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                told.setdefault(work, {})[f"{size:g} GiB"] = json.loads(done.stdout)
    return told


def large(folder: Path, rows: int) -> None:
    """Write a store of so many rows, the same 8,192 again and again."""
    folder.mkdir()
    acts = np.random.default_rng(0).standard_normal((8192, WIDTH), np.float32).astype("<f2")
    with StoreWriter(folder, [SiteInfo("site", WIDTH)], "text") as writer:
        for start in range(0, rows // 8192 * 8192, 8192):
            writer.append_raw(_rows(acts, np.arange(start, start + 8192)))
        writer.finish({})


def one(work: str, folder: Path) -> None:
    """Do one thing with a store and print the peak memory."""
    store = open_store(folder / "store")
    if work == "read":
        out = np.empty((4096, WIDTH), "<f2")
        for start in range(0, store.rows - 4096, 4096):
            store.read_into("site", start, out)
    elif work == "epoch":
        for batch in StoreStream(store, "site", 0).epoch(0, BATCH):
            assert len(batch)
    elif work == "verify":
        assert not store.verify()
    else:
        shuffle_store(store, folder / "shuffled")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def main() -> None:
    """Print the answer as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["ranks", "memory", "one"])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--gigabytes", type=float, default=20)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--work", choices=WORK)
    given = parser.parse_args()
    if given.what == "one":
        one(given.work, given.folder)
    elif given.what == "ranks":
        print(json.dumps(ranks(given.rows, given.seeds), indent=1))
    else:
        print(json.dumps(memory(given.gigabytes, given.folder), indent=1))


if __name__ == "__main__":
    main()
