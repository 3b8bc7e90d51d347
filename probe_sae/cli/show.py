"""`probe-sae show`."""

import sys
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from probe_sae.cli import emit
from probe_sae.cli.options import Json


def show(
    path: Annotated[Path, typer.Argument(help="A report, its page, or the folder of a whole job.")],
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve it to this machine instead of opening it.")
    ] = False,
    port: Annotated[int, typer.Option(help="Where to serve it; 0 for any free port.")] = 0,
    as_json: Json = False,
) -> None:
    """Open a report in the browser; where there is no browser, serve it to this machine alone.

    Example: `probe-sae show probe-sae-demo/2026-01-31_12-00-00`
    """
    from probe_sae.errors import FormatError

    for page in (path / "index.html", path / "report" / "index.html", path):
        if page.is_file() and page.suffix.lower() in (".html", ".htm"):
            break
    else:
        raise FormatError(
            f"{path} holds no report: there is no index.html in it or in its report/."
        )
    address = page.resolve().as_uri()
    opened = not serve and webbrowser.open(address)
    if opened or (as_json and not serve):  # a program that asks waits for no one
        emit({"page": address, "opened": opened, "served": None}, address, as_json=as_json)
        return
    _serve(page, address, port, as_json=as_json)


def _serve(page: Path, address: str, port: int, *, as_json: bool) -> None:
    from probe_sae.errors import SettingsError
    from probe_sae.reporting.serving import HOME, ReportServer

    try:
        server = ReportServer(page, port)
    except (OSError, OverflowError) as problem:
        reason = getattr(problem, "strerror", None) or "expected 0 to 65535"
        raise SettingsError(f"cannot serve on port {port}: {reason}.") from problem
    with server:
        far = f"ssh -L {server.server_port}:{HOME}:{server.server_port} THIS_MACHINE"
        text = (
            f"{server.address} (for browsers of this machine; from another one, first run "
            f"`{far}` there). Ctrl-C ends it."
        )
        told = {"page": address, "opened": False, "served": server.address}
        emit(told, text, as_json=as_json)
        sys.stdout.flush()  # before it waits, also into a pipe
        with suppress(KeyboardInterrupt):
            server.serve_forever()
