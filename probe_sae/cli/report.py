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
    compare: Annotated[
        Path | None, typer.Option(help="Another analysis of the same site, to compare with.")
    ] = None,
    single_file: Annotated[
        bool,
        typer.Option(
            "--single-file",
            help="Write one page with everything in it, OUT ending in .html; up to 2,048 features.",
        ),
    ] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write an analysis as a folder of pages, or as one page, that opens offline.

    Example: `probe-sae report analysis --out report --compare other-analysis`
    """
    from probe_sae.reporting import write_report

    report = write_report(
        analysis, out, labels=labels, compare=compare, single_file=single_file, force=force
    )
    page = report.index
    emit({"report": str(out), "page": str(page)}, f"Report: {page}", as_json=as_json)
