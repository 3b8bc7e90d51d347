"""`probe-sae demo`."""

from pathlib import Path
from typing import Annotated

import typer

from probe_sae.cli import emit
from probe_sae.cli.options import Device, Force, Json, Root, Seed


def demo(
    name: Annotated[str, typer.Argument(help="text, images or mnist.")] = "text",
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write; by default a new one.")
    ] = None,
    seed: Seed = 0,
    root: Root = None,
    device: Device = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Do the whole job on a bundled host, offline, in a few minutes.

    `mnist` learns from pixels, and reads MNIST from --root (FOLDER/MNIST/raw) or downloads it.

    Example: `probe-sae demo`, then open the report it names.
    """
    from dataclasses import replace

    from probe_sae.jobs import demo_folder, demo_job, run

    job = demo_job(name, seed=seed, device=device)
    if root is not None:
        job = replace(job, root=str(root))
    folder = out or demo_folder()
    summary = run(job, folder, force=force, keep=False)
    text = summary_text(summary, folder)
    emit(summary | {"out": str(folder)}, text, as_json=as_json)


def summary_text(summary: dict[str, object], folder: Path) -> str:
    """Return the few lines that a person reads at the end of a job."""
    metrics = summary["metrics"]
    lines = [f"{summary['host']} · {summary['dataset']} · {summary['site']}"]
    if isinstance(metrics, dict):
        for name in (
            "fraction_unexplained",
            "l0",
            "dead_fraction",
            "dense_fraction",
            "loss_recovered",
            "test_mse",
        ):
            value = metrics.get(name)
            if isinstance(value, (int, float)):
                lines.append(f"  {name.replace('_', ' '):<21} {value:.4g}")
    lines.append(f"Report: {folder / 'report' / 'index.html'}")
    return "\n".join(lines)
