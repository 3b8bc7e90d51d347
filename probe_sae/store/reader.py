"""Read a store: checked as from a stranger when opened, then by slices, contexts or batches."""

import json
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.errors import SiteNotFound, StoreError, near
from probe_sae.outputs import refuse_partial
from probe_sae.store import layout
from probe_sae.store.chunks import FilePool, RowChunks, read_rows, row_chunks
from probe_sae.store.hdf5 import open_checked, read_json, reopen
from probe_sae.store.layout import SiteInfo
from probe_sae.store.rows import ContextInput
from probe_sae.store.statistics import RowStatistics
from probe_sae.store.writer import file_digest, read_journal

_SHARD_NAME = re.compile(r"shard-\d{5,}\.h5")


@dataclass(frozen=True)
class Shard:
    """One file of a store."""

    path: Path
    rows: int
    first_row: int
    contexts: int
    sha256: str


class Store:
    """A finished store; `open_store` makes one. Opening reads no rows."""

    def __init__(self, folder: Path, manifest: dict[str, Any], shards: list[Shard]) -> None:
        """Take what `open_store` has checked."""
        self.folder, self.manifest, self.shards = folder, manifest, shards
        self.kind: str = manifest["kind"]
        self.rows: int = manifest["rows"]
        self.contexts: int = manifest["contexts"]
        self.provenance: dict[str, Any] = manifest["provenance"]
        self.sites = {
            name: SiteInfo(name, site["width"], site["dtype"])
            for name, site in manifest["sites"].items()
        }
        self.chunks: list[dict[str, RowChunks | None]] = [{} for _ in shards]
        """For each shard, where the rows of each site lie; None where they are compressed."""
        self._first_rows = [shard.first_row for shard in shards]
        self._files = FilePool()

    def __repr__(self) -> str:
        sites = ", ".join(f"{s.name} ({s.width})" for s in self.sites.values())
        return f"Store({str(self.folder)!r}: {self.rows:,} rows of {sites})"

    def site(self, name: str | None = None) -> SiteInfo:
        """Return a site of this store; without a name, its only one.

        Raises:
            SiteNotFound: the store has no such site, or several and none was named.
        """
        if name is None:
            if len(self.sites) == 1:
                return next(iter(self.sites.values()))
            raise SiteNotFound(
                f"{self.folder} has {len(self.sites)} sites: {', '.join(self.sites)}. "
                "Name one with --site."
            )
        if name not in self.sites:
            raise SiteNotFound(
                f"{self.folder} has no site {name!r}; it has {', '.join(self.sites)}."
                + near(name, self.sites)
            )
        return self.sites[name]

    def statistics(self, site: str) -> RowStatistics:
        """Return the statistics of a site's rows, as gathered while they were written."""
        return RowStatistics.from_json(self.manifest["statistics"][site])

    def column(self, name: str) -> NDArray[Any]:
        """Return a column over all rows: `doc`, `context`, `pos` or `token`."""
        parts: list[NDArray[Any]] = []
        for shard in self.shards:
            with reopen(shard.path) as file:
                parts.append(np.asarray(file[f"rows/{name}"]))
        return np.concatenate(parts)

    @cached_property
    def context_of_row(self) -> NDArray[np.int64]:
        """The context of each row, [rows]."""
        contexts = self.column("context").astype(np.int64)
        if len(contexts) and int(contexts.max()) >= self.contexts:
            raise StoreError(
                f"{self.folder}: rows are of context {int(contexts.max())}, but there are "
                f"{self.contexts}; it is damaged."
            )
        return contexts

    def read(self, site: str, start: int, stop: int) -> Tensor:
        """Return rows `start` to `stop` of a site, [rows, width] float32."""
        info = self.site(site)
        start, stop = max(0, start), min(stop, self.rows)
        raw = np.empty((max(0, stop - start), info.width), layout.DTYPES[info.dtype][1])
        self.read_into(site, start, raw)
        return layout.from_disk(raw, info.dtype).float()

    def read_into(self, site: str, start: int, out: NDArray[Any]) -> None:
        """Fill `out`, [n, width] of the dtype on disk, with a site's rows from `start` on.

        Straight from the files, without a copy; safe in threads and forked processes.

        Raises:
            StoreError: a file cannot be read.
        """
        number = bisect_right(self._first_rows, start) - 1
        done = 0
        while done < len(out):
            shard = self.shards[number]
            inside = start + done - shard.first_row
            part = out[done : done + min(len(out) - done, shard.rows - inside)]
            chunks = self.chunks[number].get(site)
            if chunks is not None:
                read_rows(self._files, shard.path, chunks, inside, part)
            else:
                with reopen(shard.path) as file:
                    source = np.s_[inside : inside + len(part)]
                    file[f"sites/{site}/acts"].read_direct(part, source)
            done += len(part)
            number += 1

    def columns(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return the columns of rows `start` to `stop`, which lie in one shard."""
        for shard in self.shards:
            if shard.first_row <= start and stop <= shard.first_row + shard.rows:
                part = slice(start - shard.first_row, stop - shard.first_row)
                with reopen(shard.path) as file:
                    return {name: np.asarray(file["rows"][name][part]) for name in file["rows"]}
        raise StoreError(f"rows {start} to {stop} do not lie in one shard of {self.folder}.")

    def inputs(self) -> Iterator[ContextInput]:
        """Yield the contexts in the order in which they were recorded."""
        index = 0
        for shard in self.shards:
            with reopen(shard.path) as file:
                group = file["inputs"]
                names = read_json(group, "names")
                arrays = {n: np.asarray(group[n]) for n in group if n != "names"}
            for i, name in enumerate(names):
                tokens = thumbnail = None
                if "tokens" in arrays:
                    low, high = arrays["offsets"][i : i + 2]
                    tokens = arrays["tokens"][low:high]
                if "thumbnails" in arrays:
                    thumbnail = arrays["thumbnails"][i]
                yield ContextInput(
                    index,
                    int(arrays["document"][i]),
                    str(name),
                    int(arrays["start"][i]),
                    tokens,
                    thumbnail,
                    int(arrays["label"][i]),
                )
                index += 1

    def vocabulary(self) -> list[bytes]:
        """Return what each token id stands for; empty for images."""
        path = self.folder / "vocabulary.json"
        if not path.exists():
            return []
        return [piece.encode("latin-1") for piece in json.loads(path.read_text("utf-8"))]

    def verify(self) -> list[str]:
        """Return what is wrong with the files, one line a fault; reads every byte once."""
        faults: list[str] = []
        if file_digest(self.folder / "journal.jsonl") != self.manifest["journal_sha256"]:
            faults.append("journal.jsonl: changed since the store was finished")
        for shard in self.shards:
            if file_digest(shard.path) != shard.sha256:
                faults.append(f"{shard.path.name}: its bytes are not those that were written")
        return faults


def open_store(path: str | Path) -> Store:
    """Open a finished store; every shard's structure is checked, its rows are not read.

    Raises:
        StoreError: there is none, it is damaged or hostile, unfinished, or from a newer version.
    """
    folder = refuse_partial(path)
    manifest = _read_manifest(folder)
    shards: list[Shard] = []
    first = 0
    for line in read_journal(folder):
        if not _SHARD_NAME.fullmatch(line["shard"]):
            raise StoreError(f"{folder}/journal.jsonl names {line['shard']!r}, which is no shard.")
        shard_path = folder / line["shard"]
        if shard_path.is_symlink() or not shard_path.is_file():
            raise StoreError(f"{shard_path} is missing; record again, or bring the file back.")
        shards.append(
            Shard(shard_path, line["rows"], first, line["contexts"], line["sha256"]),
        )
        first += line["rows"]
    store = _make(folder, manifest, shards)
    if first != store.rows:
        raise StoreError(f"{folder}: its shards hold {first} rows, its manifest says {store.rows}.")
    for number, shard in enumerate(shards):
        store.chunks[number] = _check_shard(store, shard)
    return store


def _make(folder: Path, manifest: dict[str, Any], shards: list[Shard]) -> Store:
    try:
        store = Store(folder, manifest, shards)
        for site in store.sites.values():
            layout.check_dtype(site.dtype)
            store.statistics(site.name)
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise StoreError(f"{folder}/manifest.json is damaged: {problem!r}") from problem
    return store


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as problem:
        raise StoreError(f"{folder} is no store: it has no manifest.json.") from problem
    except (OSError, ValueError) as problem:
        raise StoreError(f"{path} cannot be read: {problem}") from problem
    if not isinstance(manifest, dict) or manifest.get("format") != layout.FORMAT:
        raise StoreError(f"{path} is not the manifest of a store of probe_sae.")
    if manifest.get("version") != layout.VERSION:
        raise StoreError(
            f"{folder} is a store of version {manifest.get('version')}; this probe_sae reads "
            f"version {layout.VERSION}. Update probe_sae."
        )
    return manifest


def _check_shard(store: Store, shard: Shard) -> dict[str, RowChunks | None]:
    """Return where a shard's rows lie.

    Raises:
        StoreError: its arrays have not the shapes that manifest and journal promise.
    """
    chunks: dict[str, RowChunks | None] = {}
    with open_checked(shard.path) as file:
        for site in store.sites.values():
            name = f"sites/{site.name}/acts"
            acts = file.get(name)
            wanted = ((shard.rows, site.width), layout.DTYPES[site.dtype][1])
            if acts is None or (acts.shape, acts.dtype) != wanted:
                found = "nothing" if acts is None else f"{acts.shape} of {acts.dtype}"
                raise StoreError(f"{shard.path}: {name} is {found}, expected {wanted}.")
            chunks[site.name] = row_chunks(acts, shard.path)
        for column in ("doc", "context", "pos"):
            if f"rows/{column}" not in file or len(file[f"rows/{column}"]) != shard.rows:
                raise StoreError(f"{shard.path}: rows/{column} is missing or of wrong length.")
        for name in ("document", "start", "label", "names"):
            if f"inputs/{name}" not in file:
                raise StoreError(f"{shard.path}: inputs/{name} is missing.")
    return chunks
