"""The report beside others' pages: `python tests/benchmarks/report_peers.py --peers NAME=PYTHON`.

All get the same host (the bundled code model), the same contexts of Python's library, the same ReLU
dictionary of `--features`, learned here, and keep their default layout. Others (`sae-vis`, which
needs `sae-lens<6`, and `sae-dashboard`) run in environments of their own, whose Pythons are named.
Printed as JSON: how far their codes are from ours; seconds from tokens to pages; bytes a feature;
and, from disk in headless Chromium with the network off, what the console says, wall milliseconds
from the start of navigation until a feature's examples are painted and then another's, milliseconds
of the main thread, megabytes of heap, elements. Others' pages take d3 and plotly from the network
and stay empty without: `--scripts FOLDER` holds both (`d3.min.js`, `plotly.min.js`), and with these
beside the page it is measured again. They come from `npm pack d3@6 plotly.js-dist-min@1.58.5`.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from browsing import cpu_ms, heap_mb, painted, start_browser
from report import EXAMPLES
from safetensors.torch import save_file

import probe_sae as ps
from probe_sae.host.loading import BUNDLED

SITE, CONTEXT, LEARNED = "blocks.1.resid_post", 128, 1_000_000
THERE = "document.querySelector('main').dataset.ready === location.hash"
SEQUENCES = "document.querySelectorAll('.seq').length > 9"
PICK = (
    "const list = document.querySelector('select'); list.selectedIndex = {};"
    "list.dispatchEvent(new Event('change'))"
)


def ours(features: int, contexts: int, folder: Path) -> dict[str, Any]:
    """Learn a dictionary, write our report; leave in `folder` what others need for theirs."""
    host = ps.load_host("bundled:code-lm")
    rows = contexts * (CONTEXT - 1)
    settings = ps.CaptureSettings(
        rows=rows, max_length=CONTEXT, dtype="float32", pack=True, batch_size=64
    )
    began = time.perf_counter(), time.process_time()
    store = ps.capture(host, "stdlib", [SITE], folder / "store", settings)
    recorded = time.perf_counter(), time.process_time()
    sae = ps.train(store, ps.L1(features=features, k=16), ps.TrainSettings(rows=LEARNED))
    learned = time.perf_counter(), time.process_time()
    analysis = ps.analyse(sae, store, folder / "analysis", host=host, rows="all")
    report = ps.write_report(analysis, folder / "report")
    done = time.perf_counter(), time.process_time()
    wall, cpu = (done[i] - learned[i] + recorded[i] - began[i] for i in (0, 1))
    _leave(host, sae, store, folder)
    size = sum(path.stat().st_size for path in report.folder.rglob("*") if path.is_file())
    return {
        "version": ps.__version__, "seconds": round(wall, 1), "cpu_seconds": round(cpu, 1),
        "rows": store.rows, "bytes": size, "bytes_a_feature": round(size / features),
    }  # fmt: skip


def _leave(host: Any, sae: Any, store: Any, folder: Path) -> None:
    """Write the host, the contexts and the dictionary in raw units: relu(W_enc x + b_enc)."""
    shutil.copytree(BUNDLED / "code-lm", folder / "host")
    config = folder / "host" / "tokenizer_config.json"  # older transformers know no other class
    known = {**json.loads(config.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}
    config.write_text(json.dumps(known))
    tokens = torch.stack([torch.as_tensor(context.tokens) for context in store.inputs()]).long()
    scale = sae.input_scale
    with torch.no_grad(), ps.tap(host, [SITE]) as seen:
        host({"input_ids": tokens[:8]})
    given = {
        "tokens": tokens,
        "W_enc": (scale * sae.W_enc).T,
        "b_enc": sae.b_enc - sae.W_enc @ sae.b_dec,
        "W_dec": sae.W_dec / scale,
        "b_dec": sae.b_dec / scale,
        "codes": sae.encode(seen[SITE].flatten(0, 1)).unflatten(0, (8, -1)),
    }
    save_file(
        {name: value.detach().contiguous() for name, value in given.items()},
        folder / "given.safetensors",
    )


def theirs(name: str, python: str, features: int, folder: Path) -> dict[str, Any]:
    """Let another library write its page."""
    command = [python, str(Path(__file__).with_name("report_contestants.py")), name, str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    size = (folder / f"{name}.html").stat().st_size
    found = json.loads(done.stdout.splitlines()[-1])
    return {**found, "bytes": size, "bytes_a_feature": round(size / features)}


def with_scripts(page: Path, scripts: Path) -> Path:
    """Return a copy of a page that loads d3 and plotly from its own folder."""
    copy = page.parent / f"{page.stem}-scripts" / page.name
    copy.parent.mkdir()
    for name in ("d3.min.js", "plotly.min.js"):
        shutil.copyfile(scripts / name, copy.parent / name)
    text = page.read_text("utf-8")
    for name in ("d3", "plotly"):
        text = re.sub(rf'src="https://[^"]*{name}[^"]*"', f'src="{name}.min.js"', text)
    copy.write_text(text, "utf-8")
    return copy


def opened(address: str, ready: str, further: str, go: str, repeats: int) -> dict[str, Any]:
    """Open a page in fresh browsers; return medians of what that took, and what was said."""
    runs = [_open(address, ready, further, go) for _ in range(repeats)]
    if isinstance(runs[0], list):
        return {"stays_empty": True, "console": runs[0]}
    return {name: round(statistics.median(run[name] for run in runs), 1) for name in runs[0]}


def _open(address: str, ready: str, further: str, go: str) -> Any:
    """Return what it took, or the console's complaints of a page that stayed empty."""
    from selenium.common.exceptions import TimeoutException

    with start_browser("--host-resolver-rules=MAP * ~NOTFOUND") as driver:
        driver.set_script_timeout(30)
        began = cpu_ms(driver)
        driver.get(address)
        try:
            found = {"wall_ms": painted(driver, ready)}
        except TimeoutException:
            return [line["message"][-90:] for line in driver.get_log("browser")]
        found |= {"cpu_ms": cpu_ms(driver) - began, "heap_mb": heap_mb(driver)}
        found["elements"] = driver.execute_script("return document.querySelectorAll('*').length")
        began = cpu_ms(driver)
        found["further_wall_ms"] = painted(driver, further, go)
        return {**found, "further_cpu_ms": cpu_ms(driver) - began}


def main() -> None:
    """Write all, open all, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", nargs="*", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--contexts", type=int, default=2048)
    parser.add_argument("--scripts", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, found = Path(place), {}
        found["probe_sae"] = ours(given.features, given.contexts, folder)
        go = "location.hash = '#/feature/{}'"
        page = f"{(folder / 'report').as_uri()}/index.html#/feature/1"
        there = f"{THERE} && {EXAMPLES}"
        found["probe_sae"]["opened"] = opened(page, EXAMPLES, there, go.format(2), given.repeats)
        for peer in given.peers:
            name, python = peer.split("=", 1)
            found[name] = theirs(name, python, given.features, folder)
            print(json.dumps({name: found[name]}), file=sys.stderr)
            page = folder / f"{name}.html"
            found[name]["offline"] = opened(page.as_uri(), SEQUENCES, SEQUENCES, "", 1)
            if given.scripts is not None:
                page = with_scripts(page, given.scripts)
                found[name]["opened"] = opened(
                    page.as_uri(), SEQUENCES, SEQUENCES, PICK.format(1), given.repeats
                )
    print(json.dumps({"features": given.features, "contexts": given.contexts, **found}, indent=1))


if __name__ == "__main__":
    main()
