"""`probe-sae analyse`."""

from pathlib import Path
from typing import Annotated

import typer

from probe_sae.cli import emit
from probe_sae.cli.options import DatasetOption, Force, HostOption, Json, Out, Root, Seed


def analyse_command(
    sae: Annotated[Path, typer.Argument(help="The dictionary.")],
    store: Annotated[Path, typer.Argument(help="The store.")],
    out: Out,
    host: HostOption = None,
    dataset: DatasetOption = None,
    root: Root = None,
    rows: Annotated[str, typer.Option(help="held_out, or all.")] = "held_out",
    seed: Seed = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Find what fires each feature, and how features hang together.

    Example: `probe-sae analyse sae store --host gpt2 --dataset stdlib --out analysis`
    """
    from probe_sae.analysis import analyse
    from probe_sae.errors import SettingsError
    from probe_sae.evaluation import evaluate
    from probe_sae.host import load_host
    from probe_sae.recording import load_dataset
    from probe_sae.sae import load_sae
    from probe_sae.store import open_store

    if rows not in ("held_out", "all"):
        raise SettingsError(f"--rows {rows}: expected held_out or all.")
    dictionary, opened = load_sae(sae), open_store(store)
    loaded = None if host is None else load_host(host)
    recipe = None if dataset is None else load_dataset(dataset, root=root)
    evaluation = evaluate(dictionary, opened, host=loaded, dataset=recipe)
    analysis = analyse(
        dictionary,
        opened,
        out,
        host=loaded,
        evaluation=evaluation,
        rows=rows,
        seed=seed,
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
