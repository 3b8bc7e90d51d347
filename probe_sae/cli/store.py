"""`probe-sae store`."""

from pathlib import Path
from typing import Annotated

import typer

from probe_sae.cli import emit
from probe_sae.cli.options import Force, Json, Out, Resume, Seed

app = typer.Typer(
    help="Look at stores, check, shuffle and merge them.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
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
            "compressed": site.compressed,
            "mean_norm": seen.norm_sum / max(1, seen.count),
            "largest": seen.largest,
        }
        packed = " packed by gzip" if site.compressed else ""
        lines.append(
            f"  {site.name}: {site.dtype}{packed}, mean norm {sites[site.name]['mean_norm']:.4g}, "
            f"largest magnitude {seen.largest:.4g}"
        )
    host, data = opened.provenance.get("host", {}), opened.provenance.get("dataset", {})
    lines.append(f"  recorded from {host.get('name')} over {data.get('name')}")
    size = sum(shard.path.stat().st_size for shard in opened.shards)
    lines.append(f"  {size / 1e6:,.1f} MB on disk")
    result = {
        "rows": opened.rows,
        "contexts": opened.contexts,
        "documents": opened.documents,
        "shuffled": opened.is_shuffled,
        "bytes": size,
        "shards": len(opened.shards),
        "sites": sites,
        "provenance": opened.provenance,
    }
    emit(result, "\n".join(lines), as_json=as_json)


@app.command("verify")
def verify(store: Path_, as_json: Json = False) -> None:
    """Check every byte of a store against the hashes that were written with it.

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


@app.command("shuffle")
def shuffle(
    store: Path_,
    out: Out,
    seed: Seed = 0,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a copy whose rows lie in random order, for training; bounded memory, any size.

    Example: `probe-sae store shuffle store --out shuffled`
    """
    from probe_sae.store import shuffle_store

    made = shuffle_store(store, out, seed=seed, resume=resume, force=force)
    emit({"store": str(out), "rows": made.rows, "seed": seed}, f"{made!r}", as_json=as_json)


@app.command("merge")
def merge(
    stores: Annotated[list[Path], typer.Argument(help="Stores of one host.")],
    out: Out,
    site: Annotated[
        list[str] | None,
        typer.Option("--site", help="Only these; may be repeated; globs and {0,2}."),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write several stores as one, or some sites of a store; files are linked where they can be.

    Example: `probe-sae store merge monday tuesday --out both`
    """
    from probe_sae.store import join_stores, merge_stores

    whole = join_stores(stores)
    sites = whole.find_sites(site or ["*"])
    made = merge_stores([whole], out, sites=sites, force=force)
    emit(
        {"store": str(out), "rows": made.rows, "sites": list(made.sites)},
        f"{made!r}",
        as_json=as_json,
    )
