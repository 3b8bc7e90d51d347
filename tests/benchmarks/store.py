"""The store beside a raw file of the same bytes: `python tests/benchmarks/store.py [--rows N]`.

Rows of width 768 in float16; every way in turn, several rounds, medians of each way's rate over
the raw file's in the same round. `write` ends with the bytes on disk (fsync). Cold: the files'
pages are dropped before. Also h5py slices, np.memmap, safetensors; with `--saelens PYTHON`, the
cache of SAELens in an environment of its own.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file

from probe_sae.store import ContextInput, SiteInfo, Store, StoreStream, StoreWriter, open_store
from probe_sae.store.growing_shard import RawRows

WIDTH, TOKENS, PIECE, BATCH = 768, 128, 8192, 4096


def pieces(rows: int) -> Iterator[RawRows]:
    """Yield contexts of 128 rows, 8,192 rows at a time; the same memory each time."""
    acts = np.random.default_rng(0).standard_normal((PIECE, WIDTH), np.float32).astype("<f2")
    tokens = np.arange(TOKENS, dtype=np.int32)
    for start in range(0, rows, PIECE):
        first = start // TOKENS
        contexts = [
            ContextInput(first + i, first + i, "random", 0, tokens) for i in range(PIECE // TOKENS)
        ]
        context = np.repeat(np.arange(first, first + len(contexts), dtype=np.uint32), TOKENS)
        columns = {
            "doc": context,
            "context": context,
            "pos": np.tile(tokens, len(contexts)).astype(np.uint32),
            "token": np.tile(tokens, len(contexts)),
        }
        yield RawRows({"site": acts}, columns, contexts)


def sync(path: Path) -> None:
    """Put a file on disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


class Ways:
    """Every way to write and to read the same rows."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.folder, self.rows = folder, rows
        self.raw, self.h5, self.tensors = (folder / n for n in ("raw", "plain.h5", "safetensors"))
        self.memmap, self.store = folder / "memmap", folder / "store"
        self.opened: Store | None = None
        self.stream: StoreStream | None = None
        self.buffer = np.zeros((2048, WIDTH), "<f2")

    def write_raw(self) -> None:
        with self.raw.open("wb", buffering=0) as file:
            for piece in pieces(self.rows):
                for part in np.split(piece.sites["site"], 4):
                    file.write(memoryview(part.data))
            os.fsync(file.fileno())

    def write_store(self) -> None:
        self.store.mkdir()
        with StoreWriter(self.store, [SiteInfo("site", WIDTH)], "text") as writer:
            for piece in pieces(self.rows):
                writer.append_raw(piece)
            writer.finish({})
        self.opened = open_store(self.store)
        self.stream = StoreStream(self.opened, "site", 0)

    def write_h5py(self) -> None:
        with h5py.File(self.h5, "w") as file:
            data = file.create_dataset("x", (self.rows, WIDTH), "<f2", chunks=(1024, WIDTH))
            for i, piece in enumerate(pieces(self.rows)):
                data[i * PIECE : (i + 1) * PIECE] = piece.sites["site"]
        sync(self.h5)

    def write_memmap(self) -> None:
        made = np.memmap(self.memmap, "<f2", "w+", shape=(self.rows, WIDTH))
        for i, piece in enumerate(pieces(self.rows)):
            made[i * PIECE : (i + 1) * PIECE] = piece.sites["site"]
        made.flush()

    def write_safetensors(self) -> None:
        whole = np.concatenate([piece.sites["site"] for piece in pieces(self.rows)])
        save_file({"x": torch.from_numpy(whole)}, self.tensors)
        sync(self.tensors)

    def read_raw(self) -> None:
        view = memoryview(self.buffer.data).cast("B")
        with self.raw.open("rb", buffering=0) as file:
            while file.readinto(view):
                pass

    def read_store(self) -> None:
        assert self.opened is not None
        for start in range(0, self.rows, len(self.buffer)):
            self.opened.read_into("site", start, self.buffer)

    def read_h5py(self) -> None:
        with h5py.File(self.h5) as file:
            data: Any = file["x"]
            for start in range(0, self.rows, 2048):
                data[start : start + 2048]

    def read_memmap(self) -> None:
        data = np.memmap(self.memmap, "<f2", "r", shape=(self.rows, WIDTH))
        for start in range(0, self.rows, 2048):
            self.buffer[:] = data[start : start + 2048]

    def read_safetensors(self) -> None:
        with safe_open(self.tensors, "pt") as file:
            data = file.get_slice("x")
            for start in range(0, self.rows, 2048):
                self.buffer[:] = data[start : start + 2048].numpy()  # it is a view of pages

    def shuffled_store(self) -> None:
        assert self.stream is not None
        for batch in self.stream.epoch(0, BATCH):
            assert len(batch) == BATCH

    def shuffled_memmap(self) -> None:
        data = np.memmap(self.memmap, "<f2", "r", shape=(self.rows, WIDTH))
        order = np.random.default_rng(0).permutation(self.rows)
        for start in range(0, self.rows, BATCH):
            torch.from_numpy(data[order[start : start + BATCH]])

    def shuffled_h5py(self) -> None:
        """Sorted row numbers, as h5py wants them; a tenth of an epoch."""
        with h5py.File(self.h5) as file:
            data: Any = file["x"]
            order: NDArray[np.int64] = np.random.default_rng(0).permutation(self.rows)
            for start in range(0, self.rows // 10, BATCH):
                torch.from_numpy(data[np.sort(order[start : start + BATCH])])

    def drop(self) -> None:
        """Drop the pages of every file."""
        for path in self.folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def clear(self, way: str) -> None:
        """Remove what a way has written before."""
        path = {"h5py": self.h5, "safetensors": self.tensors}.get(way, self.folder / way)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def timed(work: Callable[[], None]) -> float:
    """Return the seconds that `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def rounds(ways: Ways, kind: str, names: list[str], count: int, *, cold: bool) -> dict[str, Any]:
    """Return GB/s of the raw file, and each way's rate over it, medians."""
    size = ways.rows * WIDTH * 2 / 1e9
    rates: dict[str, list[float]] = {name: [] for name in ["raw", *names]}
    if kind == "shuffled":
        ways.shuffled_store()  # its buffers are made once, for every epoch of a training
    for _ in range(count):
        for name in rates:
            if kind == "write":
                ways.clear(name)
                os.sync()
            if cold:
                ways.drop()
            method = "read_raw" if (name, kind) == ("raw", "shuffled") else f"{kind}_{name}"
            share = 0.1 if method == "shuffled_h5py" else 1
            rates[name].append(share * size / timed(getattr(ways, method)))
    over = {
        name: round(
            statistics.median(r / raw for r, raw in zip(rates[name], rates["raw"], strict=True)), 3
        )
        for name in names
    }
    return {"raw GB/s": round(statistics.median(rates["raw"]), 2), **over}


def main() -> None:
    """Print a table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1 << 18)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--saelens", help="Python of an environment that has sae-lens")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        ways = Ways(Path(folder), given.rows)
        every = ["store", "h5py", "memmap", "safetensors"]
        shuffled = ["store", "memmap", "h5py"]
        table: dict[str, Any] = {
            "write": rounds(ways, "write", every, given.rounds, cold=False),
            "read, warm": rounds(ways, "read", every, given.rounds, cold=False),
            "read, cold": rounds(ways, "read", every, given.rounds, cold=True),
            "shuffled, warm": rounds(ways, "shuffled", shuffled, given.rounds, cold=False),
            "shuffled, cold": rounds(ways, "shuffled", ["store"], given.rounds, cold=True),
        }
        if given.saelens:
            script = Path(__file__).with_name("store_saelens.py")
            done = subprocess.run(
                [given.saelens, script, folder, str(given.rows)], capture_output=True, text=True
            )
            table["SAELens GB/s"] = json.loads(done.stdout) if done.stdout else done.stderr[-500:]
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
