"""Kill a training at random moments until it ends; run as a script, outside pytest.

    python tests/training/killed.py ARCH KILLS FOLDER [SIGINT]

With SIGINT it is interrupted instead, and nothing but the interrupt itself has put its state on
disk.
Each attempt is a forked child of a process that has not trained itself (autograd's threads do not
survive a fork). The result is compared with an undisturbed one, byte by byte.
"""

import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from probe_sae.sae import ARCHITECTURES, Settings, settings_for
from probe_sae.store import (
    ContextInput,
    RecordedRows,
    SiteInfo,
    Store,
    StoreWriter,
    open_store,
)
from probe_sae.training import TrainSettings, train

RUN = TrainSettings(rows=12_000, batch_size=256, lr=5e-3, dead_after=500, seed=1)


def make_store(folder: Path) -> Store:
    """Return a store of random rows."""
    folder.mkdir()
    rows = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0)).relu_()
    context = np.repeat(np.arange(200, dtype=np.uint32), 20)
    columns = {"doc": context, "context": context, "pos": context, "token": context.astype("i4")}
    contexts = [ContextInput(i, i, "", 0, np.zeros(20, np.int32)) for i in range(200)]
    infos = [SiteInfo("site", 16, "float32"), SiteInfo("other", 8, "float16")]
    with StoreWriter(folder, infos, "text") as writer:
        recorded = {"site": rows, "other": rows[:, :8].half()}
        writer.append(RecordedRows(recorded, columns, contexts))
        writer.finish({})
    return open_store(folder)


def settings(arch: str) -> Settings:
    """Return more features than the rows need, so that some die and are revived."""
    wanted = {"features": 256, "k": 2, "points": 64}
    kind = ARCHITECTURES[arch]
    return settings_for(arch, {n: v for n, v in wanted.items() if hasattr(kind, n)})


def sites(arch: str) -> list[str]:
    """Return the sites that an architecture learns from."""
    return ["site", "other"] if arch in ("transcoder", "crosscoder") else ["site"]


def check_same(one: Path, other: Path) -> None:
    """Stop unless two dictionaries are the same bytes, but for the seconds in their logs."""
    assert {p.name for p in one.iterdir()} == {p.name for p in other.iterdir()}
    for file in ("sae.safetensors", "config.json"):
        assert (one / file).read_bytes() == (other / file).read_bytes()
    logs = [
        [json.loads(s) | {"seconds": 0} for s in (p / "log.jsonl").read_text().splitlines()]
        for p in (one, other)
    ]
    assert logs[0] == logs[1]


def ends(store: Store, arch: str, out: Path, lives: float | None, by: signal.Signals) -> bool:
    """Train in a forked process that gets a signal after some seconds; return whether it ended."""
    child = os.fork()
    if not child:
        try:
            torch.set_num_threads(1)
            often = replace(RUN, save_seconds=0.0) if by == signal.SIGKILL else RUN
            train(
                store,
                settings(arch),
                often,
                site=sites(arch),
                out=out,
                device="cpu",
                resume=True,
            )
            os._exit(0)
        except KeyboardInterrupt:
            os._exit(130)
        except BaseException as problem:
            print(repr(problem), flush=True)
            os._exit(1)
    if lives is not None:
        time.sleep(lives)
        os.kill(child, by)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -by if by == signal.SIGKILL else 130)
    return code == 0


def main(arch: str, kills: int, folder: Path, by: signal.Signals) -> None:
    """Train undisturbed and killed, and compare."""
    store = make_store(folder / "store")
    began = time.perf_counter()
    assert ends(store, arch, folder / "whole", None, by)
    longest = time.perf_counter() - began
    killed, drawn = 0, random.Random(arch)
    while killed < kills:
        out = folder / f"after {killed}"
        while not ends(store, arch, out, drawn.random() * longest if killed < kills else None, by):
            killed += 1
        check_same(out, folder / "whole")
    print(f"{arch}: {killed} times {by.name}")


if __name__ == "__main__":
    name = sys.argv[4] if len(sys.argv) > 4 else "SIGKILL"
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), signal.Signals[name])
