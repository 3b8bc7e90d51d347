"""What an analysis of given codes takes: `python tests/benchmarks/analysis.py [--rows 10000000]`.

Writes codes of random rows (Zipf rates, contexts of 128 tokens, a vocabulary of 50,257), then does
what `analyse` does with them: the pass that counts, the strongest partners, modules, the examples
with their surroundings; with `--map`, nearest directions, clusters and map of random directions
too. Prints JSON: seconds of each, CPU seconds, the largest resident size after each quarter.
"""

import argparse
import json
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from probe_sae.analysis import codes as codes_file
from probe_sae.analysis import counting
from probe_sae.analysis.codes import Block, Codes, open_codes, part_name, write_part
from probe_sae.analysis.cofiring import Pairs
from probe_sae.analysis.examples import choose, with_surroundings
from probe_sae.analysis.modules import modules_of
from probe_sae.analysis.structure import direction_groups, feature_map, nearest

VOCABULARY = 50_257
CONTEXT = 128


def make_codes(folder: Path, rows: int, features: int, k: int) -> Codes:
    """Return codes of random rows."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    chance = np.cumsum((np.arange(features) + 10.0) ** -0.7)
    chance /= chance[-1]
    tokens = np.cumsum((np.arange(VOCABULARY) + 2.7) ** -1.0)
    tokens /= tokens[-1]
    firings, number, size = 0, 0, 1 << 19
    for first in range(0, rows, size):
        count = min(size, rows - first)
        drawn = np.searchsorted(chance, generator.random((count, k), np.float32)).astype(np.int32)
        drawn = np.sort(np.minimum(drawn, features - 1), axis=1)
        new = np.ones(drawn.shape, np.bool_)
        new[:, 1:] = drawn[:, 1:] != drawn[:, :-1]
        row = np.arange(first, first + count)
        starts = np.concatenate([[0], np.cumsum(new.sum(1))])
        value = 0.1 + generator.standard_exponential(int(starts[-1]), np.float32)
        token = np.searchsorted(tokens, generator.random(count)).clip(0, VOCABULARY - 1)
        block = Block(row, row // CONTEXT, row % CONTEXT, token, starts, drawn[new], value)
        write_part(folder / part_name(number), block, np.zeros(features))
        firings, number = firings + len(value), number + 1
    info = {
        "format": codes_file.FORMAT, "version": codes_file.VERSION, "features": features,
        "rows": rows, "firings": firings, "parts": [part_name(i) for i in range(number)],
    }  # fmt: skip
    (folder / "codes.json").write_text(json.dumps(info))
    return open_codes(folder)


class Clock:
    """Seconds of named pieces of work."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    def time(self, name: str, work: Callable[[], Any]) -> Any:
        """Return what `work` returns, and keep what it took."""
        began = time.perf_counter(), time.process_time()
        result = work()
        self.wall[name] = round(time.perf_counter() - began[0], 2)
        self.cpu[name] = round(time.process_time() - began[1], 2)
        return result


def resident() -> int:
    """Return the largest resident size so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def watched(codes: Codes) -> tuple[Callable[[], counting.Counted], list[int], list[float]]:
    """Return the pass, and lists that it fills: size and seconds after each quarter of the rows."""
    sizes: list[int] = []
    seconds: list[float] = []
    began, done, real = time.perf_counter(), 0, codes.blocks

    def blocks(firings: int | None = None) -> Any:
        nonlocal done
        for block in real(firings):
            yield block
            done += len(block)
            if done >= codes.rows * (len(sizes) + 1) // 4:
                sizes.append(resident())
                seconds.append(round(time.perf_counter() - began, 1))

    codes.blocks = blocks  # type: ignore[method-assign]
    return lambda: counting.count(codes, VOCABULARY), sizes, seconds


def main() -> None:
    """Print a table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--features", type=int, default=16_384)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--folder", type=Path, help="keep the codes here, or use those there")
    parser.add_argument("--map", action="store_true")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp()) / "codes"
    if not folder.exists():
        make_codes(folder, given.rows, given.features, given.k)
    codes, clock = open_codes(folder), Clock()
    table: dict[str, Any] = {"rows": codes.rows, "firings": codes.firings, "before": resident()}
    small = open_codes(folder)
    small.parts = small.parts[:1]  # compiles the loops
    clock.time("compiling, and the first part", lambda: counting.count(small, VOCABULARY))
    count, sizes, seconds = watched(codes)
    counted = clock.time("counting", count)
    del codes.blocks
    pairs: Pairs = clock.time("partners", counted.cofiring.pairs)
    found = clock.time("modules", lambda: modules_of(counted.cofiring, pairs, 0))
    tally = counted.tally
    chosen = clock.time("choosing", lambda: choose(tally.strongest(), tally.sample(), codes))
    numbers = np.arange(codes.rows // CONTEXT + 1)
    examples = clock.time(
        "surroundings",
        lambda: with_surroundings(chosen, codes, lambda _, pos: pos, numbers, chosen.value),
    )
    table |= {"after": resident(), "quarters MiB": sizes, "quarters seconds": seconds}
    table |= {"examples": len(examples.feature), "modules": len(found.found)}
    if given.map:
        directions = torch.randn(given.features, 768, generator=torch.Generator().manual_seed(0))
        alive = tally.count > 0
        near = clock.time("nearest", lambda: nearest(directions))
        clock.time("groups", lambda: direction_groups(directions, alive, near, 0))
        clock.time("map", lambda: feature_map(directions, alive, 0))
    print(json.dumps({**table, "wall": clock.wall, "cpu": clock.cpu}, indent=1))
    if given.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
