"""Read a store: rows by slices, numbers or batches; columns; the contexts themselves."""

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.errors import SiteNotFound, StoreError, near
from probe_sae.shown import Fact, Shown, name_in
from probe_sae.site_names import expand_braces, named, near_sites
from probe_sae.store.chunks import FilePool, RowChunks, read_rows
from probe_sae.store.hdf5 import reopen
from probe_sae.store.journal import file_digest
from probe_sae.store.layout import SiteInfo
from probe_sae.store.rows import ContextInput, RowBlock
from probe_sae.store.shard_parts import acts, read_inputs
from probe_sae.store.site_rows import SiteRows
from probe_sae.store.statistics import RowStatistics

_COLUMN_ROWS = 1 << 18
_VERIFIERS = 4
"""Shards that are verified beside each other; one takes a core for each 1.5 GB/s."""


@dataclass(frozen=True)
class Shard:
    """One file of a store."""

    path: Path
    rows: int
    first_row: int
    contexts: int
    first_context: int
    """Number of the first context that is written in it."""
    context_base: int
    """Added to the contexts that its rows name."""
    documents: int
    document_base: int
    sha256: str
    chunks: dict[str, RowChunks | None]
    """Where the rows of each site lie; None where they are compressed."""


class Store(Shown):
    """A finished store; `open_store` makes one. Opening reads no rows.

    It can be handed to other processes, forked or spawned; each opens the files for itself.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], shards: list[Shard]) -> None:
        """Take what `open_store` has checked."""
        self.folder, self.manifest, self.shards = folder, manifest, shards
        self.kind: str = manifest["kind"]
        self.rows: int = manifest["rows"]
        self.contexts: int = manifest["contexts"]
        self.documents: int = manifest["documents"]
        self.provenance: dict[str, Any] = manifest["provenance"]
        self.recording: str = manifest["recording"]
        """What the rows are of: the same for a longer recording, other sites, a shuffled copy."""
        self.is_shuffled: bool = manifest["shuffled"] is not None
        """Whether the rows lie in random order, not context by context."""
        self.sites = {
            name: SiteInfo(name, site["width"], site["dtype"], site["compressed"])
            for name, site in manifest["sites"].items()
        }
        self._first_rows = [shard.first_row for shard in shards]
        self._files = FilePool()

    def __repr__(self) -> str:
        sites = ", ".join(f"{s.name} ({s.width})" for s in self.sites.values())
        order = ", shuffled" if self.is_shuffled else ""
        return f"Store({str(self.folder)!r}: {self.rows:,} rows of {sites}{order})"

    def _facts(self) -> list[Fact]:
        sites = {site.name: f"{site.width} {site.dtype}" for site in self.sites.values()}
        return [
            Fact("store", self.folder),
            Fact("kind", self.kind),
            *(Fact(name, name_in(self.provenance.get(name))) for name in ("host", "dataset")),
            Fact("sites", sites, "Width and dtype of each."),
            Fact("rows", self.rows, "Tokens, patches, pixels or images."),
            Fact("contexts", self.contexts),
            Fact("documents", self.documents),
            Fact("shuffled", self.is_shuffled),
        ]

    def __getitem__(self, site: str) -> SiteRows:
        """Return a site's rows, which slices and row numbers index.

        Raises:
            SiteNotFound: the store has no such site.
        """
        return SiteRows(self, self.site(site))

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
        if name in self.sites:
            return self.sites[name]
        found = self.find_sites(name)
        if len(found) > 1:
            raise SiteNotFound(
                f"{name!r} stands for several sites of {self.folder}: {', '.join(found)}. Name one."
            )
        return self.sites[found[0]]

    def find_sites(self, patterns: str | Iterable[str]) -> list[str]:
        """Return the names of the sites that names, globs, braces or other libraries' names mean.

        Raises:
            SiteNotFound: a name stands for nothing; the message names what is near.
        """
        listed = [patterns] if isinstance(patterns, str) else patterns
        found: list[str] = []
        for name in (one for pattern in listed for one in expand_braces(pattern)):
            sites = named(name, self.sites)
            if not sites:
                raise SiteNotFound(
                    f"{self.folder} has no site {name!r}; it has {', '.join(self.sites)}."
                    + near_sites(name, self.sites)
                )
            found += sites
        return list(dict.fromkeys(found))

    def statistics(self, site: str) -> RowStatistics:
        """Return the statistics of a site's rows, as gathered while they were written."""
        return RowStatistics.from_json(self.manifest["statistics"][site])

    def read(self, site: str, start: int, stop: int) -> Tensor:
        """Return rows `start` to `stop` of a site, [rows, width] float32."""
        return self[site][max(0, start) : max(0, stop)].float()

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
            chunks = shard.chunks.get(site)
            if chunks is not None:
                read_rows(self._files, shard.path, chunks, inside, part)
            elif len(part):
                try:
                    with reopen(shard.path) as file:
                        source = np.s_[inside : inside + len(part)]
                        file[acts(site)].read_direct(part, source)
                except (OSError, KeyError, RuntimeError, TypeError, ValueError) as problem:
                    raise StoreError(f"{shard.path} is damaged: {problem}") from problem
            done += len(part)
            number += 1

    def column(self, name: str) -> NDArray[Any]:
        """Return a column over all rows: `doc`, `context`, `pos`, `token`, `y` or `x`.

        Raises:
            StoreError: it has no such column, or is damaged.
        """
        there = ("doc", "context", "pos", *(("y", "x") if self.kind == "image" else ("token",)))
        if name not in there:
            raise StoreError(
                f"{self.folder} has no column {name!r}; it has {', '.join(there)}."
                + near(str(name), there)
            )
        return np.concatenate(
            [self._columns(shard, slice(None), [name])[name] for shard in self.shards]
        )

    @cached_property
    def context_of_row(self) -> NDArray[np.int64]:
        """The context of each row, [rows]."""
        return self.column("context")

    def marked(self, contexts: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Mark the rows of marked contexts, [rows]; a byte a row."""
        parts: list[NDArray[np.bool_]] = []
        for shard in self.shards:
            for start in range(0, shard.rows, _COLUMN_ROWS):
                part = slice(start, start + _COLUMN_ROWS)
                parts.append(contexts[self._columns(shard, part, ["context"])["context"]])
        return np.concatenate(parts)

    def blocks(self, rows: int) -> Iterator[RowBlock]:
        """Yield all rows in order, in blocks of about `rows`, which cut no context in two.

        A shuffled store's rows are cut anywhere.
        """
        for shard in self.shards:
            start = 0
            while start < shard.rows:
                size = rows
                while True:
                    columns = self._columns(shard, slice(start, start + size))
                    stop = min(start + size, shard.rows)
                    if stop == shard.rows or self.is_shuffled:
                        break
                    changes = np.flatnonzero(np.diff(columns["context"]))
                    if len(changes):
                        stop = start + int(changes[-1]) + 1
                        break
                    size *= 2
                kept = {name: column[: stop - start] for name, column in columns.items()}
                yield RowBlock(shard.first_row + start, shard.first_row + stop, kept)
                start = stop

    def ranges(self, start: int, stop: int) -> Iterator[RowBlock]:
        """Yield rows `start` to `stop`, cut where a shard ends."""
        for shard in self.shards:
            low, high = max(start, shard.first_row), min(stop, shard.first_row + shard.rows)
            if low < high:
                part = slice(low - shard.first_row, high - shard.first_row)
                yield RowBlock(low, high, self._columns(shard, part))

    def inputs(self) -> Iterator[ContextInput]:
        """Yield the contexts in the order in which they were recorded.

        Raises:
            StoreError: a shard is damaged.
        """
        for shard in self.shards:
            try:
                with reopen(shard.path) as file:
                    yield from read_inputs(file, shard.first_context, shard.document_base)
            except (OSError, KeyError, ValueError, TypeError, RuntimeError) as problem:
                raise StoreError(f"{shard.path} is damaged: {problem}") from problem

    def vocabulary(self) -> list[bytes]:
        """Return what each token id stands for; empty for images.

        Raises:
            StoreError: its file is damaged.
        """
        path = self.folder / "vocabulary.json"
        if not path.exists():
            return []
        try:
            return [piece.encode("latin-1") for piece in json.loads(path.read_text("utf-8"))]
        except (OSError, ValueError, AttributeError, TypeError, RecursionError) as problem:
            raise StoreError(f"{path} is damaged: {problem}") from problem

    def verify(self) -> list[str]:
        """Return what is wrong with the shards, one line a fault; reads every byte once."""
        with ThreadPoolExecutor(_VERIFIERS) as pool:
            digests = pool.map(file_digest, (shard.path for shard in self.shards))
            return [
                f"{shard.path.name}: its bytes are not those that were written"
                for shard, digest in zip(self.shards, digests, strict=True)
                if digest != shard.sha256
            ]

    def _columns(
        self, shard: Shard, part: slice, names: list[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Return columns of a shard's rows; contexts and documents by their number in the store."""
        try:
            with reopen(shard.path) as file:
                group = file["rows"]
                wanted = list(group) if names is None else names
                columns = {name: np.asarray(group[name][part]) for name in wanted}
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as problem:
            raise StoreError(f"{shard.path} is damaged: {problem}") from problem
        if "doc" in columns:
            columns["doc"] = columns["doc"].astype(np.int64) + shard.document_base
        if "context" in columns:
            contexts = columns["context"] = columns["context"].astype(np.int64) + shard.context_base
            if len(contexts) and not 0 <= contexts.min() <= contexts.max() < self.contexts:
                raise StoreError(
                    f"{shard.path}: rows are of contexts {contexts.min()} to {contexts.max()}, but "
                    f"there are {self.contexts}; it is damaged."
                )
        return columns
