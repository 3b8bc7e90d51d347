"""What a host loses with TopK dictionaries of this project and of others in place.

    python tests/benchmarks/spliced.py STORE --features 2048 --k 16 --batch 2048 \
        --peer saelens=VENV/bin/python:0.01 --peer sparsify=...:0.01 --peer dictlearn=...:0.003

All learn from the same rows of the store's first site, on the scale that all expect; ours by
default settings, others at the learning rate behind the colon. Each dictionary is then one of ours,
after a comparison of reconstructions, and is measured by `evaluate` on held-out contexts: what is
unexplained, and how much of the loss is recovered. Prints JSON: means over seeds, 1.96 standard
errors, and each seed's values.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from contest import Worker
from safetensors.torch import load_file, save_file

import probe_sae as ps
from probe_sae.host import Host
from probe_sae.sae import SAE
from probe_sae.store import Store, held_out_contexts

METRICS = ("fraction_unexplained", "loss_recovered")
HELD_OUT = 0.1


def write_rows(store: Store, site: str, path: Path) -> float:
    """Write the rows to learn from and the others; return the scale on which all learn."""
    held = held_out_contexts(store.contexts, HELD_OUT, 0)
    unseen = torch.from_numpy(store.marked(held))
    rows = store[site][:].float()
    save_file({"train": rows[~unseen], "unseen": rows[unseen]}, path)
    return float((rows.shape[1] / rows[~unseen].square().sum(1).mean()) ** 0.5)


def as_ours(file: str, k: int, scale: float, store: Store, site: str) -> SAE:
    """Return a dictionary that others have learned as one of ours.

    Raises:
        SystemExit: it reconstructs something else than it did there.
    """
    found = load_file(file)
    features, d = found["W_enc"].shape
    sae = ps.make_sae(ps.TopK(features=features, k=k), d)
    with torch.no_grad():
        for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
            sae.get_parameter(name).copy_(found[name])
        sae.input_scale.fill_(scale)
        error = (sae(found["rows"] / scale) * scale - found["x_hat"]).norm()
    if error > 1e-3 * found["x_hat"].norm():
        raise SystemExit(f"{file}: reconstructions differ by {error}.")
    sae.provenance = {
        "sites": [site],
        "store": {"recording": store.recording},
        "split": {"held_out": HELD_OUT, "seed": 0},
    }
    return sae.requires_grad_(False)


def measured(
    given: argparse.Namespace, library: str, python: str, lr: str, store: Store, host: Host
) -> dict[str, Any]:
    """Return what the dictionaries of a library leave unexplained and recover, over seeds."""
    (site,) = list(store.sites)[:1]
    arch = "topk-sparse" if library == "saelens" else "topk"
    seen: dict[str, list[float]] = {name: [] for name in METRICS}
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.safetensors"
        scale = write_rows(store, site, rows)
        size = f"{rows}:{given.features}:{given.k}:{given.batch}"
        for seed in range(given.seeds):
            worker = Worker(python, library, arch, size, given.steps, lr, seed, threads=1)
            worker.ask(f"train {given.steps}")
            worker.ask("judge")
            saved = worker.ask(f"save {folder}/{seed}.safetensors")["saved"]
            worker.end()
            sae = as_ours(saved, given.k, scale, store, site)
            recipe = ps.load_dataset(given.dataset or store.provenance["dataset"]["name"])
            metrics = ps.evaluate(sae, store, host=host, dataset=recipe, baselines=False).metrics
            for name in METRICS:
                seen[name].append(metrics.get(name, float("nan")))
    spread = {name: statistics.stdev(v) if len(v) > 1 else 0.0 for name, v in seen.items()}
    return {
        name: [
            round(statistics.fmean(values), 5),
            round(1.96 * spread[name] / len(values) ** 0.5, 5),
            [round(value, 5) for value in values],
        ]
        for name, values in seen.items()
    }


def main() -> None:
    """Print a table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--host")
    parser.add_argument(
        "--dataset", help="where the store was recorded from; by its name otherwise"
    )
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON:RATE")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    store = ps.open_store(given.store)
    host = ps.load_host(given.host or store.provenance["host"]["name"])
    table = {"ours": measured(given, "ours", sys.executable, "0", store, host)}
    print(json.dumps({"ours": table["ours"]}), file=sys.stderr, flush=True)
    for peer in given.peer:
        library, where = peer.split("=", 1)
        python, lr = where.rsplit(":", 1)
        table[f"{library} {lr}"] = measured(given, library, python, lr, store, host)
        print(json.dumps({peer: table[f"{library} {lr}"]}), file=sys.stderr, flush=True)
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
