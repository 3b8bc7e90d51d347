"""Several stores as one on disk, or some sites of them: shards are linked where they can be."""

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from probe_sae.errors import StoreError
from probe_sae.outputs import whole_folder
from probe_sae.progress import progress
from probe_sae.store import layout
from probe_sae.store.growing_shard import RawRows
from probe_sae.store.journal import ShardLine, enter
from probe_sae.store.layout import SiteInfo
from probe_sae.store.manifest import write_manifest
from probe_sae.store.opening import join_stores, open_store
from probe_sae.store.reader import Store
from probe_sae.store.rows import ContextInput, RowBlock
from probe_sae.store.writer import StoreWriter

PIECE_BYTES = 32 << 20
"""Rows copied at a time."""
COLUMN_BYTES = 16
"""A row's columns: four numbers of 32 bits, or three and two of 16."""


def merge_stores(
    stores: Iterable[Store | str | Path],
    out: str | Path,
    *,
    sites: Sequence[str] | None = None,
    force: bool = False,
) -> Store:
    """Write several stores of one host as one, one after the other; or a single one.

    With all sites, the new store's files are hard links to the old ones where the file system has
    such, and so take no room. With some, their rows are copied.

    Args:
        stores: stores or their folders.
        out: the new store's folder.
        sites: which sites; all by default.
        force: replace what is in `out`.

    Raises:
        StoreError: the stores differ in host, kind or sites, or cannot be read or written.
        SiteNotFound: a site is not in them.
        OutputExists: `out` is there already.
    """
    whole = join_stores(stores)
    chosen = [whole.sites[name] for name in whole.find_sites(sites or whole.sites)]
    with whole_folder(out, force=force, marks=("manifest.json",)) as folder:
        copy_vocabulary(whole, folder)
        if len(chosen) == len(whole.sites):
            link_shards(whole, folder)
            write_manifest(
                folder,
                kind=whole.kind,
                sites=whole.sites,
                statistics={name: whole.statistics(name) for name in whole.sites},
                provenance=whole.provenance,
                recording=whole.recording,
                shuffled=whole.manifest["shuffled"],
            )
        else:
            _copy_sites(whole, chosen, folder)
    return open_store(out)


def link_shards(store: Store, folder: Path) -> None:
    """Give the shards of `store` a name in `folder`, too, and write the journal."""
    journal = folder / "journal.jsonl"
    journal.unlink(missing_ok=True)
    for number, shard in enumerate(store.shards):
        name = layout.shard_name(number)
        _link(shard.path, folder / name)
        line = ShardLine(
            name,
            shard.rows,
            shard.contexts,
            shard.documents,
            shard.sha256,
            shard.context_base,
            shard.document_base,
        )
        enter(journal, line)


def copy_vocabulary(store: Store, folder: Path) -> None:
    """Copy what token ids stand for."""
    path = store.folder / "vocabulary.json"
    if path.exists():
        shutil.copyfile(path, folder / path.name)


def raw_rows(
    store: Store, sites: Sequence[SiteInfo], block: RowBlock, contexts: list[ContextInput]
) -> RawRows:
    """Return the rows of a block as they lie on disk."""
    arrays = {
        site.name: np.empty((block.stop - block.start, site.width), layout.DTYPES[site.dtype][1])
        for site in sites
    }
    for name, array in arrays.items():
        store.read_into(name, block.start, array)
    columns = dict(block.columns)
    for name in ("doc", "context"):
        columns[name] = columns[name].astype(np.uint32)
    return RawRows(arrays, columns, contexts)


def row_bytes(sites: Iterable[SiteInfo]) -> int:
    """Return what a row of these sites takes on disk, its columns included."""
    return COLUMN_BYTES + sum(s.width * layout.DTYPES[s.dtype][1].itemsize for s in sites)


def _copy_sites(store: Store, sites: list[SiteInfo], folder: Path) -> None:
    size = max(1, PIECE_BYTES // row_bytes(sites))
    inputs = store.inputs()
    scattered = store.is_shuffled
    with (
        progress("merge", store.rows) as advance,
        StoreWriter(folder, sites, store.kind, scattered=scattered) as writer,
    ):
        for block in store.blocks(size):
            if scattered:
                upto = store.contexts * block.stop // store.rows
            else:
                upto = int(block.columns["context"][-1]) + 1
            contexts = [next(inputs) for _ in range(upto - writer.contexts)]
            writer.append_raw(raw_rows(store, sites, block, contexts))
            advance(block.stop - block.start)
        writer.append_raw(raw_rows(store, sites, _nothing(store), list(inputs)))
        writer.finish(
            store.provenance, recording=store.recording, shuffled=store.manifest["shuffled"]
        )


def _nothing(store: Store) -> RowBlock:
    """Return a block without rows, for contexts that have none and come last."""
    columns = {name: column[:0] for name, column in next(store.blocks(1)).columns.items()}
    return RowBlock(0, 0, columns)


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        try:
            shutil.copyfile(source, target)
        except OSError as problem:
            raise StoreError(f"cannot copy {source} to {target}: {problem.strerror}.") from problem
