"""`probe-sae show`."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from probe_sae.cli import emit
from probe_sae.cli.options import Json


def show(
    path: Annotated[Path, typer.Argument(help="A report, or the folder of a whole job.")],
    as_json: Json = False,
) -> None:
    """Open a report in the browser.

    Example: `probe-sae show probe-sae-demo/2026-01-31_12-00-00`
    """
    from probe_sae.errors import FormatError

    for page in (path / "index.html", path / "report" / "index.html", path):
        if page.is_file() and page.suffix == ".html":
            address = page.resolve().as_uri()
            opened = webbrowser.open(address)
            emit({"page": address, "opened": opened}, address, as_json=as_json)
            return
    raise FormatError(f"{path} holds no report: there is no index.html in it or in its report/.")
