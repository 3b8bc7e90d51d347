"""`probe-sae encode`."""

from pathlib import Path
from typing import Annotated

import typer

from probe_sae.cli import emit
from probe_sae.cli.options import Device, Force, Json, Out, Resume


def encode_command(
    sae: Annotated[Path, typer.Argument(help="The dictionary.")],
    store: Annotated[Path, typer.Argument(help="The store.")],
    out: Out,
    rows: Annotated[str, typer.Option(help="all, or held_out.")] = "all",
    device: Device = None,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write which features fire on every row of a store, and how strongly.

    Example: `probe-sae encode sae store --out codes`
    """
    from probe_sae.analysis import encode

    codes = encode(sae, store, out, rows=rows, device=device, resume=resume, force=force)
    emit(
        {
            "codes": str(out),
            "features": codes.features,
            "rows": codes.rows,
            "firings": codes.firings,
        },
        f"{out}: {codes.firings:,} firings of {codes.features} features on {codes.rows:,} rows",
        as_json=as_json,
    )
