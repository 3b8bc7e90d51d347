"""What training takes and reaches: `python tests/benchmarks/training.py memory|targets`.

`memory`: the largest resident size of a training of 16,384 features on rows of width 768, read from
a store, and how it grows: before, and after each quarter of the run; `--silent 0.5` begins with so
many features that cannot fire. `targets`: how near mean L0 comes to k within 2,000 steps of a
synthetic world, on rows that training has not seen, at defaults.
"""

import argparse
import json
import resource
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from probe_sae.sae import ARCHITECTURES, Settings, fraction_unexplained, settings_for
from probe_sae.store import ContextInput, RecordedRows, SiteInfo, Store, StoreWriter, open_store
from probe_sae.training import TrainSettings, train
from probe_sae.training.loop import Training


def world(rows: int, seed: int, d_model: int = 128, features: int = 512, k: int = 8) -> Any:
    """Return sums of k of many directions, commoner ones first, with a little noise."""
    directions = normalize(
        torch.randn(features, d_model, generator=torch.Generator().manual_seed(7)), dim=1
    )
    generator = torch.Generator().manual_seed(seed)
    chance = (torch.arange(features) + 10.0) ** -0.7
    chosen = torch.multinomial(chance.expand(rows, -1), k, generator=generator)
    strength = 1 + torch.rand(rows, k, generator=generator)
    noise = 0.05 * torch.randn(rows, d_model, generator=generator)
    return torch.einsum("rk,rkd->rd", strength, directions[chosen]) + noise


def targets() -> dict[str, Any]:
    """Return L0 over k, and what is unexplained, of every architecture with a target."""
    train_rows, fresh = world(200_000, 1), world(20_000, 2)
    run = TrainSettings(rows=2_000 * 1024, batch_size=1024)
    table: dict[str, Any] = {}
    wanted: list[tuple[str, dict[str, Any]]] = [
        ("jumprelu", {}), ("l1", {}), ("l1", {"unit_norm": True}), ("gated", {}),
        ("batchtopk", {}), ("matryoshka", {}), ("frozen_decoder", {}),
    ]  # fmt: skip
    for arch, more in wanted:
        for k in (8, 32):
            settings: Settings = settings_for(arch, {"features": 1024, "k": k, **more})
            sae = train(train_rows, settings, run, device="cpu")
            codes = sae.encode_sparse(fresh)
            l0 = float((codes.values != 0).sum()) / len(fresh)
            name = " ".join([arch, *more, f"k {k}"])
            table[name] = {
                "L0 / k": round(l0 / k, 4),
                "unexplained": round(fraction_unexplained(fresh, sae(fresh)), 4),
                "dead": round(sae.log[-1]["dead_fraction"], 4),
            }
            print(name, table[name], file=sys.stderr)
    return table


def make_store(folder: Path, rows: int, width: int) -> Store:
    """Return a store of random rows in float16."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    with StoreWriter(folder, [SiteInfo("site", width)], "text") as writer:
        for start in range(0, rows, 4096):
            context = np.repeat(np.arange(start // 128, start // 128 + 32, dtype=np.uint32), 128)
            columns: dict[str, Any] = {"doc": context, "context": context, "pos": context}
            columns["token"] = context.astype(np.int32)
            contexts = [ContextInput(int(i), int(i), "", 0, None) for i in np.unique(context)]
            acts = torch.from_numpy(generator.standard_normal((4096, width), np.float32))
            writer.append(RecordedRows({"site": acts}, columns, contexts))
        writer.finish({})
    return open_store(folder)


def memory(arch: str, rows: int, batch: int, silent: float) -> dict[str, Any]:
    """Return the largest resident MiB before a training and after each quarter of it."""
    seen: list[float] = []
    dead: list[float] = []
    real = Training._step

    def watched(self: Training, *arguments: Any) -> None:
        (learner,) = self.learners
        if not seen and silent:
            with torch.no_grad():
                learner.sae.get_parameter("b_enc")[: int(silent * learner.sae.features)] = -10.0
        real(self, *arguments)
        seen.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        dead.append(float(learner._dead().float().mean()))

    setattr(Training, "_step", watched)  # noqa: B010
    kind = ARCHITECTURES[arch]
    settings = replace(kind(), features=16_384)
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "store", 1 << 17, 768)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        train(store, settings, TrainSettings(rows=rows, batch_size=batch), device="cpu")
    quarters = [len(seen) * i // 4 - 1 for i in range(1, 5)]
    return {
        "arch": arch,
        "batch": batch,
        "before": round(before),
        "MiB": [round(seen[at]) for at in quarters],
        "dead": [round(dead[at], 3) for at in quarters],
    }


def main() -> None:
    """Print a table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["memory", "targets"])
    parser.add_argument("--arch", default="batchtopk")
    parser.add_argument("--rows", type=int, default=1 << 18)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--silent", type=float, default=0.0)
    given = parser.parse_args()
    if given.what == "targets":
        print(json.dumps(targets(), indent=1))
    else:
        print(json.dumps(memory(given.arch, given.rows, given.batch, given.silent)))


if __name__ == "__main__":
    main()
