"""`probe-sae train`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from probe_sae.cli import emit
from probe_sae.cli.options import Device, Force, Json, Out, Seed, parsed


def train_command(
    store: Annotated[Path, typer.Argument(help="The store to learn from.")],
    out: Out,
    site: Annotated[str | None, typer.Option(help="Which site of a store with several.")] = None,
    arch: Annotated[str, typer.Option(help="`probe-sae list archs`.")] = "batchtopk",
    features: Annotated[int, typer.Option(help="Size of the dictionary.")] = 4096,
    k: Annotated[float, typer.Option(help="Features that fire on a row.")] = 32,
    rows: Annotated[int, typer.Option(help="Rows consumed; epochs repeat.")] = 2_000_000,
    seed: Seed = 0,
    device: Device = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting, as key=number.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Learn a dictionary.

    Example: `probe-sae train store --features 16384 --k 32 --out sae --set lr=5e-4`
    """
    from probe_sae.training import split_settings, train

    values: dict[str, Any] = {"features": features, "k": k, "rows": rows, "seed": seed}
    settings, trainer = split_settings({"arch": arch, **values, **parsed(assignments or [])})
    sae = train(store, settings, trainer, site=site, out=out, device=device, force=force)
    last = sae.log[-1]
    emit(
        {"sae": str(out), "arch": arch, **last},
        f"{out}: {arch}, {features} features; on the last batch fraction unexplained "
        f"{last['fraction_unexplained']:.4f}, L0 {last['l0']:.1f}, dead "
        f"{last['dead_fraction']:.1%}",
        as_json=as_json,
    )
