"""`probe-sae analyse`."""

from pathlib import Path
from typing import Annotated

import typer

from probe_sae.cli import emit
from probe_sae.cli.options import (
    DatasetOption,
    Device,
    Force,
    HostOption,
    Json,
    Out,
    Resume,
    Root,
    Seed,
)
from probe_sae.errors import SettingsError


def analyse_command(
    sae: Annotated[Path, typer.Argument(help="The dictionary.")],
    store: Annotated[Path, typer.Argument(help="The store.")],
    out: Out,
    host: HostOption = None,
    dataset: DatasetOption = None,
    root: Root = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option("--with", help="Another dictionary, of a site recorded together; repeatable."),
    ] = None,
    codes: Annotated[
        Path | None, typer.Option(help="What `encode --rows held_out` made of the same.")
    ] = None,
    neurons: Annotated[
        list[str] | None,
        typer.Option(help="A site whose dimensions are correlated with features; repeatable."),
    ] = None,
    rows: Annotated[str, typer.Option(help="held_out, or all.")] = "held_out",
    loss_examples: Annotated[
        int,
        typer.Option(
            help="Measure what so many of each feature's strongest examples do to the host's loss: "
            "a run of the host for each."
        ),
    ] = 0,
    seed: Seed = 0,
    device: Device = None,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Find what fires each feature, and how features hang together.

    Example: `probe-sae analyse sae store --host gpt2 --dataset stdlib --out analysis`
    """
    from probe_sae.analysis import analyse
    from probe_sae.evaluation import evaluate
    from probe_sae.host import load_host
    from probe_sae.interop import load_sae
    from probe_sae.recording import load_dataset
    from probe_sae.store import open_store

    if loss_examples < 0 or (loss_examples and host is None):
        raise SettingsError(
            f"--loss-examples is {loss_examples}; expected 0 or more, and where it is not 0 also "
            "--host, to take the firings out of."
        )
    dictionary, opened = load_sae(sae), open_store(store)
    loaded = None if host is None else load_host(host)
    recipe = None if dataset is None else load_dataset(dataset, root=root)
    evaluation = evaluate(dictionary, opened, host=loaded, dataset=recipe)
    analysis = analyse(
        [dictionary, *map(load_sae, beside or ())],
        opened,
        out,
        host=loaded,
        dataset=recipe,
        evaluation=evaluation,
        codes=codes,
        neurons=opened.find_sites(neurons or []),
        rows=rows,
        loss_examples=loss_examples,
        seed=seed,
        device=device,
        resume=resume,
        force=force,
    )
    dead = int((analysis.columns.firings == 0).sum())
    emit(
        {
            "analysis": str(out),
            "features": analysis.count,
            "rows": analysis.info["rows"],
            "dead": dead,
        },
        f"{out}: {analysis.count} features over {analysis.info['rows']:,} rows, {dead} dead",
        as_json=as_json,
    )
