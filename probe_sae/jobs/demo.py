"""The demonstration jobs: real models and real data that are on any machine, offline."""

import time
from pathlib import Path
from typing import Any

from probe_sae.errors import SettingsError, near
from probe_sae.jobs.job import Job, job_from

DEMOS: dict[str, dict[str, Any]] = {
    "text": {
        "host": {"name": "bundled:code-lm"},
        "data": {"name": "stdlib", "rows": 800_000, "max_length": 256},
        "capture": {"sites": ["blocks.1.resid_post"]},
        "train": {
            "arch": "batchtopk",
            "features": 2048,
            "k": 14,
            "rows": 4_000_000,
            "batch_size": 2048,
            "held_out": 0.2,
        },
    },
    "images": {
        "host": {"name": "bundled:digits-vit"},
        "data": {"name": "digits"},
        "capture": {"sites": ["blocks.2.resid_post"]},
        "train": {
            "arch": "batchtopk",
            "features": 512,
            "k": 8,
            "rows": 1_500_000,
            "held_out": 0.25,
        },
    },
    "mnist": {
        "host": {"name": "pixels"},
        "data": {"name": "mnist"},
        "capture": {"sites": ["input"], "dtype": "float32", "batch_size": 1000},
        "train": {
            "arch": "kl",
            "features": 32,
            "hidden": [128],
            "output": "sigmoid",
            "rho": 0.05,
            "beta": 5e-3,
            "rows": 600_000,
            "batch_size": 128,
            "held_out": 0.0,
        },
        "evaluate": {"name": "mnist_test"},
    },
}
"""Name -> job, as a TOML file would have it."""


def demo_job(name: str, *, seed: int = 0, device: str | None = None) -> Job:
    """Return a demonstration job.

    Raises:
        SettingsError: there is no such demonstration.
    """
    if name not in DEMOS:
        raise SettingsError(f"no demo {name!r}; there are {', '.join(DEMOS)}.{near(name, DEMOS)}")
    raw = {section: dict(values) for section, values in DEMOS[name].items()}
    raw["train"]["seed"] = seed
    if device:
        raw["host"]["device"] = device
    return job_from(raw, f"demo {name}")


def demo_folder() -> Path:
    """Return a folder for a demonstration that is not there yet, named by the time."""
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    folder, number = Path("probe-sae-demo") / stamp, 2
    while folder.exists() or folder.with_name(f"{folder.name}.partial").exists():
        folder, number = Path("probe-sae-demo") / f"{stamp}_{number}", number + 1
    return folder
