"""What training takes on a GPU: `python tests/benchmarks/gpu.py parts|steps|feeding|world`.

`parts`: milliseconds of what a step consists of, beside one product of the encoder. `steps`: rows a
second of our learner, and of others where they are installed (`--library ours saelens sparsify`).
`feeding`: rows a second of a training from a store on disk and from memory. `world`: a known
dictionary learned from 200 million rows. `profile` and `program` say where a step's time goes.
Prints lines of JSON.
"""

import argparse
import cProfile
import itertools
import json
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, normalize

from probe_sae.sae import few, fraction_unexplained, settings_for
from probe_sae.sae.kernels import cuda, cuda_selecting
from probe_sae.training import TrainSettings, train
from probe_sae.training.learner import Learner
from probe_sae.training.runs import Run

contestants: Any = import_module("contestants")  # beside this file


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
FEW = few.FEW
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
    wanted: dict[str, Any] = {"features": size.features, "k": size.k}
    if arch == "batchtopk":
        wanted["by_row"] = 0.0  # how batches choose; before, a step is that of topk
    settings = settings_for(arch, wanted)
    trainer = TrainSettings(rows=size.batch * 100_000, batch_size=size.batch, precision=precision)
    return Learner(Run(settings, 0), (size.d,), rows[:8192].cpu(), trainer, DEVICE)


def parts(size: Size) -> None:
    """Print what a step consists of."""
    x = world(size, size.batch, 1)
    mine = learner(size, "topk", x)
    W, b, D = (mine.sae.get_parameter(name).detach() for name in ("W_enc", "b_enc", "W_dec"))
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
    table = seen.key_averages().table(sort_by="self_cuda_time_total", row_limit=60)
    print(table, file=sys.stderr)


def program(size: Size, arch: str) -> None:
    """Print what the program itself does in a step."""
    x = world(size, size.batch, 1)
    mine = learner(size, arch, x)
    for i in range(5):
        mine.step(x, i)
    torch.cuda.synchronize()
    seen = cProfile.Profile()
    seen.enable()
    for i in range(50):
        mine.step(x, 14 + i)
    seen.disable()
    torch.cuda.synchronize()
    pstats.Stats(seen, stream=sys.stderr).sort_stats("tottime").print_stats(45)


Stepper = tuple[Callable[[Tensor], object], Callable[[Tensor], Tensor]]
"""Learns from a batch; returns the reconstruction of rows."""


def ours(size: Size, arch: str, rows: Tensor) -> Stepper:
    """Return our learner; `+tf32` or `+bf16` behind the architecture is a precision.

    `+dense` leaves out the sparse step of penalised dictionaries.
    """
    few.FEW = 0.0 if "+dense" in arch else FEW
    arch, _, precision = arch.replace("+dense", "").partition("+")
    mine, at = learner(size, arch, rows, precision or "float32"), itertools.count()
    return lambda rows: mine.step(rows, next(at)), mine.sae


def saelens(size: Size, arch: str, rows: Tensor) -> Stepper:
    """Return SAELens' trainer; `+autocast` behind the architecture is its own option."""
    arch, _, precision = arch.partition("+")
    sae_lens: Any = import_module("sae_lens")
    config: Any = import_module("sae_lens.config")
    trainers: Any = import_module("sae_lens.training.sae_trainer")
    kind, more = {
        "topk": ("TopK", {"k": size.k}),
        "batchtopk": ("BatchTopK", {"k": size.k}),
        "jumprelu": ("JumpReLU", {}),
        "l1": ("Standard", {"l1_coefficient": 0.3}),
    }[arch]
    made = getattr(sae_lens, f"{kind}TrainingSAEConfig")(
        d_in=size.d, d_sae=size.features, device="cuda", **more
    )
    sae = getattr(sae_lens, f"{kind}TrainingSAE")(made)
    settings = config.SAETrainerConfig(
        total_training_samples=size.batch * 100_000,
        train_batch_size_samples=size.batch,
        lr=1e-3,
        lr_end=1e-3,
        lr_warm_up_steps=1000,
        device="cuda",
        autocast=precision == "autocast",
        logger=config.LoggingConfig(log_to_wandb=False),
    )
    trainer = trainers.SAETrainer(settings, sae, data_provider=iter(()))

    def step(rows: Tensor) -> None:
        trainer.step(rows)
        trainer.n_training_steps += 1

    return step, lambda rows: sae.decode(sae.encode(rows))


def sparsify(size: Size, arch: str, rows: Tensor) -> Stepper:
    """Return sparsify: what its trainer's loop does, with its own bfloat16 and Triton."""
    library: Any = import_module("sparsify")
    torch.set_float32_matmul_precision("high")  # as its trainer does
    config = library.SparseCoderConfig(num_latents=size.features, k=size.k)
    sae = library.SparseCoder(size.d, config, device="cuda", dtype=torch.float32)
    sae.b_dec.data = rows[:8192].mean(0)
    optimiser = torch.optim.Adam(sae.parameters(), lr=1e-3, fused=True)

    def step(rows: Tensor) -> None:
        sae.set_decoder_norm_to_unit_norm()
        out = sae(x=rows, y=rows)
        out.fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        optimiser.zero_grad()

    def rebuild(rows: Tensor) -> Tensor:
        found = sae.encode(rows)
        return sae.decode(found.top_acts, found.top_indices)

    return step, rebuild


LIBRARIES = {"ours": ours, "saelens": saelens, "sparsify": sparsify}


def steps(size: Size, library: str, arch: str, count: int) -> None:
    """Print rows a second of a library."""
    batches = [world(size, size.batch, 1 + i) for i in range(6)]
    try:
        step, rebuild = LIBRARIES[library](size, arch, batches[0])
        torch.cuda.reset_peak_memory_stats()
        for i in range(10):
            step(batches[i % 5])
        torch.cuda.synchronize()
        began = time.perf_counter()
        for i in range(count):
            step(batches[i % 5])
        torch.cuda.synchronize()
        wall = time.perf_counter() - began
        peak = torch.cuda.max_memory_allocated() / 2**30
        with torch.no_grad():
            x = batches[5][:4096]
            unexplained = fraction_unexplained(x, rebuild(x).float())
    except Exception as problem:  # a library that cannot, or that is not there
        say(library=library, arch=arch, size=size, error=f"{type(problem).__name__}: {problem}")
        return
    finally:
        torch.set_float32_matmul_precision("highest")
    say(
        library=library,
        arch=arch,
        size=size,
        step_ms=round(1000 * wall / count, 3),
        rows_per_second=round(count * size.batch / wall),
        unexplained_after=(count + 10, round(unexplained, 4)),
        GiB=round(peak, 2),
    )


class GpuWorld:
    """A stream of sums of known directions, drawn on the GPU: Zipf's rates, half of them grouped.

    The same world as that of `contestants.py`, and seeds that no dictionary has.
    """

    def __init__(self, size: Size, rows: int) -> None:
        """Draw directions and rates."""
        self._size, self.rows, self.widths = size, rows, (size.d,)
        known = contestants.World(contestants.Size(size.d, size.features, size.k, size.batch))
        self.directions, self._rates = known.directions.to(DEVICE), known.rates.to(DEVICE)
        self._gates, self._grouped = known.gates.to(DEVICE), known.grouped

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return rows, [count, d]."""
        how: dict[str, Any] = {"generator": generator, "device": DEVICE}
        fires = torch.rand(count, self._size.features, **how) < self._rates
        opened = torch.rand(count, len(self._gates), **how) < self._gates
        fires[:, : self._grouped] &= opened.repeat_interleave(8, 1)
        codes = torch.randn(count, self._size.features, **how).mul_(0.25).add_(1).abs_()
        codes *= fires
        noise = torch.randn(count, self._size.d, **how)
        return torch.addmm(noise, codes, self.directions, beta=0.01)

    def epoch(self, number: int, batch: int, start: int = 0) -> Iterator[Tensor]:
        """Yield batches."""
        generator = torch.Generator(DEVICE).manual_seed(contestants.WORLD_SEED + number)
        for _ in range(start * batch, self.rows, batch):
            yield self.draw(batch, generator)

    def sample(self, count: int) -> Tensor:
        """Return rows that no epoch has."""
        generator = torch.Generator(DEVICE).manual_seed(contestants.WORLD_SEED - 1)
        return self.draw(count, generator).cpu()

    def in_order(self, batch: int) -> Iterator[Tensor]:
        """Yield an epoch."""
        return self.epoch(0, batch)


def learn_world(arch: str, rows: int, batch: int) -> None:
    """Print how long a known dictionary of 4,096 features on 768 dimensions takes to learn."""
    size = Size(768, 4096, 16, batch)
    stream = GpuWorld(size, rows)
    torch.set_float32_matmul_precision("high")  # of the world's own product
    generator = torch.Generator(DEVICE).manual_seed(1)
    drawing = milliseconds(lambda: stream.draw(batch, generator))
    began = time.perf_counter()
    settings = settings_for(arch, {"features": size.features, "k": size.k})
    sae = train(stream, settings, TrainSettings(rows=rows, batch_size=batch), device=DEVICE)
    seconds = time.perf_counter() - began
    rows_unseen = stream.sample(16384)
    cosines = stream.directions.cpu() @ normalize(sae.directions(), dim=1).T
    say(
        world=size,
        arch=arch,
        rows=rows,
        seconds=round(seconds, 1),
        rows_per_second=round(rows / seconds),
        drawing_ms_of_a_batch=drawing,
        recovered=round(float((cosines.amax(1) > 0.9).float().mean()), 4),
        mmcs=round(float(cosines.amax(1).mean()), 4),
        unexplained=round(fraction_unexplained(rows_unseen, sae(rows_unseen)), 4),
    )


def feeding(size: Size, arch: str, rows: int) -> None:
    """Print rows a second from a store on disk, from memory, and from the GPU's memory."""
    settings = settings_for(arch, {"features": size.features, "k": size.k})
    with tempfile.TemporaryDirectory() as folder:
        store = import_module("training").make_store(Path(folder) / "store", 1 << 18, size.d)
        memory = store["site"][:].float()
        for turn in range(3):
            for name, data in (("store", store), ("memory", memory), ("gpu", memory.to(DEVICE))):
                wanted = TrainSettings(rows=rows if turn else rows // 8, batch_size=size.batch)
                torch.cuda.synchronize()
                began = time.perf_counter()
                train(data, settings, wanted, device=DEVICE)
                seconds = time.perf_counter() - began
                say(feeding=name, arch=arch, size=size, turn=turn, seconds=round(seconds, 2),
                    rows_per_second=round(wanted.rows / seconds))  # fmt: skip


def main() -> None:
    """Print lines of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what", choices=["parts", "steps", "profile", "program", "feeding", "world"]
    )
    parser.add_argument("--size", default=["32k"], nargs="+", choices=SIZES)
    parser.add_argument("--arch", default=["topk"], nargs="+")
    parser.add_argument("--library", default=["ours"], nargs="+", choices=LIBRARIES)
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rows", type=int, default=200_000_000)
    given = parser.parse_args()
    if given.what == "world":
        for arch in given.arch:
            learn_world(arch, given.rows, given.batch or 32768)
        return
    for name in given.size:
        size = SIZES[name]
        size = size._replace(batch=given.batch or size.batch)
        if given.what == "parts":
            parts(size)
        for arch in given.arch:
            if given.what == "steps":
                for library in given.library:
                    steps(size, library, arch, given.steps)
            elif given.what == "feeding":
                feeding(size, arch, given.rows)
            elif given.what != "parts":
                {"profile": profile, "program": program}[given.what](size, arch)


if __name__ == "__main__":
    main()
