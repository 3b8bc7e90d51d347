"""This project beside other libraries: `python tests/benchmarks/contest.py speed|quality`.

`speed`: seconds of a training step, taking turns. `quality`: what is found of a known dictionary
after equal rows; with `--size FILE:FEATURES:K:BATCH`, what of recorded rows (tensors `train` and
`unseen` of a safetensors file) is explained. Others take part where their interpreter is given:
`--peer saelens=VENV/bin/python` (saelens, sparsify, dictlearn); ours sets torch up as the command
line does. Prints JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from probe_sae.cli import FOR_TORCH

WORKER = Path(__file__).with_name("contestants.py")
ARCHS = {
    "ours": ["topk", "batchtopk", "jumprelu", "l1", "gated"],
    "saelens": ["topk", "topk-sparse", "batchtopk", "jumprelu", "l1"],
    "sparsify": ["topk", "topk-signum", "groupmax-signum"],
    "dictlearn": ["topk", "batchtopk", "jumprelu", "l1"],
}


class Worker:
    """A contestant's process."""

    def __init__(self, python: str, *what: object, threads: int) -> None:
        """Start it, and wait until it is ready."""
        environment = os.environ | {"WANDB_MODE": "disabled", "TQDM_DISABLE": "1"}
        environment |= {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        environment |= {"SPARSIFY_DISABLE_TRITON": "1"}
        if what[0] == "ours":
            environment |= FOR_TORCH
        self._process = subprocess.Popen(
            [python, str(WORKER), *map(str, what), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if "-q" in sys.argv else None,
            text=True,
            env=environment,
        )
        self.ready = self._answer()

    def ask(self, order: str) -> dict[str, Any]:
        """Return the answer to an order; `error` where the process has ended."""
        try:
            print(order, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            return {"error": "ended"}
        return self._answer()

    def end(self) -> None:
        """Let it go."""
        self._process.kill()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        line = (self._process.stdout or sys.stdin).readline()
        return json.loads(line) if line else {"error": "ended"}


def speed(given: argparse.Namespace, pythons: dict[str, str]) -> dict[str, Any]:
    """Return median milliseconds of a step, CPU and wall, and how many times ours."""
    archs = {library: given.arch or ARCHS[library] for library in pythons}
    names = [
        (lib, a if lib == "ours" else a.split("+")[0])
        for lib, mine in archs.items()
        for a in mine
        if a.split("+")[0] in ARCHS[lib]
    ]
    workers = {
        f"{lib} {arch}": Worker(
            pythons[lib], lib, arch, given.size, 1000, 1e-3, 0, threads=given.threads
        )
        for lib, arch in names
    }
    if given.skip:  # what a step of ours takes depends on how much fires by then
        for name, worker in workers.items():
            if name.startswith("ours"):
                worker.ask(f"train {given.skip}")
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in workers}
    for turn in range(given.rounds + 1):
        for name, worker in workers.items():
            answer = worker.ask(f"train {given.steps or 1}")
            if turn and "cpu" in answer:
                seen[name].append((1000 * answer["cpu"], 1000 * answer["wall"]))
    for worker in workers.values():
        worker.end()
    table: dict[str, Any] = {}
    for name, times in seen.items():
        if times:
            cpu, wall = (statistics.median(column) for column in zip(*times, strict=True))
            table[name] = {"cpu ms": round(cpu, 1), "wall ms": round(wall, 1)}
    own = {name: row for name, row in table.items() if name.startswith("ours")}
    for row in table.values():
        row["times"] = {
            name: round(row["cpu ms"] / mine["cpu ms"], 2) for name, mine in own.items()
        }
    return table


def quality(given: argparse.Namespace, pythons: dict[str, str]) -> dict[str, Any]:
    """Return what each has learned after equal rows: mean over seeds, and 1.96 standard errors."""
    table: dict[str, Any] = {}
    for library, python in pythons.items():
        rates = [0.0] if library == "ours" else given.lr
        for arch in given.arch or ARCHS[library]:
            if arch.split("+")[0] not in ARCHS[library]:
                continue
            for lr in rates[:1] if arch.endswith("signum") else rates:
                runs: list[dict[str, float]] = []
                for seed in range(given.seeds):
                    what = library, arch, given.size, given.steps, lr, seed
                    worker = Worker(python, *what, threads=given.threads)
                    spent = worker.ask(f"train {given.steps}")
                    result = worker.ask("judge") if "error" not in spent else spent
                    worker.end()
                    if "error" in result:
                        break
                    first = worker.ready["at_first"]
                    known = {} if first is None else {"at first": first}
                    runs.append({**known, **result, **spent})
                if not runs:
                    continue
                row: dict[str, Any] = {}
                for key in runs[0]:
                    column = [run[key] for run in runs]
                    spread = statistics.stdev(column) if len(column) > 1 else 0.0
                    row[key] = (
                        round(statistics.fmean(column), 4),
                        round(1.96 * spread / len(column) ** 0.5, 4),
                    )
                table[f"{library} {arch}" + (f" lr {lr:g}" if lr else "")] = row
                print(f"{library} {arch} {lr:g}", json.dumps(row), file=sys.stderr, flush=True)
    return table


def main() -> None:
    """Print a table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["speed", "quality"])
    parser.add_argument("--size", default="c")
    parser.add_argument("--arch", action="append")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--skip", type=int, default=0, help="steps of ours before the first timed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lr", type=float, nargs="+", default=[3e-3, 5e-3, 1e-2])
    parser.add_argument("-q", action="store_true", help="swallow what libraries print")
    given = parser.parse_args()
    pythons = {"ours": sys.executable} | dict(pair.split("=", 1) for pair in given.peer)
    if given.what == "quality":
        given.steps = given.steps or 500
        print(json.dumps(quality(given, pythons), indent=1))
    else:
        print(json.dumps(speed(given, pythons), indent=1))


if __name__ == "__main__":
    main()
