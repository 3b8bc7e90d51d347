"""`probe-sae sites`."""

from dataclasses import asdict
from typing import Annotated

import typer

from probe_sae.cli import emit
from probe_sae.cli.options import HOST_HELP, Json


def sites(
    host: Annotated[str, typer.Argument(help=HOST_HELP)],
    as_json: Json = False,
) -> None:
    """List every site of a host: name, width, layout, module.

    Example: `probe-sae sites bundled:code-lm`
    """
    from probe_sae.host import load_host

    loaded = load_host(host, device="cpu")
    family = loaded.hook_map.family if loaded.hook_map else None
    rows = [
        f"{s.name:<28} {s.width or '?':>6}  {s.layout:<8} {s.path or '(model)'}@{s.io}"
        for s in loaded.sites.values()
    ]
    head = f"{loaded!r}, hook map {family}" if family else f"{loaded!r}, no hook map: raw modules"
    emit(
        {"host": host, "family": family, "sites": [asdict(s) for s in loaded.sites.values()]},
        "\n".join([head, f"{'site':<28} {'width':>6}  {'layout':<8} module", *rows]),
        as_json=as_json,
    )
