"""`probe-sae report`."""

from pathlib import Path
from typing import Annotated

import typer

from probe_sae.cli import emit
from probe_sae.cli.options import Force, Json, Out


def report_command(
    analysis: Annotated[Path, typer.Argument(help="The analysis.")],
    out: Out,
    labels: Annotated[
        Path | None, typer.Option(help="Labels to bake in, as exported by a report.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write an analysis as a folder of pages that opens offline.

    Example: `probe-sae report analysis --out report`
    """
    from probe_sae.reporting import write_report

    write_report(analysis, out, labels=labels, force=force)
    page = out / "index.html"
    emit({"report": str(out), "page": str(page)}, f"Report: {page}", as_json=as_json)
