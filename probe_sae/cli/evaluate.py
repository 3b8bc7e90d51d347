"""`probe-sae evaluate`."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probe_sae.cli import emit
from probe_sae.cli.options import DatasetOption, HostOption, Json, Root, Seed

if TYPE_CHECKING:
    from probe_sae.evaluation import Evaluation


def evaluate_command(
    sae: Annotated[Path, typer.Argument(help="The dictionary.")],
    store: Annotated[Path, typer.Argument(help="The store.")],
    host: HostOption = None,
    dataset: DatasetOption = None,
    root: Root = None,
    out: Annotated[Path | None, typer.Option("--out", help="File for the metrics.")] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Measure baselines beside it.")
    ] = True,
    resamples: Annotated[int, typer.Option(help="For the intervals; 0 for none.")] = 1000,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure a dictionary on rows that its training never saw, beside baselines.

    Example: `probe-sae evaluate sae store --host gpt2 --dataset stdlib`
    """
    from probe_sae.errors import OutputExists, SettingsError
    from probe_sae.evaluation import evaluate, finite
    from probe_sae.host import load_host
    from probe_sae.interop import load_sae
    from probe_sae.outputs import write_whole
    from probe_sae.recording import load_dataset
    from probe_sae.store import open_store

    if host is None and dataset is not None:
        raise SettingsError("--dataset is given without --host: a loss needs the host as well.")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    if out is not None and out.exists():
        raise OutputExists(f"{out} exists already; choose another file.")
    dictionary, opened = load_sae(sae), open_store(store)
    result = evaluate(
        dictionary,
        opened,
        host=None if host is None else load_host(host),
        dataset=None if dataset is None else load_dataset(dataset, root=root),
        baselines=baselines,
        resamples=resamples,
        seed=seed,
    )
    metrics = finite(
        {
            "metrics": result.metrics,
            "intervals": result.intervals,
            "baselines": result.baselines,
            "definitions": result.definitions,
        }
    )
    if out is not None:
        write_whole(out, json.dumps(metrics, indent=1, sort_keys=True))
    emit(metrics, evaluation_text(result), as_json=as_json)


def evaluation_text(result: "Evaluation") -> str:
    """Return a table of metrics, intervals and baselines, and what each metric is."""
    head = ["", "value", "95 % interval", *result.baselines]
    lines = [head]
    for name, value in _flat(result.metrics).items():
        interval = result.intervals.get(name)
        others = [_shown(each[name]) if name in each else "" for each in result.baselines.values()]
        between = "" if interval is None else " .. ".join(map(_shown, interval))
        lines.append([name, _shown(value), between, *others])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    meanings = [f"{name}\n    {text}" for name, text in result.definitions.items()]
    return "\n".join([*table, "", *meanings])


def _flat(metrics: dict[str, object]) -> dict[str, object]:
    """Return nested metrics as `outer.inner`."""
    found: dict[str, object] = {}
    for name, value in metrics.items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": entry for inner, entry in value.items()}
        else:
            found[name] = value
    return found


def _shown(value: object) -> str:
    if isinstance(value, list):
        first = ", ".join(_shown(entry) for entry in value[:4])
        return first + (f", ... ({len(value)} in all)" if len(value) > 4 else "")
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "-"
    return str(value)
