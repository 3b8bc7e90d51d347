"""`probe-sae capture`."""

from typing import Annotated

import typer

from probe_sae.cli import emit
from probe_sae.cli.options import DATASET_HELP, HOST_HELP, Device, Force, Json, Out, Resume, Root


def capture_command(
    host: Annotated[str, typer.Argument(help=HOST_HELP)],
    dataset: Annotated[str, typer.Argument(help=DATASET_HELP)],
    site: Annotated[
        list[str], typer.Option("--site", help="Site; may be repeated; globs and {0,2}.")
    ],
    out: Out,
    rows: Annotated[int | None, typer.Option(help="Stop at so many rows.")] = None,
    max_length: Annotated[int, typer.Option(help="Tokens of a context at most.")] = 256,
    batch_size: Annotated[int, typer.Option(help="Contexts run at once.")] = 32,
    dtype: Annotated[str, typer.Option(help="float16, bfloat16 or float32.")] = "float16",
    tokens: Annotated[
        str, typer.Option(help="Of an image: patch, cls, register or all.")
    ] = "patch",
    stride: Annotated[
        int | None, typer.Option(help="Tokens from one context to the next; overlaps are context.")
    ] = None,
    pack: Annotated[
        bool, typer.Option("--pack", help="Fill contexts with several documents.")
    ] = False,
    compress: Annotated[
        bool, typer.Option("--compress", help="Pack the rows: for sites that are mostly zeros.")
    ] = False,
    root: Root = None,
    device: Device = None,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Record sites of a host into a store.

    Example: `probe-sae capture gpt2 stdlib --site 'blocks.{4,6}.resid_post' --rows 1000000
    --out store`
    """
    from probe_sae.host import load_host
    from probe_sae.recording import CaptureSettings, capture, load_dataset

    settings = CaptureSettings(
        rows=rows,
        max_length=max_length,
        batch_size=batch_size,
        dtype=dtype,
        tokens=tokens,
        stride=stride,
        pack=pack,
        compress=compress,
    )
    recipe = load_dataset(dataset, root=root)
    loaded = load_host(host, device=device)
    store = capture(loaded, recipe, site, out, settings, resume=resume, force=force)
    emit(
        {
            "store": str(out),
            "rows": store.rows,
            "contexts": store.contexts,
            "sites": list(store.sites),
        },
        f"{store!r}",
        as_json=as_json,
    )
