"""`probe-sae train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from probe_sae.cli import emit
from probe_sae.cli.options import Device, Force, Json, Out, Resume, Seed, parsed
from probe_sae.errors import SettingsError

if TYPE_CHECKING:
    from probe_sae.recording import HostStream


def train_command(
    out: Out,
    store: Annotated[Path | None, typer.Argument(help="The store to learn from.")] = None,
    site: Annotated[str | None, typer.Option(help="Which site of a store with several.")] = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Instead of a store: run this host meanwhile.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="With --host: over these inputs.")
    ] = None,
    max_length: Annotated[
        int, typer.Option(help="With --host: tokens of a context at most.")
    ] = 256,
    arch: Annotated[str, typer.Option(help="`probe-sae list archs`.")] = "batchtopk",
    features: Annotated[int, typer.Option(help="Size of the dictionary.")] = 4096,
    k: Annotated[float, typer.Option(help="Features that fire on a row.")] = 32,
    rows: Annotated[int, typer.Option(help="Rows consumed; epochs repeat.")] = 2_000_000,
    seed: Seed = 0,
    device: Device = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting, as key=number.")
    ] = None,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Learn a dictionary.

    From a store, or without one, straight from a host, which then takes no disk:
    `probe-sae train --host gpt2 --dataset stdlib --site blocks.6.resid_post --out sae`

    Example: `probe-sae train store --features 16384 --k 32 --out sae --set lr=5e-4`
    """
    from probe_sae.training import split_settings, train

    values: dict[str, Any] = {"features": features, "k": k, "rows": rows, "seed": seed}
    settings, trainer = split_settings({"arch": arch, **values, **parsed(assignments or [])})
    source = store if host is None else _stream(host, dataset, site, max_length, seed, device)
    if source is None or (store is not None and host is not None):
        raise SettingsError("train takes a STORE, or --host with --dataset and --site.")
    sae = train(
        source, settings, trainer, site=site, out=out, device=device, resume=resume, force=force
    )
    last = sae.log[-1]
    emit(
        {"sae": str(out), "arch": arch, **last},
        f"{out}: {arch}, {features} features; on the last batch fraction unexplained "
        f"{last['fraction_unexplained']:.4f}, L0 {last['l0']:.1f}, dead "
        f"{last['dead_fraction']:.1%}",
        as_json=as_json,
    )


def _stream(
    host: str,
    dataset: str | None,
    site: str | None,
    max_length: int,
    seed: int,
    device: str | None,
) -> "HostStream | None":
    """Return the rows of a host's site as it runs; None where something was not said."""
    from probe_sae.host import load_host
    from probe_sae.recording import CaptureSettings, HostStream

    if dataset is None or site is None:
        return None
    loaded = load_host(host, device=device)
    return HostStream(loaded, dataset, site, CaptureSettings(max_length=max_length), seed=seed)
