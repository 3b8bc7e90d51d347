"""`probe-sae export`."""

from pathlib import Path
from typing import Annotated

import typer

from probe_sae.cli import emit
from probe_sae.cli.options import Force, Json, Out


def export_command(
    sae: Annotated[
        Path, typer.Argument(help="The dictionary; for neuronpedia, an analysis of it.")
    ],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            help="saelens, sparsify, dictionary_learning, gemma_scope, openai, plain; or "
            "neuronpedia.",
        ),
    ],
    out: Out,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a dictionary as another library does; codes on raw activations stay the same.

    Example: `probe-sae export sae --format saelens --out for-saelens`
    """
    if format == "neuronpedia":
        from probe_sae.analysis import load_analysis
        from probe_sae.reporting import write_neuronpedia

        write_neuronpedia(load_analysis(sae), out, force=force)
    else:
        from probe_sae.interop import export_sae

        export_sae(sae, out, format, force=force)
    files = sorted(file.name for file in out.iterdir() if file.is_file())
    more = f" and {len(files) - 5} more" if len(files) > 5 else ""
    emit(
        {"format": format, "out": str(out), "files": files},
        f"{out}: {', '.join(files[:5])}{more}",
        as_json=as_json,
    )
