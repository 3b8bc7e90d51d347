"""`probe-sae store`."""

from pathlib import Path
from typing import Annotated

import typer

from probe_sae.cli import emit
from probe_sae.cli.options import Json

app = typer.Typer(help="Look at a store.", no_args_is_help=True, rich_markup_mode="markdown")
Path_ = Annotated[Path, typer.Argument(help="The store.")]


@app.command("info")
def info(store: Path_, as_json: Json = False) -> None:
    """Say what is in a store.

    Example: `probe-sae store info store`
    """
    from probe_sae.store import open_store

    opened = open_store(store)
    lines = [f"{opened!r}", f"  {opened.contexts:,} contexts in {len(opened.shards)} shards"]
    sites: dict[str, dict[str, float | int | str]] = {}
    for site in opened.sites.values():
        seen = opened.statistics(site.name)
        sites[site.name] = {
            "width": site.width,
            "dtype": site.dtype,
            "mean_norm": seen.norm_sum / max(1, seen.count),
            "largest": seen.largest,
        }
        lines.append(
            f"  {site.name}: {site.dtype}, mean norm {sites[site.name]['mean_norm']:.4g}, "
            f"largest magnitude {seen.largest:.4g}"
        )
    host, data = opened.provenance.get("host", {}), opened.provenance.get("dataset", {})
    lines.append(f"  recorded from {host.get('name')} over {data.get('name')}")
    result = {
        "rows": opened.rows,
        "contexts": opened.contexts,
        "shards": len(opened.shards),
        "sites": sites,
        "provenance": opened.provenance,
    }
    emit(result, "\n".join(lines), as_json=as_json)


@app.command("verify")
def verify(store: Path_, as_json: Json = False) -> None:
    """Check every byte of a store against the hashes in its journal.

    Example: `probe-sae store verify store`
    """
    from probe_sae.errors import StoreError
    from probe_sae.store import open_store

    opened = open_store(store)
    faults = opened.verify()
    if faults:
        raise StoreError(f"{store} is damaged:\n  " + "\n  ".join(faults))
    message = f"{store}: {len(opened.shards)} shards, every byte as written"
    emit(
        {"store": str(store), "shards": len(opened.shards), "faults": []}, message, as_json=as_json
    )
