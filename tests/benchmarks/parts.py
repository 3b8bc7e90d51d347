"""Where a TopK step goes on a CPU: `python tests/benchmarks/parts.py --size a`.

CPU milliseconds of one thread, medians over steps in a row, of the sizes of `contestants.py`; then
the encoder's product alone, in float32 and bfloat16 as torch makes it, in turns. Prints JSON.
`--product int8` or `float32`: as CPUs take a step that have less than this one.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from contestants import SIZES, World
from torch.nn.functional import linear

from probe_sae.sae import TopK
from probe_sae.sae.kernels import cpu, cpu_screens, cpu_selecting
from probe_sae.training import TrainSettings
from probe_sae.training.learner import Learner
from probe_sae.training.runs import Run

PARTS: dict[str, list[tuple[Any, str]]] = {
    "rounding and laying out": [(cpu_screens, "screen_of")],
    "product": [
        (cpu_screens.Bfloat16Screen, "patterns"),
        (cpu_screens.Int8Screen, "patterns"),
        (cpu, "_product"),
    ],
    "choosing firings, computing them again": [
        (cpu_selecting, "top_screened"),
        (cpu_selecting, "top"),
    ],
    "reconstructions, errors, slopes of codes": [(cpu, "errors"), (cpu, "dots")],
    "weight gradients": [(cpu, "sums_by_feature")],
    "lengths of directions": [(cpu, "keep_lengths"), (cpu, "unit_rows")],
    "norm of the gradient": [(Learner, "_clip")],
    "Adam": [(torch.optim.Adam, "step")],
}


def main() -> None:
    """Print a table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="a", choices=["a", "b"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--skip", type=int, default=5, help="steps before the first timed")
    parser.add_argument("--product", choices=["bfloat16", "int8", "float32"])
    given = parser.parse_args()
    if given.product:
        setattr(cpu_screens, "has_bfloat16", lambda: given.product == "bfloat16")  # noqa: B010
        setattr(cpu_screens, "has_int8", lambda: given.product == "int8")  # noqa: B010
    torch.set_num_threads(1)
    size = SIZES[given.size]
    world, steps = World(size), given.skip + given.steps
    trainer = TrainSettings(rows=1000 * size.batch, batch_size=size.batch)
    run = Run(TopK(features=size.features, k=size.k), 0)
    learner = Learner(run, (size.d,), world.rows(8192, 0), trainer, torch.device("cpu"))
    spent = dict.fromkeys(PARTS, 0.0)
    for part, places in PARTS.items():
        for owner, name in places:
            _watch(owner, name, part, spent)
    table: list[dict[str, float]] = []
    for step in range(steps):
        rows = world.rows(size.batch, 10_000 + step)
        spent.update(dict.fromkeys(spent, 0.0))
        began = time.process_time()
        learner.step(rows, step)
        whole = time.process_time() - began
        rest = whole - sum(spent.values())
        table.append({**spent, "all else": rest, "step": whole})
    medians = {n: statistics.median(t[n] for t in table[given.skip :]) for n in table[0]}
    parts = {
        name: {"ms": round(1000 * s, 1), "share": round(s / medians["step"], 3)}
        for name, s in medians.items()
    }
    print(json.dumps({"parts": parts, "product alone, ms": _products(size)}, indent=1))


def _watch(owner: Any, name: str, part: str, spent: dict[str, float]) -> None:
    """Let a function count its CPU seconds as those of a part."""
    inner: Callable[..., Any] = getattr(owner, name)

    def timed(*arguments: Any, **options: Any) -> Any:
        began = time.process_time()
        try:
            return inner(*arguments, **options)
        finally:
            spent[part] += time.process_time() - began

    setattr(owner, name, timed)


def _products(size: Any) -> dict[str, float]:
    found: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    x, W = torch.randn(size.batch, size.d), torch.randn(size.features, size.d)
    for _ in range(7):
        for name, seconds in found.items():
            operands = [tensor.to(getattr(torch, name)) for tensor in (x, W)]
            began = time.process_time()
            linear(*operands)
            seconds.append(time.process_time() - began)
    return {name: round(1000 * statistics.median(seconds), 1) for name, seconds in found.items()}


if __name__ == "__main__":
    main()
