"""`probe-sae sites`."""

from dataclasses import asdict
from typing import Annotated

import typer

from probe_sae.cli import emit
from probe_sae.cli.options import HOST_HELP, Json


def sites(
    host: Annotated[str, typer.Argument(help=HOST_HELP)],
    attention: Annotated[
        str | None, typer.Option(help="eager: with attention patterns, where the model has them.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List every site of a host: name, width, layout, module.

    A host without a hook map lists the input and output of every module.

    Example: `probe-sae sites bundled:code-lm`
    """
    from probe_sae.host import load_host

    loaded = load_host(host, device="cpu", attention=attention)
    family = loaded.hook_map.family if loaded.hook_map else None
    found = list(loaded.sites.values())
    wide = max([len(site.name) for site in found], default=4)
    rows = [f"{s.name:<{wide}} {s.width or '?':>6}  {s.layout:<8} {s.place}" for s in found]
    head = f"{loaded!r}, hook map {family}" if family else f"{loaded!r}, no hook map: raw modules"
    notes = [f"not here: {reason}" for reason in loaded.mapped.missing.values()]
    emit(
        {
            "host": host,
            "family": family,
            "sites": [asdict(s) for s in found],
            "missing": loaded.mapped.missing,
        },
        "\n".join([head, f"{'site':<{wide}} {'width':>6}  {'layout':<8} module", *rows, *notes]),
        as_json=as_json,
    )
