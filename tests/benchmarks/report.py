"""What a report costs: `python tests/benchmarks/report.py [--features 16384] [--no-browser]`.

Makes an analysis of random features with the shapes of a real one (32 features fire on a row; 20
strongest and 36 random examples a feature; around each as many firings as features of its density
had in the demo's dictionary; 16 commonest tokens, contexts of 128 tokens from a
Zipf vocabulary of 50,257), writes its report, and opens it in headless Chromium from disk. Prints
JSON: seconds and largest resident size to write, bytes by kind of file, bytes a feature; wall
milliseconds from the start of navigation to the first frame after the list is painted, to a cold
and a warm feature page and to the map, milliseconds of the page's main thread, megabytes of
JavaScript heap (after a collection). Medians of `--repeats` runs, each in a fresh browser profile
except the warm page. Budgets stand beside; they are judged on an idle machine, wall times of a busy
one say little and the main thread's more.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from browsing import cpu_ms, heap_mb, painted, start_browser

from probe_sae.analysis.arrays import RANDOM, TOP, Examples, Features
from probe_sae.analysis.cofiring import Pairs
from probe_sae.analysis.contexts import TextInputs
from probe_sae.analysis.labels import Labels, SampledFirings
from probe_sae.analysis.result import Analysis
from probe_sae.analysis.sampled import SampledRows
from probe_sae.reporting import write_report

VOCABULARY, CONTEXT, CONTEXTS = 50_257, 128, 24_576
TOPS, DRAWN, FIRE_ON_A_ROW = 20, 36, 32
BUDGETS: dict[str, dict[int, float]] = {
    "report_mb": {16_384: 30, 131_072: 150},
    "write_seconds": {16_384: 60},
    "index_bytes_a_feature": {16_384: 24, 131_072: 24},
    "list_wall_ms": {16_384: 1000, 131_072: 1000},
    "list_cpu_ms": {16_384: 100, 131_072: 200},
    "cold_wall_ms": {16_384: 700, 131_072: 700},
    "warm_wall_ms": {16_384: 100, 131_072: 100},
    "map_cpu_ms": {131_072: 2000},
    "list_heap_mb": {131_072: 40},
    "feature_heap_mb": {131_072: 90},
    "map_heap_mb": {131_072: 160},
}
"""Largest of each at each size."""
_BELL = VOCABULARY / 5 / 2.507 * np.exp(-(np.linspace(-4, 4, 40) ** 2) / 2)
"""Effects on logits that lie in each of 40 bins, of a normal law."""
GOES_ON = 0.6
"""Chance that a feature fires on the next token too, in the stretches of text where it fires."""


def big_analysis(features: int, seed: int = 0) -> Analysis:
    """Return an analysis of random features; some 3 kB of memory a feature."""
    rng = np.random.default_rng(seed)
    tokens = _zipf(rng, CONTEXTS * CONTEXT)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    pieces = [
        ("".join(letters[row[: 2 + row[0] % 7]])).encode()
        for row in rng.integers(0, len(letters), (VOCABULARY, 8)).tolist()
    ]
    pieces = [b" " + piece if i % 2 else piece for i, piece in enumerate(pieces)]
    contexts = np.arange(CONTEXTS)
    inputs = TextInputs(
        tokens, np.arange(CONTEXTS + 1, dtype=np.int64) * CONTEXT, (contexts // 8).astype(np.int32),
        (contexts % 8 * CONTEXT).astype(np.int32), [f"library/part_{i}.py" for i in range(3072)],
        pieces, [0],
    )  # fmt: skip
    found = _columns(rng, features)
    info = _info(features)
    number = np.zeros(0, np.int64)
    pairs = Pairs(number, number, np.zeros(0, np.float64), number)
    none = np.zeros(0, np.int32)
    rows = SampledRows(none, none, np.zeros(1, np.int64), none, np.zeros(0, np.float32), none,
                       np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32))  # fmt: skip
    score = np.full(features, 0.9)
    words = ["exactly {}, {} or 4 more".format(*rng.integers(0, 999, 2)) for _ in range(features)]
    number = np.full(features, 50, np.int64)
    scores: Any = dict.fromkeys(_SCORES, score)
    labels = Labels(words, [None] * features, **scores, is_clear=score > 0.8,
                    firings_scored=number, rows_scored=number)  # fmt: skip
    examples = _examples(rng, found)
    drawn = SampledFirings(
        np.zeros(0, np.int64),
        np.zeros(0, np.int64),
        np.zeros(0, np.int64),
        np.zeros(0, np.float32),
    )
    tree = np.zeros((0, 2), np.int32)
    return Analysis(info, found, examples, inputs, pairs, rows, drawn, labels, tree)


_SCORES = (
    "balanced_accuracy", "low", "high", "sensitivity", "specificity", "precision", "hard_accuracy"
)  # fmt: skip


def _zipf(rng: np.random.Generator, count: int) -> Any:
    """Return tokens with the frequencies of words: 1 / (rank + 2.7)."""
    chance = np.cumsum((np.arange(VOCABULARY) + 2.7) ** -1.0)
    drawn = np.searchsorted(chance / chance[-1], rng.random(count))
    return drawn.clip(0, VOCABULARY - 1).astype(np.int32)


def _columns(rng: np.random.Generator, features: int) -> Features:
    def normal(*shape: int) -> Any:
        return rng.standard_normal((features, *shape), np.float32)

    def ids(count: int, top: int) -> Any:
        return rng.integers(0, top, (features, count), dtype=np.int32)

    density = 10 ** rng.uniform(-5, -1, features)
    density = np.minimum(density * FIRE_ON_A_ROW / density.sum(), 0.5)
    firings = np.maximum(1, (density * 3e6).astype(np.int64))
    shape = rng.gamma(2, 1, (features, 1)) * np.linspace(0.05, 1, 64) * 6
    law = np.exp(-shape) / np.exp(-shape).sum(1, keepdims=True)
    top = rng.gamma(3, 2, features).astype(np.float32) + np.float32(1)
    shares = np.sort(rng.dirichlet(np.full(24, 0.3), features)[:, :16], axis=1)[:, ::-1]
    near = np.sort(rng.uniform(0.1, 0.9, (features, 8)), axis=1)[:, ::-1].astype(np.float32)
    cluster = rng.integers(0, 60, features, dtype=np.int32)
    none = np.zeros((features, 0), np.float32)
    effects = np.sort(rng.gamma(2, 0.5, (features, 10)), axis=1)[:, ::-1].astype(np.float32)
    return Features(
        firings=firings, density=density, mean=(top / 3).astype(np.float32),
        mean_activation=(top / 3 * density).astype(np.float32),
        std=abs(normal()), skew=normal(), kurtosis=abs(normal()) + 3, max=top,
        histogram=rng.poisson(law * firings[:, None]).astype(np.int64), histogram_top=top,
        quantiles=top[:, None] * np.sort(rng.random((features, 5)), 1).astype(np.float32),
        token_ids=_zipf(rng, features * 16).reshape(-1, 16),
        token_shares=shares.astype(np.float32),
        token_lifts=(1 / (shares + 1e-3)).astype(np.float32),
        token_undercount=np.zeros(features, np.int64), places=np.zeros((features, 24), np.int64),
        nearest_ids=ids(8, features), nearest_cosines=near,
        cofiring_ids=ids(8, features), cofiring_phis=near, cofiring_counts=ids(8, 9000),
        cofiring_jaccards=near, cofiring_npmis=near,
        followed_ids=none.astype(np.int32), followed_phis=none, followed_cosines=none,
        neuron_ids=ids(8, 768), neuron_correlations=near, part=np.zeros(features, np.int32),
        decoder_norm=abs(normal()), x=normal() + cluster % 8 * 3, y=normal() + cluster // 8 * 3,
        cluster=cluster, group=cluster, pca_x=normal(), pca_y=normal(),
        module=(cluster - 20).clip(-1), promoted_ids=ids(10, VOCABULARY), promoted_values=effects,
        suppressed_ids=ids(10, VOCABULARY), suppressed_values=-effects,
        logit_histogram=rng.poisson(_BELL, (features, len(_BELL))),
        logit_range=np.stack([-top, top], 1), logit_std=abs(normal()), logit_skew=normal(),
        logit_kurtosis=abs(normal()) + 3,
    )  # fmt: skip


def _examples(rng: np.random.Generator, found: Features) -> Examples:
    """Return firings with others around them: a run of some, and more the denser the feature is.

    In the demo's dictionary an example of a feature that fires on 0.03, 0.2, 0.6 and 4 % of rows
    has 3, 5, 12 and 48 places that fire (in contexts of 250 tokens), here 3, 5, 9 and 45 (of 128).
    """
    features, each = len(found.firings), TOPS + DRAWN
    number = features * each
    feature = np.repeat(np.arange(features, dtype=np.int32), each)
    kind = np.tile(np.repeat([TOP, RANDOM], [TOPS, DRAWN]), features).astype(np.uint8)
    rank = np.tile(np.concatenate([np.arange(TOPS), np.arange(DRAWN)]), features)
    context = rng.integers(0, CONTEXTS, number, dtype=np.int32)
    position = rng.integers(1, CONTEXT, number).astype(np.int32)
    level = np.concatenate(
        [-np.sort(-rng.beta(2, 3, (features, size)), axis=1) for size in (TOPS, DRAWN)], axis=1
    ).ravel()  # strongest first in each kind, as an analysis leaves them
    level = (level * found.max[feature]).astype(np.float32)
    counts, places = [], []
    for some in np.array_split(np.arange(number), max(1, number // 200_000)):
        share = np.minimum(10 * found.density[feature[some]], 0.9)
        starts = np.minimum(share * (1 - GOES_ON) / (1 - share), 1)
        fires, before = np.zeros((len(some), CONTEXT), np.bool_), rng.random(len(some)) < share
        for place in range(CONTEXT):
            before = rng.random(len(some)) < np.where(before, GOES_ON, starts)
            fires[:, place] = before
        run = position[some] + rng.poisson(1.5, len(some))
        at = np.arange(CONTEXT)
        fires |= (at >= position[some, None]) & (at <= run[:, None])
        counts.append(fires.sum(1))
        places.append(np.nonzero(fires)[1].astype(np.int32))
    size, fired = np.concatenate(counts), np.concatenate(places)
    values = np.repeat(level, size) * rng.beta(0.5, 2, len(fired)).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(size)])
    return Examples(
        feature, kind, rank.astype(np.int32), context, position, level, offsets, fired, values,
        np.full(number, np.nan, np.float32),
    )  # fmt: skip


def _info(features: int) -> dict[str, Any]:
    return {
        "kind": "text", "site": "blocks.6.resid_post", "host": "random", "dataset": "random",
        "store": {"rows": CONTEXTS * CONTEXT}, "rows": 3_000_000, "contexts": CONTEXTS,
        "sae": {"arch": "batchtopk", "features": features}, "split": {}, "metrics": None,
        "definitions": {}, "training": [], "versions": {}, "modules": [],
    }  # fmt: skip


def write(features: int, out: Path) -> dict[str, Any]:
    """Write a report of so many features; return what that took, and its bytes."""
    analysis = big_analysis(features)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter(), time.process_time()
    write_report(analysis, out)
    wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sizes: dict[str, int] = {}
    for path in out.rglob("*"):
        if path.is_file():
            parts = path.relative_to(out).parts
            kind = "/".join(parts[:2] if len(parts) > 2 else parts)
            kind = "assets" if kind.startswith("assets/") and "plotly" not in kind else kind
            sizes[kind] = sizes.get(kind, 0) + path.stat().st_size
    total = sum(sizes.values())
    return {
        "write_seconds": round(wall, 2), "write_cpu_seconds": round(cpu, 2),
        "peak_mb_before_and_after": [round(before / 1024), round(after / 1024)],
        "report_mb": round(total / 1e6, 2),
        "bytes_a_feature": round(sizes["data/f"] / features),
        "index_bytes_a_feature": round(sizes["data/index.js"] / features, 1),
        "corpus_bytes_a_token": round(sizes["data/corpus"] / (CONTEXTS * CONTEXT), 2),
        "bytes": dict(sorted(sizes.items(), key=lambda pair: -pair[1])),
    }  # fmt: skip


def browse(report: Path, features: int) -> dict[str, float]:
    """Open the pages of a report once, in a fresh browser; return milliseconds and megabytes."""
    found: dict[str, float] = {}
    with start_browser() as driver:
        for name, place, ready in (
            ("list", "index.html#/features", "document.querySelector('tr[data-id]')"),
            ("cold", f"index.html#/feature/{features // 2}", EXAMPLES),
            ("map", "map.html", "document.querySelector('[data-ready=plotly]')"),
        ):
            driver.get("about:blank")
            began = cpu_ms(driver)
            driver.get(f"{report.as_uri()}/{place}")
            found[f"{name}_wall_ms"] = painted(driver, ready)
            found[f"{name}_cpu_ms"] = cpu_ms(driver) - began
            key = "feature" if name == "cold" else name
            found[f"{key}_heap_mb"] = heap_mb(driver)
            if name == "cold":
                began = cpu_ms(driver)
                there = "document.querySelector('main').dataset.ready === location.hash"
                go = f"location.hash = '#/feature/{features // 3}'"
                found["warm_wall_ms"] = painted(driver, f"{there} && {EXAMPLES}", go)
                found["warm_cpu_ms"] = cpu_ms(driver) - began
    return found


EXAMPLES = "document.querySelector('.example-body[data-ready] .example .token')"
"""True once a feature's examples are in the page."""


def measure(features: int, repeats: int, *, browser: bool) -> dict[str, Any]:
    """Return everything that is measured of a report of so many features."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "report"
        # Another process writes: the largest resident size is a process's, over its whole life.
        command = [sys.executable, __file__, "--write", str(features), str(out)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found: dict[str, Any] = json.loads(done.stdout)
        if browser:
            runs = [browse(out, features) for _ in range(repeats)]
            for name in runs[0]:
                found[name] = round(statistics.median(run[name] for run in runs), 1)
    found["over_budget"] = {
        name: f"{found[name]} > {budget[features]}"
        for name, budget in BUDGETS.items()
        if features in budget and name in found and found[name] > budget[features]
    }
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, nargs="+", default=[16_384, 131_072])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-browser", action="store_true")
    parser.add_argument("--write", nargs=2, metavar=("FEATURES", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        print(json.dumps(write(int(options.write[0]), Path(options.write[1]))))
        return
    found = {
        str(features): measure(features, options.repeats, browser=not options.no_browser)
        for features in options.features
    }
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    print(json.dumps({"load": load, "cores": os.cpu_count(), "reports": found}, indent=1))


if __name__ == "__main__":
    main()
