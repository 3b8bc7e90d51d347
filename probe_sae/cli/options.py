"""Options that several commands share, so that they read and behave the same everywhere."""

from pathlib import Path
from typing import Annotated, Any

import typer

from probe_sae.errors import SettingsError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there already.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue unfinished work.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write; must not exist yet.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.", min=0)]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, ...; a GPU where there is one.")
]
Root = Annotated[
    Path | None, typer.Option("--root", help="Folder of a dataset that is downloaded otherwise.")
]
HostOption = Annotated[
    str | None, typer.Option("--host", help="Also measure what this host loses.")
]
DatasetOption = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="What the store was recorded from; by default the recipe that the store names.",
    ),
]
HOST_HELP = (
    "bundled:NAME, a Hugging Face id or folder, torchvision:NAME[@weights], timm:NAME[@weights], "
    "or python:module:factory."
)
DATASET_HELP = (
    "A recipe (`probe-sae list datasets`), a .txt, .jsonl or .parquet file, a folder of texts or "
    "images, or hf:NAME (`probe-sae guide datasets`)."
)


def parsed(assignments: list[str]) -> dict[str, Any]:
    """Return `--set key=value` options as a table of numbers, words, truths and lists of numbers.

    Raises:
        SettingsError: one is no `key=value`.
    """
    table: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not value.strip():
            raise SettingsError(f"--set {assignment}: expected key=value, such as lr=2e-4.")
        parts = [_value(part) for part in value.split(",")]
        table[key.strip()] = parts if len(parts) > 1 else parts[0]
    return table


def numbers(given: str, option: str) -> list[float]:
    """Return the numbers of an option that takes one or several, as `16,32`.

    Raises:
        SettingsError: one is no number.
    """
    parts = [_value(part) for part in given.split(",")]
    if not all(isinstance(part, float) for part in parts):
        raise SettingsError(f"{option} {given}: expected a number, or several as 16,32.")
    return parts


def _value(text: str) -> Any:
    text = text.strip()
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text)
    except ValueError:
        return text
