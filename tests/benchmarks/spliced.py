"""What a host loses with TopK dictionaries of this project and of others in place.

    python tests/benchmarks/spliced.py STORE --features 2048 --k 16 --batch 2048 \
        --peer saelens=VENV/bin/python:0.01 --peer sparsify=...:0.01 --peer dictlearn=...:0.003

All learn from the same rows of the store's first site, on the scale that all expect; ours by
default settings, others at the learning rate behind the colon. Each dictionary is then one of ours,
after a comparison of reconstructions, and is measured by `evaluate` on held-out contexts: what is
unexplained, and how much of the loss is recovered. Prints JSON: means over seeds, 1.96 standard
errors, and each seed's values.

`--photographs FOLDER`, of files and a `labels.json` that says each one's class, is for hosts of
images; a store that is not there is captured from these, `--host` and `--site`.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contest import Worker
from PIL import Image
from safetensors.torch import load_file, save_file

import probe_sae as ps
from probe_sae.host import Host
from probe_sae.recording import Recipe
from probe_sae.sae import SAE
from probe_sae.store import Store, held_out_contexts

METRICS = ("fraction_unexplained", "loss_recovered")


def photographs(folder: Path) -> Recipe:
    """Return photographs with the classes that the host tells apart."""

    def read() -> Iterator[tuple[str, Any, int]]:
        classes = json.loads((folder / "labels.json").read_text())
        for name, number in sorted(classes.items()):
            with Image.open(folder / name) as image:
                yield name, np.asarray(image.convert("RGB")), number

    return ps.dataset_from(read, name="photographs", kind="image")


def write_rows(store: Store, site: str, path: Path, held_out: float) -> float:
    """Write the rows to learn from and the others; return the scale on which all learn."""
    held = held_out_contexts(store.contexts, held_out, 0)
    unseen = torch.from_numpy(store.marked(held))
    rows = store[site][:].float()
    save_file({"train": rows[~unseen], "unseen": rows[unseen]}, path)
    return float((rows.shape[1] / rows[~unseen].square().sum(1).mean()) ** 0.5)


def as_ours(given: argparse.Namespace, file: str, scale: float, store: Store, site: str) -> SAE:
    """Return a dictionary that others have learned as one of ours.

    Raises:
        SystemExit: it reconstructs something else than it did there.
    """
    found = load_file(file)
    features, d = found["W_enc"].shape
    sae = ps.make_sae(ps.TopK(features=features, k=given.k), d)
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
        "split": {"held_out": given.held_out, "seed": 0},
    }
    return sae.requires_grad_(False)


def dataset_of(given: argparse.Namespace, store: Store | None) -> Recipe:
    """Return what the store was recorded from, or is to be."""
    if given.photographs:
        return photographs(given.photographs)
    name = given.dataset or (store and store.provenance["dataset"]["name"])
    if not name:
        raise SystemExit(f"{given.store} is not there; say what to capture it from.")
    return ps.load_dataset(name)


def measured(
    given: argparse.Namespace, library: str, python: str, lr: str, store: Store, host: Host
) -> dict[str, Any]:
    """Return what the dictionaries of a library leave unexplained and recover, over seeds."""
    (site,) = list(store.sites)[:1]
    arch = "topk-sparse" if library == "saelens" else "topk"
    seen: dict[str, list[float]] = {name: [] for name in METRICS}
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.safetensors"
        scale = write_rows(store, site, rows, given.held_out)
        size = f"{rows}:{given.features}:{given.k}:{given.batch}"
        for seed in range(given.seeds):
            worker = Worker(python, library, arch, size, given.steps, lr, seed, threads=1)
            worker.ask(f"train {given.steps}")
            worker.ask("judge")
            saved = worker.ask(f"save {folder}/{seed}.safetensors")["saved"]
            worker.end()
            sae = as_ours(given, saved, scale, store, site)
            recipe = dataset_of(given, store)
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
    parser.add_argument("--site", default="blocks.3.out")
    parser.add_argument("--held-out", type=float, default=0.1)
    parser.add_argument("--photographs", type=Path)
    parser.add_argument(
        "--dataset", help="where the store was recorded from; by its name otherwise"
    )
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON:RATE")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    if given.store.exists():
        store = ps.open_store(given.store)
        host = ps.load_host(given.host or store.provenance["host"]["name"])
    else:
        host = ps.load_host(given.host)
        store = ps.capture(host, dataset_of(given, None), [given.site], given.store)
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
