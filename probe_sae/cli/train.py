"""`probe-sae train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from probe_sae.cli import emit
from probe_sae.cli.options import Device, Force, Json, Out, Resume, numbers, parsed
from probe_sae.errors import SettingsError

if TYPE_CHECKING:
    from probe_sae.recording import HostStream
    from probe_sae.sae import SAE


def train_command(
    out: Out,
    store: Annotated[Path | None, typer.Argument(help="The store to learn from.")] = None,
    site: Annotated[
        list[str] | None,
        typer.Option(help="Which site of a store; several for transcoders and crosscoders."),
    ] = None,
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
    features: Annotated[
        str | None, typer.Option(help="Size of the dictionary; 4096,16384 trains several.")
    ] = None,
    k: Annotated[
        str | None, typer.Option(help="Features that fire on a row; 16,32 trains several.")
    ] = None,
    rows: Annotated[int, typer.Option(help="Rows consumed; epochs repeat.")] = 2_000_000,
    seed: Annotated[
        str, typer.Option("--seed", help="Seed of everything random; 0,1,2 trains several.")
    ] = "0",
    device: Device = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting, as key=value.")
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(help="Also send numbers to tensorboard, wandb or mlflow; may be repeated."),
    ] = None,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Learn a dictionary.

    From a store, or without one, straight from a host, which then takes no disk:
    `probe-sae train --host gpt2 --dataset stdlib --site blocks.6.resid_post --out sae`

    Lists of features, k or seeds train one dictionary for each, from one reading of the rows, into
    OUT/NAME: `probe-sae train store --k 16,32,64 --seed 0,1 --out saes`

    Example: `probe-sae train store --features 16384 --k 32 --out sae --set lr=5e-4`
    """
    from probe_sae.store import open_store
    from probe_sae.training import split_settings, train, train_several

    seeds = [int(value) for value in numbers(seed, "--seed")]
    common = {"arch": arch, "rows": rows, "seed": seeds[0], **parsed(assignments or [])}
    made = [split_settings({**common, **one}) for one in _grid(features=features, k=k)]
    trainer = made[0][1]
    if (store is None) == (host is None):
        raise SettingsError("train takes a STORE, or --host with --dataset and --site.")
    source: Any
    sites: list[str] | None = None
    if store is not None:
        source = open_store(store)
        sites = source.find_sites(site) if site else None
    else:
        source = _stream(str(host), dataset, site, max_length, trainer.seed, device)
    options: dict[str, Any] = {"site": sites, "out": out, "device": device}
    options |= {"resume": resume, "force": force, "track": track or ()}
    if len(made) == len(seeds) == 1:
        saes = {"": train(source, made[0][0], trainer, **options)}
    else:
        settings = [settings for settings, _ in made]
        saes = train_several(source, settings, trainer, seeds=seeds, **options)
    tables = [
        {"sae": str(out / name), "arch": arch, **(sae.log[-1] if sae.log else {})}
        for name, sae in saes.items()
    ]
    emit(
        tables[0] if "" in saes else {"saes": tables},
        "\n".join(_line(table, saes[name]) for name, table in zip(saes, tables, strict=True)),
        as_json=as_json,
    )


def _grid(**lists: str | None) -> list[dict[str, float]]:
    """Return a table for each combination of what options list, as `16,32`."""
    grid: list[dict[str, float]] = [{}]
    for name, given in lists.items():
        if given is not None:
            grid = [{**one, name: v} for one in grid for v in numbers(given, f"--{name}")]
    return grid


def _line(table: dict[str, Any], sae: "SAE") -> str:
    return (
        f"{table['sae']}: {table['arch']}, {sae.features} features; on the last batch fraction "
        f"unexplained {table['fraction_unexplained']:.4f}, L0 {table['l0']:.1f}, dead "
        f"{table['dead_fraction']:.1%}"
    )


def _stream(
    host: str,
    dataset: str | None,
    site: list[str] | None,
    max_length: int,
    seed: int,
    device: str | None,
) -> "HostStream":
    """Return the rows of a host's site as it runs."""
    from probe_sae.host import load_host
    from probe_sae.recording import CaptureSettings, HostStream

    if dataset is None or not site:
        raise SettingsError("train takes a STORE, or --host with --dataset and --site.")
    if len(site) > 1:
        raise SettingsError("--host streams one site; capture several into a store first.")
    loaded = load_host(host, device=device)
    return HostStream(loaded, dataset, site[0], CaptureSettings(max_length=max_length), seed=seed)
