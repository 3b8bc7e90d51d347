"""Write a store: rows in, whole shards out. Memory is one shard, whatever the store's size."""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from probe_sae.errors import ShapeError, StoreError
from probe_sae.outputs import sync_folder, write_whole
from probe_sae.store import layout
from probe_sae.store.hdf5 import write_json
from probe_sae.store.layout import SiteInfo
from probe_sae.store.rows import ContextInput, RecordedRows
from probe_sae.store.statistics import RowStatistics


class StoreWriter:
    """Collect rows into shards; what `commit` has returned from survives a crash.

    A shard is written beside its name, synced, renamed, and then entered in the journal: a reader
    believes the journal alone, so a shard that was cut short does not exist.
    """

    def __init__(self, folder: Path, sites: list[SiteInfo], kind: str) -> None:
        """Begin a store in `folder`, which exists, or continue the one whose journal is there."""
        self.folder, self.sites, self.kind = folder, sites, kind
        self.statistics = {site.name: RowStatistics() for site in sites}
        self.rows = self.contexts = self.shards = 0
        for line in read_journal(folder):
            self.rows += line["rows"]
            self.contexts += line["contexts"]
            self.shards += 1
            for name, saved in line["statistics"].items():
                self.statistics[name].merge(RowStatistics.from_json(saved))
        self._begin_shard()

    def append(self, rows: RecordedRows) -> None:
        """Take in rows of whole contexts, and commit when a shard is full.

        Raises:
            ShapeError: a site is missing, or its rows have another width or number.
            StoreError: a value is not finite, or too large for the store's dtype.
        """
        parts: dict[str, np.ndarray] = {}
        seen: dict[str, RowStatistics] = {}
        for site in self.sites:
            data = rows.sites[site.name]
            if data.shape != (rows.count, site.width):
                raise ShapeError(
                    f"{site.name}: got {tuple(data.shape)}, expected ({rows.count}, {site.width})."
                )
            self._guard(site, data)
            seen[site.name] = RowStatistics()
            seen[site.name].add(data)
            parts[site.name] = layout.to_disk(data, site.dtype)
        # An interrupt must find all of a batch or nothing of it: from here on nothing is computed,
        # and what counts as taken in is said last.
        pending = {name: [*self._parts[name], part] for name, part in parts.items()}
        columns = {name: [*self._columns.get(name, []), c] for name, c in rows.columns.items()}
        inputs = [*self._inputs, *rows.contexts]
        statistics = {name: _merged(self._statistics[name], new) for name, new in seen.items()}
        size = self._bytes + sum(part.nbytes for part in parts.values())
        state = (pending, columns, inputs, statistics, self._count + rows.count, size)
        self._parts, self._columns, self._inputs, self._statistics, self._count, self._bytes = state
        late = time.monotonic() - self._began > layout.SHARD_SECONDS
        if self._bytes >= layout.SHARD_BYTES or late:
            self.commit()

    def commit(self) -> None:
        """Write what has been collected as one shard and enter it in the journal."""
        if not self._inputs:
            return
        name = f"shard-{self.shards:05d}.h5"
        beside = self.folder / f"{name}.writing"
        try:
            self._write_shard(beside)
            digest = file_digest(beside)
            beside.replace(self.folder / name)
            sync_folder(self.folder)
            line = {
                "shard": name,
                "rows": self._count,
                "contexts": len(self._inputs),
                "sha256": digest,
                "statistics": {n: s.to_json() for n, s in self._statistics.items()},
            }
            with (self.folder / "journal.jsonl").open("a", encoding="utf-8") as journal:
                journal.write(json.dumps(line, sort_keys=True) + "\n")
                journal.flush()
                os.fsync(journal.fileno())
        except OSError as problem:
            raise StoreError(
                f"cannot write {beside}: {problem.strerror}. The {self.rows} rows before it are "
                "safe; make room and continue with --resume."
            ) from problem
        for site, seen in self._statistics.items():
            self.statistics[site].merge(seen)
        self.rows += self._count
        self.contexts += len(self._inputs)
        self.shards += 1
        self._begin_shard()

    def finish(self, provenance: dict[str, Any]) -> None:
        """Commit the rest and write the manifest, which makes the folder a store.

        Raises:
            StoreError: not one row was recorded.
        """
        self.commit()
        if not self.rows:
            raise StoreError("not one row was recorded: the dataset holds nothing but padding.")
        manifest = {
            "format": layout.FORMAT,
            "version": layout.VERSION,
            "kind": self.kind,
            "rows": self.rows,
            "contexts": self.contexts,
            "sites": {site.name: {"width": site.width, "dtype": site.dtype} for site in self.sites},
            "statistics": {name: seen.to_json() for name, seen in self.statistics.items()},
            "journal_sha256": file_digest(self.folder / "journal.jsonl"),
            "provenance": provenance,
        }
        write_whole(
            self.folder / "manifest.json",
            json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False),
        )

    @property
    def collected(self) -> int:
        """Rows taken in so far, committed or not."""
        return self.rows + self._count

    def _begin_shard(self) -> None:
        self._parts: dict[str, list[np.ndarray]] = {site.name: [] for site in self.sites}
        self._columns: dict[str, list[np.ndarray]] = {}
        self._inputs: list[ContextInput] = []
        self._statistics = {site.name: RowStatistics() for site in self.sites}
        self._count = self._bytes = 0
        self._began = time.monotonic()

    def _guard(self, site: SiteInfo, data: torch.Tensor) -> None:
        """Raise if a value would be stored as something else than a number near it."""
        largest = float(data.abs().max()) if data.numel() else 0.0
        if not np.isfinite(largest):
            raise StoreError(
                f"{site.name}: the host gives values that are not finite (row {self.rows} on). "
                "Look at the host's dtype and inputs."
            )
        if site.dtype == "float16" and largest > layout.FLOAT16_MAX:
            raise StoreError(
                f"{site.name}: a value of {largest:.3g} does not fit float16 (at most 65504). "
                "Record with --dtype bfloat16 or --dtype float32."
            )

    def _write_shard(self, path: Path) -> None:
        with h5py.File(path, "w") as file:
            for site in self.sites:
                data = np.concatenate(self._parts[site.name])
                chunk = (min(layout.chunk_rows(site.width, site.dtype), len(data)), site.width)
                chunk = chunk if len(data) else None
                acts = file.create_dataset(f"sites/{site.name}/acts", data=data, chunks=chunk)
                acts.attrs["logical_dtype"] = site.dtype
            for name, parts in self._columns.items():
                file.create_dataset(f"rows/{name}", data=np.concatenate(parts))
            _write_inputs(file.create_group("inputs"), self._inputs)
        with path.open("rb+") as written:
            os.fsync(written.fileno())


def _merged(one: RowStatistics, other: RowStatistics) -> RowStatistics:
    """Return the statistics of the rows of both."""
    merged = RowStatistics()
    merged.merge(one)
    merged.merge(other)
    return merged


def _write_inputs(group: h5py.Group, contexts: list[ContextInput]) -> None:
    """Write the contexts themselves, so that an analysis needs neither dataset nor tokenizer."""
    group.create_dataset("document", data=np.array([c.document for c in contexts], np.uint32))
    group.create_dataset("start", data=np.array([c.start for c in contexts], np.uint32))
    group.create_dataset("label", data=np.array([c.label for c in contexts], np.int32))
    write_json(group, "names", [c.name for c in contexts])
    tokens = [c.tokens for c in contexts if c.tokens is not None]
    if tokens:
        lengths = [len(t) for t in tokens]
        group.create_dataset("tokens", data=np.concatenate(tokens).astype(np.int32))
        group.create_dataset("offsets", data=np.cumsum([0, *lengths], dtype=np.int64))
    thumbnails = [c.thumbnail for c in contexts if c.thumbnail is not None]
    if thumbnails:
        group.create_dataset("thumbnails", data=np.stack(thumbnails))


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """Return the journal's lines; a last line that was cut short does not count.

    Raises:
        StoreError: a line before the last is no JSON object.
    """
    path = folder / "journal.jsonl"
    if not path.exists():
        return []
    text = path.read_text("utf-8", "replace")
    whole, _, _ = text.rpartition("\n")
    try:
        lines = [json.loads(line) for line in whole.splitlines()]
        if all(isinstance(line, dict) and isinstance(line["shard"], str) for line in lines):
            return lines
    except (ValueError, KeyError) as problem:
        raise StoreError(f"{path} is damaged: {problem}") from problem
    raise StoreError(f"{path} is damaged: a line is no shard.")


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
