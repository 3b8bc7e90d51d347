"""`probe-sae import`."""

from pathlib import Path
from typing import Annotated

import typer

from probe_sae.cli import emit
from probe_sae.cli.options import Force, Json, Out, parsed


def import_command(
    src: Annotated[Path, typer.Argument(help="A checkpoint of another library: file or folder.")],
    out: Out,
    format: Annotated[
        str | None, typer.Option("--format", help="Its format; by default it is recognised.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="What its files do not say: k, activation, dict_class."),
    ] = None,
    site: Annotated[
        list[str] | None,
        typer.Option("--site", help="The site it reads, as stores name it; a transcoder: both."),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Turn a dictionary of another library into a folder of ours. Nothing of it is executed.

    Example: `probe-sae import downloads/layer_20 --out sae`
    """
    from probe_sae.interop import import_sae

    more = parsed(assignments or [])
    sae = import_sae(src, out, format=format, sites=site or (), force=force, **more)
    settings, known = sae.settings, sae.provenance["imported"]
    kind = settings.activation + (f" {settings.k}" if settings.k else "")
    what = "a dictionary" if sae.is_autoencoder else "a transcoder"
    emit(
        {
            "sae": str(out),
            "format": known["format"],
            "activation": settings.activation,
            "features": sae.features,
            "d_model": sae.d_model,
            "d_out": sae.d_out,
            "k": settings.k or None,
        },
        f"{out}: {what} of {known['format']}, {sae.features:,} features ({kind}) on rows of "
        f"{sae.d_model}",
        as_json=as_json,
    )
