"""`probe-sae evaluate`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from probe_sae.cli import emit
from probe_sae.cli.options import DatasetOption, HostOption, Json, Root


def evaluate_command(
    sae: Annotated[Path, typer.Argument(help="The dictionary.")],
    store: Annotated[Path, typer.Argument(help="The store.")],
    host: HostOption = None,
    dataset: DatasetOption = None,
    root: Root = None,
    out: Annotated[Path | None, typer.Option("--out", help="File for the metrics.")] = None,
    as_json: Json = False,
) -> None:
    """Measure a dictionary on rows that its training never saw.

    Example: `probe-sae evaluate sae store --host gpt2 --dataset stdlib`
    """
    from probe_sae.errors import OutputExists, SettingsError
    from probe_sae.evaluation import evaluate, finite
    from probe_sae.host import load_host
    from probe_sae.outputs import write_whole
    from probe_sae.recording import load_dataset
    from probe_sae.sae import load_sae
    from probe_sae.store import open_store

    if (host is None) != (dataset is None):
        raise SettingsError("--host and --dataset go together: a loss needs both.")
    if out is not None and out.exists():
        raise OutputExists(f"{out} exists already; choose another file.")
    dictionary, opened = load_sae(sae), open_store(store)
    result = evaluate(
        dictionary,
        opened,
        host=None if host is None else load_host(host),
        dataset=None if dataset is None else load_dataset(dataset, root=root),
    )
    metrics = finite({"metrics": result.metrics, "definitions": result.definitions})
    if out is not None:
        write_whole(out, json.dumps(metrics, indent=1, sort_keys=True))
    lines = [
        f"{name:<21} {_shown(value)}\n    {result.definitions.get(name, '')}"
        for name, value in result.metrics.items()
    ]
    emit(metrics, "\n".join(lines), as_json=as_json)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(entry)}" for name, entry in value.items())
    if isinstance(value, list):
        first = ", ".join(_shown(entry) for entry in value[:8])
        return first + (f", ... ({len(value)} in all)" if len(value) > 8 else "")
    return f"{value:.5g}" if isinstance(value, float) else str(value)
