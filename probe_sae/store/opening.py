"""Open a store, checked as from a stranger; several as one."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from probe_sae.errors import StoreError
from probe_sae.outputs import refuse_partial
from probe_sae.store import layout
from probe_sae.store.chunks import RowChunks, row_chunks
from probe_sae.store.hdf5 import open_checked
from probe_sae.store.journal import ShardLine, read_journal
from probe_sae.store.manifest import read_manifest
from probe_sae.store.manifest_checks import check_manifest
from probe_sae.store.reader import Shard, Store
from probe_sae.store.shard_parts import acts
from probe_sae.store.statistics import RowStatistics


def open_store(path: str | Path) -> Store:
    """Open a finished store; every shard's structure is checked, its rows are not read.

    Raises:
        StoreError: there is none, it is damaged or hostile, unfinished, or from a newer version.
    """
    folder = refuse_partial(path)
    manifest = read_manifest(folder)
    lines = read_journal(folder / "journal.jsonl")
    try:
        check_manifest(manifest, lines)
        store = Store(folder, manifest, [])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as problem:
        what = problem if isinstance(problem, ValueError) else repr(problem)
        raise StoreError(f"{folder}/manifest.json is damaged: {what}.") from problem
    shards: list[Shard] = []
    first_row = first_context = 0
    for line in lines:
        shard = folder / line.shard
        if shard.is_symlink() or not shard.is_file():
            raise StoreError(f"{shard} is missing; record again, or bring the file back.")
        shards.append(
            Shard(
                shard,
                line.rows,
                first_row,
                line.contexts,
                first_context,
                line.context_base,
                line.documents,
                line.document_base,
                line.sha256,
                _check_shard(store, shard, line),
            )
        )
        first_row += line.rows
        first_context += line.contexts
    return Store(folder, manifest, shards)


def as_store(store: object) -> Store:
    """Return a store that is given, or that lies where a path says.

    Raises:
        StoreError: it is neither; see `open_store`.
    """
    if isinstance(store, Store):
        return store
    if not isinstance(store, (str, Path)):
        raise StoreError(f"expected a store, or its folder; got {type(store).__name__}.")
    return open_store(store)


def join_stores(stores: Iterable[Store | str | Path]) -> Store:
    """Return several stores of the same sites of the same host as one; nothing is copied.

    Their rows, contexts and documents are numbered one store after the other.

    Raises:
        StoreError: they differ in host, kind or sites; the message says in what. Or two of them
            are the same.
    """
    opened = [s if isinstance(s, Store) else open_store(s) for s in stores]
    if not opened:
        raise StoreError("there is no store to join; name at least one.")
    if len(opened) == 1:
        return opened[0]
    _check_differ(opened)
    first, shards = opened[0], list[Shard]()
    statistics = {site: RowStatistics() for site in first.sites}
    rows = contexts = documents = 0
    for store in opened:
        _check_alike(first, store)
        shards += [
            replace(
                shard,
                first_row=shard.first_row + rows,
                first_context=shard.first_context + contexts,
                context_base=shard.context_base + contexts,
                document_base=shard.document_base + documents,
            )
            for shard in store.shards
        ]
        for site, total in statistics.items():
            total.merge(store.statistics(site))
        rows, contexts = rows + store.rows, contexts + store.contexts
        documents += store.documents
    manifest = first.manifest | {
        "rows": rows,
        "contexts": contexts,
        "documents": documents,
        "statistics": {site: seen.to_json() for site, seen in statistics.items()},
        "recording": _digest([store.recording for store in opened]),
        "sha256": _digest([store.manifest["sha256"] for store in opened]),
        "provenance": _joined_provenance(opened),
        "shuffled": {"stores": len(opened)} if any(s.is_shuffled for s in opened) else None,
    }
    return Store(first.folder, manifest, shards)


def _joined_provenance(stores: list[Store]) -> dict[str, Any]:
    """Return what joined rows come from: the host is one, the datasets are several."""
    first = stores[0].provenance
    datasets = [store.provenance.get("dataset") or {} for store in stores]
    names = dict.fromkeys(str(data.get("name")) for data in datasets)
    dataset = {
        **datasets[0],
        "name": " + ".join(names),
        "fingerprint": _digest([str(data.get("fingerprint")) for data in datasets]),
    }
    return first | {"dataset": dataset, "joined": [store.provenance for store in stores]}


def _digest(names: list[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _check_differ(stores: list[Store]) -> None:
    known: dict[tuple[str, ...], Path] = {}
    for store in stores:
        rows = tuple(shard.sha256 for shard in store.shards)
        if rows and rows in known:
            raise StoreError(
                f"{known[rows]} and {store.folder} hold the same rows; name each store once."
            )
        known[rows] = store.folder


def _check_alike(first: Store, store: Store) -> None:
    theirs, ours = store.provenance.get("host") or {}, first.provenance.get("host") or {}
    differing = [
        what
        for what, one, other in (
            ("kind of inputs", first.kind, store.kind),
            ("sites", first.sites, store.sites),
            ("weights of the host", ours.get("digest"), theirs.get("digest")),
            ("grid", first.provenance.get("grid"), store.provenance.get("grid")),
            ("vocabulary", _vocabulary_digest(first), _vocabulary_digest(store)),
        )
        if one != other
    ]
    if differing:
        raise StoreError(
            f"{first.folder} and {store.folder} differ in {', '.join(differing)}; stores that are "
            "joined hold the same sites of the same host."
        )


def _vocabulary_digest(store: Store) -> Any:
    return store.manifest["files"].get("vocabulary.json")


def _check_shard(store: Store, path: Path, line: ShardLine) -> dict[str, RowChunks | None]:
    """Return where a shard's rows lie.

    Raises:
        StoreError: its arrays have not the shapes that manifest and journal promise.
    """
    with open_checked(path) as file:
        try:
            return _checked_arrays(store, file, path, line)
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as problem:
            raise StoreError(f"{path} is damaged: {problem}") from problem


def _checked_arrays(
    store: Store, file: Any, path: Path, line: ShardLine
) -> dict[str, RowChunks | None]:
    chunks: dict[str, RowChunks | None] = {}
    for site in store.sites.values():
        name = acts(site.name)
        data = _array(file, path, name)
        wanted = ((line.rows, site.width), layout.DTYPES[site.dtype][1])
        if (data.shape, data.dtype) != wanted:
            found = f"{data.shape} of {data.dtype}"
            raise StoreError(f"{path}: {name} is {found}, expected {wanted}.")
        chunks[site.name] = row_chunks(data, path)
    columns = ["token"] if store.kind == "text" else ["y", "x"]
    for name in ("doc", "context", "pos", *columns):
        _check_list(file, path, f"rows/{name}", line.rows)
    for name in ("document", "start", "label", "name_ends"):
        _check_list(file, path, f"inputs/{name}", line.contexts)
    if "tokens" in file["inputs"]:
        _check_list(file, path, "inputs/token_ends", line.contexts)
        _check_list(file, path, "inputs/tokens", None)
    _check_list(file, path, "inputs/names", None)
    if "thumbnails" in file["inputs"]:
        images = _array(file, path, "inputs/thumbnails")
        if images.ndim != 4 or len(images) != line.contexts or images.dtype != "uint8":
            raise StoreError(f"{path}: thumbnails are {images.dtype} of {images.shape}.")
    return chunks


def _check_list(file: Any, path: Path, name: str, length: int | None) -> None:
    data = _array(file, path, name)
    if data.ndim != 1 or data.dtype.kind not in "iu" or length not in (None, len(data)):
        raise StoreError(
            f"{path}: {name} is {data.dtype} of {data.shape}, expected {length or 'some'} numbers."
        )


def _array(file: Any, path: Path, name: str) -> Any:
    """Return a dataset of an open shard.

    Raises:
        StoreError: there is none of this name.
    """
    found = file.get(name)
    if found is None or not hasattr(found, "shape"):
        raise StoreError(f"{path}: {name} is missing, expected an array.")
    return found
