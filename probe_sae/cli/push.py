"""`probe-sae push`."""

from pathlib import Path
from typing import Annotated

import typer

from probe_sae.cli import emit
from probe_sae.cli.options import Json


def push_command(
    sae: Annotated[Path, typer.Argument(help="The dictionary.")],
    repository: Annotated[str, typer.Argument(help="user/name; made where there is none.")],
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Of a new repository; your account's default."),
    ] = None,
    metrics: Annotated[
        Path | None, typer.Option(help="What `evaluate --out` wrote, for the model card.")
    ] = None,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "",
    as_json: Json = False,
) -> None:
    """Put a dictionary on the Hugging Face hub, with a model card.

    A README.md in its folder that you have edited is taken as it is; else a card is written. Log in
    first, with `hf auth login` or HF_TOKEN.

    Example: `probe-sae push sae me/my-dictionary --private --metrics metrics.json`
    """
    from probe_sae.sae import push_folder

    address = push_folder(
        sae,
        repository,
        private=private,
        commit_message=message,
        metrics=metrics,
    )
    emit({"repository": repository, "address": address}, address, as_json=as_json)
