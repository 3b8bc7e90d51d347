"""Capture beside the bare forward pass: `python tests/benchmarks/capture.py [--device cuda]`.

A random GPT-2 of 12 layers, width 768, 16 contexts of 128 tokens; interleaved runs, medians of
ratios of wall and of CPU seconds. The bare pass ends where the deepest site is: a model cut off
there.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from probe_sae.host import Host, SiteWatch, load_host
from probe_sae.recording import Batch, RowGatherer
from probe_sae.store import ContextInput, SiteInfo, StoreWriter

WIDTH, LAYERS, TOKENS, CONTEXTS = 768, 12, 128, 16


def model(layers: int, device: str) -> Host:
    """Return a random GPT-2 without a head, of so many layers."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=WIDTH, n_layer=layers, n_head=12, vocab_size=1000, bos_token_id=0, eos_token_id=0
    )
    return load_host(transformers.GPT2Model(config), device=device)


def batch(number: int, device: str) -> Batch:
    """Return a batch of random tokens."""
    generator = torch.Generator().manual_seed(number)
    ids = torch.randint(1, 1000, (CONTEXTS, TOKENS), generator=generator)
    contexts = [
        ContextInput(number * CONTEXTS + i, number * CONTEXTS + i, "random", 0, row.numpy())
        for i, row in enumerate(ids.int())
    ]
    return Batch(
        {"input_ids": ids.to(device)},
        contexts,
        torch.ones(CONTEXTS, TOKENS, dtype=torch.bool),
        np.tile(np.arange(TOKENS), (CONTEXTS, 1)),
        torch.full((CONTEXTS,), -1),
    )


class Recorder:
    """What `capture` does with each batch, into a store on disk or into nothing."""

    def __init__(self, host: Host, sites: str, folder: Path | None) -> None:
        self.host, self.sites = host, host.find_sites(sites)
        self.gatherer = RowGatherer(host, self.sites, "patch")
        self.watch = SiteWatch(host, self.sites, self.gatherer.see, stop=True)
        infos = [SiteInfo(site.name, WIDTH, "float16") for site in self.sites]
        self.writer = None if folder is None else StoreWriter(folder, infos, "text")

    def run(self, given: Batch) -> None:
        """Record one batch."""
        with self.watch.attached():
            self.gatherer.expect(given)
            self.host(given.inputs)
        self.watch.check_fired_once()
        rows = self.gatherer.rows()
        if self.writer is not None:
            self.writer.append(rows)
            self.writer.wait()  # what its thread does counts here, not beside the next way


def timed(run: Any, given: Batch, device: str) -> tuple[float, float]:
    """Return wall and CPU seconds of one batch."""
    if device == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    run(given)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Print the ratios as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    device: str = options.device
    whole, cut = model(LAYERS, device), model(3, device)
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary) / name for name in ("all", "early")]
        for folder in folders:
            folder.mkdir()
        every, early = "blocks.*.resid_post", "blocks.2.resid_post"
        runs = {
            "bare": lambda b: whole(b.inputs),
            "bare to block 2": lambda b: cut(b.inputs),
            "all sites": Recorder(whole, every, None).run,
            "all sites to disk": Recorder(whole, every, folders[0]).run,
            "early site": Recorder(whole, early, None).run,
            "early site to disk": Recorder(whole, early, folders[1]).run,
        }
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        resident: list[int] = []
        for number in range(options.rounds + 2):
            given = batch(number, device)
            for name, run in runs.items():
                seconds[name].append(timed(run, given, device))
            resident.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)

    def ratio(name: str, base: str, which: int) -> float:
        pairs = list(zip(seconds[name], seconds[base], strict=True))[2:]
        return round(statistics.median(one[which] / other[which] for one, other in pairs), 3)

    result: dict[str, Any] = {
        "all sites / bare": [ratio("all sites", "bare", i) for i in (0, 1)],
        "all sites to disk / bare": [ratio("all sites to disk", "bare", i) for i in (0, 1)],
        "early / bare to its block": [ratio("early site", "bare to block 2", i) for i in (0, 1)],
        "early to disk / bare to its block": [
            ratio("early site to disk", "bare to block 2", i) for i in (0, 1)
        ],
        "early / bare": [ratio("early site", "bare", i) for i in (0, 1)],
        "peak MiB after 1/4, 1/2, 3/4, all": resident[len(resident) // 4 - 1 :: len(resident) // 4],
        "seconds of bare": round(statistics.median(wall for wall, _ in seconds["bare"]), 4),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
