"""Training from a store on disk beside training from memory: `python tests/benchmarks/feeding.py`.

The same TopK training of the same rows, float16 in the store and float32 in memory, taking turns;
medians of CPU and wall seconds: of the steps alone, and of all that `train` does (a sample for
scales, the last calibration). `--cold`: the files' pages are dropped before each turn.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from contestants import SIZES

from probe_sae.sae import TopK
from probe_sae.store import Store
from probe_sae.training import TrainSettings, train
from probe_sae.training.loop import Training

make_store: Any = import_module("training").make_store  # the benchmark beside this one


class Seconds(NamedTuple):
    """What a training took."""

    steps_cpu: float
    steps_wall: float
    cpu: float
    wall: float


def timed(data: Store | torch.Tensor, settings: TopK, trainer: TrainSettings) -> Seconds:
    """Return the seconds of a training: of its steps, and in all."""
    inner: list[tuple[float, float]] = []
    real = Training.run

    def watched(self: Training, *arguments: Any) -> Any:
        began = time.process_time(), time.perf_counter()
        saes = real(self, *arguments)
        inner.append((time.process_time() - began[0], time.perf_counter() - began[1]))
        return saes

    setattr(Training, "run", watched)  # noqa: B010
    began = time.process_time(), time.perf_counter()
    try:
        train(data, settings, trainer, device="cpu")
    finally:
        setattr(Training, "run", real)  # noqa: B010
    return Seconds(*inner[0], time.process_time() - began[0], time.perf_counter() - began[1])


def drop(folder: Path) -> None:
    """Let the system forget what is in a folder's files."""
    os.sync()
    for path in folder.rglob("*.h5"):
        number = os.open(path, os.O_RDONLY)
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(number)


def feeding(name: str, rows: int, rounds: int, *, cold: bool) -> dict[str, Any]:
    """Return medians of both ways, and what the store takes over memory."""
    size = SIZES[name]
    settings = TopK(features=size.features, k=size.k)
    trainer = TrainSettings(rows=int(0.9 * rows), batch_size=size.batch)
    seen: dict[str, list[Seconds]] = {"store": [], "memory": []}
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "store", rows, size.d)
        memory = store.read("site", 0, store.rows)
        for turn in range(rounds + 1):
            for way, data in (("memory", memory), ("store", store)):
                if cold:
                    drop(Path(folder))
                took = timed(data, settings, trainer)
                if turn:  # the first compiles, and touches pages
                    seen[way].append(took)
    table: dict[str, Any] = {"steps": trainer.steps}
    for at, what in enumerate(Seconds._fields):
        middle = {way: statistics.median(t[at] for t in times) for way, times in seen.items()}
        over = [s[at] / m[at] for s, m in zip(seen["store"], seen["memory"], strict=True)]
        table[what.replace("_", ", ")] = {way: round(t, 2) for way, t in middle.items()} | {
            "store over memory": round(statistics.median(over), 3)
        }
    return table


def main() -> None:
    """Print a table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", action="append", choices=list(SIZES))
    parser.add_argument("--rows", type=int, default=1 << 17)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cold", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    sizes = given.size or ["a", "b", "c"]
    table = {s: feeding(s, given.rows, given.rounds, cold=given.cold) for s in sizes}
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
