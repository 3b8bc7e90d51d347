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
    str | None, typer.Option("--host", help="With --dataset: measure what the host loses.")
]
DatasetOption = Annotated[
    str | None, typer.Option("--dataset", help="The dataset that the store was recorded from.")
]
HOST_HELP = (
    "bundled:NAME, a Hugging Face id or folder, torchvision:NAME[@weights], or "
    "python:module:factory."
)
DATASET_HELP = (
    "A recipe (`probe-sae list datasets`), a .txt, .jsonl or .parquet file, a folder of texts or "
    "images, or hf:NAME."
)


def parsed(assignments: list[str]) -> dict[str, Any]:
    """Return `--set key=value` options as a table; values are numbers.

    Raises:
        SettingsError: one is no `key=value`, or the value is no number.
    """
    table: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        try:
            number = float(value)
        except ValueError:
            equals = ""
            number = 0.0
        if not equals:
            raise SettingsError(f"--set {assignment}: expected key=number, such as lr=2e-4.")
        table[key.strip()] = number
    return table
