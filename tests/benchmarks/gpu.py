"""What training takes on a GPU: `python tests/benchmarks/gpu.py parts|steps|peers|feeding|world`.

`parts`: milliseconds of what a step consists of, beside one product of the encoder. `steps`: rows a
second of our trainer and of others, where they are installed. `feeding`: the same from a store on
disk and from memory. `world`: a known dictionary learned from 200 million rows. Prints JSON lines.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, normalize

from probe_sae.sae import fraction_unexplained, settings_for
from probe_sae.sae.kernels import cuda, cuda_selecting
from probe_sae.training import TrainSettings
from probe_sae.training.learner import Learner
from probe_sae.training.runs import Run


class Size(NamedTuple):
    """What is learned, and with what."""

    d: int
    features: int
    k: int
    batch: int


SIZES = {
    "small": Size(768, 4096, 32, 16384),
    "32k": Size(768, 32768, 32, 8192),
    "131k": Size(4096, 131072, 64, 8192),
}
DEVICE = torch.device("cuda")


def say(**what: Any) -> None:
    """Print a line."""
    print(json.dumps(what), flush=True)


def milliseconds(work: Callable[[], object], rounds: int = 10) -> float:
    """Return the median time of some work on the GPU."""
    times: list[float] = []
    for turn in range(rounds + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        if turn >= 2:
            times.append(begin.elapsed_time(end))
    return round(statistics.median(times), 3)


def world(size: Size, rows: int, seed: int) -> Tensor:
    """Return rows that are sums of some of `size.features` directions, common ones first."""
    generator = torch.Generator(DEVICE).manual_seed(7)
    directions = normalize(
        torch.randn(size.features, size.d, generator=generator, device=DEVICE), dim=1
    )
    generator.manual_seed(seed)
    drawn = torch.rand(rows, size.k, generator=generator, device=DEVICE)
    chosen = (size.features ** (drawn**0.7) - 1).long().clamp(0, size.features - 1)  # Zipf's law
    strengths = 1 + torch.rand(rows, size.k, generator=generator, device=DEVICE)
    noise = 0.01 * torch.randn(rows, size.d, generator=generator, device=DEVICE)
    return cuda.weighted_sums(cuda.SparseCodes(strengths, chosen), directions) + noise


def products(x: Tensor, W: Tensor, b: Tensor) -> dict[str, float]:
    """Return milliseconds of the encoder's product alone, in several precisions."""
    found: dict[str, float] = {}
    chunk = max(1, (1 << 28) // len(W))
    for name, dtype, mode in (
        ("float32", torch.float32, "highest"),
        ("tf32", torch.float32, "high"),
        ("bfloat16", torch.bfloat16, "highest"),
        ("float16", torch.float16, "highest"),
    ):
        torch.set_float32_matmul_precision(mode)
        parts = [part.to(dtype) for part in (x, W, b)]

        def multiply(parts: list[Tensor] = parts) -> None:
            for rows in parts[0].split(chunk):
                linear(rows, *parts[1:])

        found[name] = milliseconds(multiply, 5)
    torch.set_float32_matmul_precision("highest")
    return found


def learner(size: Size, arch: str, rows: Tensor, precision: str = "float32") -> Learner:
    """Return our own, ready to learn."""
    settings = settings_for(arch, {"features": size.features, "k": size.k})
    trainer = TrainSettings(rows=size.batch * 100_000, batch_size=size.batch, precision=precision)
    return Learner(Run(settings, 0), (size.d,), rows[:8192].cpu(), trainer, DEVICE)


def parts(size: Size) -> None:
    """Print what a step consists of."""
    x = world(size, size.batch, 1)
    mine = learner(size, "topk", x)
    W, b, D = (p.detach() for p in (mine.sae.W_enc, mine.sae.b_enc, mine.sae.W_dec))
    say(size=size, product=products(x, W, b))
    screen, k = cuda._Screen.of(x, W, b), size.k
    codes = cuda.top(x, W, b, k)
    slopes, grad = torch.rand_like(codes.values), torch.empty_like(W)
    some = screen.pieces()[0]
    judged = screen.judged(some)
    room = cuda._power(2 * k + 64)
    counts = torch.zeros(len(x), dtype=torch.int32, device=DEVICE)
    listed = torch.zeros(len(x), room, dtype=torch.int32, device=DEVICE)
    found = x.new_zeros(len(x), room)
    lists = listed[some], counts[some], len(W), size.d, k, room

    def list_them(groups: int = 1024, warps: int = 4) -> None:
        counts.zero_()
        cuda_selecting.list_largest[(len(lists[0]),)](*judged, *lists, groups, num_warps=warps)

    list_them()
    pieces = len(screen.pieces())
    say(
        rows_with_room=float((counts[some] <= room).float().mean()),
        candidates=float(counts[some].float().mean()),
        pieces=pieces,
        screen=milliseconds(lambda: cuda._Screen.of(x, W, b)),
        product16=round(pieces * milliseconds(lambda: screen.judged(some)), 3),
        list={
            f"{g}/{w}": round(pieces * milliseconds(lambda g=g, w=w: list_them(g, w)), 3)
            for g in (1024, 2048)
            for w in (4, 8)
        },
    )
    cuda_selecting.list_largest[(len(lists[0]),)](*judged, *lists, 1024)
    say(
        exact={
            f"{e}x{c}/{w}": milliseconds(
                lambda e=e, c=c, w=w: cuda_selecting.exact[(len(x),)](
                    x, W, b, listed, counts, counts, found, size.d, room, True, e, c, num_warps=w
                )
            )
            for e, c, w in ((8, 256, 4), (16, 256, 4), (16, 128, 4), (8, 256, 2), (32, 64, 4))
        },
        choose={
            block: milliseconds(
                lambda block=block: cuda_selecting.choose[(len(x),)](
                    listed, found, counts, *codes, k, room, room, block
                )
            )
            for block in (16, 32, 64)
        },
        top=milliseconds(lambda: cuda.top(x, W, b, k)),
        errors=milliseconds(lambda: cuda.errors(codes, D, x[0], x)),
        weighted_sums=milliseconds(lambda: cuda.weighted_sums(codes, D)),
        dots=milliseconds(lambda: cuda.dots(codes, D, x)),
        sums_by_feature=milliseconds(lambda: cuda.sums_by_feature(codes, slopes, x, grad)),
    )
    for name, values in (
        ("ENTRIES", (4, 8, 16)),
        ("COLUMNS", (128, 256, 512)),
        ("PIECE", (32, 64, 128)),
    ):
        before = getattr(cuda, name)
        times: dict[int, list[float]] = {}
        for value in values:
            setattr(cuda, name, value)
            times[value] = [
                milliseconds(lambda: cuda.weighted_sums(codes, D)),
                milliseconds(lambda: cuda.dots(codes, D, x)),
                milliseconds(lambda: cuda.sums_by_feature(codes, slopes, x, grad)),
            ]
        setattr(cuda, name, before)
        say(**{name: times})
    mine.step(x, 0)
    mine.step(x, 1)

    def clip() -> None:
        mine._clip(1.0)

    say(
        clip=milliseconds(clip),
        adam=milliseconds(mine._optimiser.step),
        before_update=milliseconds(mine.sae.before_update),
        constrain=milliseconds(mine.sae.constrain),
        step=milliseconds(lambda: mine.step(x, 9)),
    )


def profile(size: Size, arch: str) -> None:
    """Print where a step's time goes, by kernel, and how long the program itself takes."""
    x = world(size, size.batch, 1)
    mine = learner(size, arch, x)
    for i in range(5):
        mine.step(x, i)
    torch.cuda.synchronize()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    ) as seen:
        for i in range(5):
            mine.step(x, 9 + i)
        torch.cuda.synchronize()
    print(
        seen.key_averages().table(sort_by="cuda_time_total", row_limit=32, max_name_column_width=60)
    )


def steps(size: Size, arch: str, count: int, precision: str = "float32") -> None:
    """Print rows a second of our learner."""
    batches = [world(size, size.batch, 1 + i) for i in range(8)]
    mine = learner(size, arch, batches[0], precision)
    torch.cuda.reset_peak_memory_stats()
    for i in range(20):
        mine.step(batches[i % 8], i)
    torch.cuda.synchronize()
    began = time.perf_counter()
    program = time.process_time()
    for i in range(count):
        result = mine.step(batches[i % 8], 20 + i)
    program = time.process_time() - program
    torch.cuda.synchronize()
    wall = time.perf_counter() - began
    say(
        library="ours",
        arch=arch,
        precision=precision,
        size=size,
        step_ms=round(1000 * wall / count, 3),
        program_ms=round(1000 * program / count, 3),
        rows_per_second=round(count * size.batch / wall),
        unexplained=fraction_unexplained(result.target, result.x_hat.detach()),
        GiB=round(torch.cuda.max_memory_allocated() / 2**30, 2),
    )


def main() -> None:
    """Print lines of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["parts", "steps", "profile"])
    parser.add_argument("--size", default=["32k"], nargs="+", choices=SIZES)
    parser.add_argument("--arch", default=["topk"], nargs="+")
    parser.add_argument("--steps", type=int, default=100)
    given = parser.parse_args()
    for name in given.size:
        if given.what == "parts":
            parts(SIZES[name])
        for arch in given.arch if given.what == "steps" else ():
            steps(SIZES[name], arch, given.steps)
        for arch in given.arch if given.what == "profile" else ():
            profile(SIZES[name], arch)


if __name__ == "__main__":
    main()
