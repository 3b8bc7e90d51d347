"""Write a store: rows in, whole shards out. Memory is a few batches, whatever the store's size."""

import os
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from probe_sae.errors import ProbeSaeError, ShapeError, StoreError
from probe_sae.store import layout
from probe_sae.store.growing_shard import GrowingShard, Helper, RawRows
from probe_sae.store.hdf5 import open_checked
from probe_sae.store.journal import read_journal
from probe_sae.store.layout import SiteInfo
from probe_sae.store.manifest import write_manifest
from probe_sae.store.recovery import commit, publish, recover
from probe_sae.store.rows import RecordedRows
from probe_sae.store.shard_file import ShardFile
from probe_sae.store.shard_parts import append_statistics, read_statistics
from probe_sae.store.statistics import RowStatistics

WAITING = 2
"""Batches that wait to be written; a faster caller waits with them."""


class StoreWriter:
    """Collect rows into shards, on a thread of its own; what is committed survives a crash.

    Use it in a `with` block, which waits for the thread and leaves what came as whole shards,
    whether or not there was an error.
    """

    def __init__(
        self, folder: Path, sites: list[SiteInfo], kind: str, *, scattered: bool = False
    ) -> None:
        """Begin a store in `folder`, which exists, or continue the one whose journal is there.

        Args:
            folder: where.
            sites: what is recorded.
            kind: `text` or `image`.
            scattered: the rows come in random order, not context by context.

        Raises:
            StoreError: what is there is damaged.
        """
        self.folder, self.kind, self._scattered = folder, kind, scattered
        self.sites = {site.name: site for site in sites}
        recover(folder)
        lines = read_journal(folder / "journal.jsonl")
        self.rows = sum(line.rows for line in lines)
        """Rows taken in so far."""
        self.contexts = sum(line.contexts for line in lines)
        """Contexts taken in so far, those without rows too."""
        self._shards = len(lines)
        self._statistics = {site.name: RowStatistics() for site in sites}
        for line in lines:
            with open_checked(folder / line.shard) as file:
                for name, total in self._statistics.items():
                    total.merge(read_statistics(file, name))
        self._shard: GrowingShard | None = None
        self._failure: BaseException | None = None
        self._jobs: queue.Queue[RawRows | None] = queue.Queue(WAITING)
        self._helpers = {name: Helper(name) for name in ("count", "commit")}
        self._thread = threading.Thread(target=self._work, name="probe-sae-write", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            with suppress(ProbeSaeError):  # the first error is the one to tell
                self.close()

    def append(self, rows: RecordedRows) -> None:
        """Take in rows of whole contexts; they are the caller's again when this returns.

        Raises:
            ShapeError: a site is missing, or its rows have another width or number.
            StoreError: a value is not finite or too large for the store's dtype, or the thread
                could not write what came before.
        """
        raw: dict[str, NDArray[Any]] = {}
        for site in self.sites.values():
            data = rows.sites[site.name]
            if data.shape != (rows.count, site.width):
                raise ShapeError(
                    f"{site.name}: got {tuple(data.shape)}, expected ({rows.count}, {site.width})."
                )
            layout.check_values(site, data, self.rows)
            raw[site.name] = layout.to_disk(data, site.dtype)
        self.append_raw(RawRows(raw, dict(rows.columns), rows.contexts))

    def append_raw(self, rows: RawRows) -> None:
        """Take in rows as they lie on disk; nobody may change them afterwards.

        Raises:
            StoreError: the thread could not write what came before.
        """
        for piece in self._pieces(rows):
            self._raise_failure()
            # An interrupt finds a piece in the queue, or not: nothing is half taken in.
            self._jobs.put(piece)
            self.rows += piece.count
            self.contexts += len(piece.contexts)

    def commit(self) -> None:
        """Wait until all rows that were taken in are safe.

        Raises:
            StoreError: they could not be written.
        """
        self._jobs.put(None)
        self.wait()

    def wait(self) -> None:
        """Wait until the thread has nothing left to do; rows need not be safe yet.

        Raises:
            StoreError: they could not be written.
        """
        self._jobs.join()
        self._raise_failure()

    def close(self) -> None:
        """Finish the last shard, and wait for it.

        Raises:
            StoreError: it could not be written.
        """
        if self._thread.is_alive():
            self.commit()
            self._jobs.put(_STOP)
            self._thread.join()
        self._raise_failure()

    def finish(
        self,
        provenance: dict[str, Any],
        *,
        recording: str | None = None,
        shuffled: dict[str, Any] | None = None,
    ) -> None:
        """Finish the last shard and write the manifest, which makes the folder a store.

        Args:
            provenance: where the rows come from.
            recording: what they are of (`Store.recording`); by default, these very rows.
            shuffled: how, where they lie in random order.

        Raises:
            StoreError: not one row was recorded, or they could not be written.
        """
        self.close()
        if not self.rows:
            raise StoreError("not one row was recorded: the dataset holds nothing but padding.")
        write_manifest(
            self.folder,
            kind=self.kind,
            sites=self.sites,
            statistics=self._statistics,
            provenance=provenance,
            recording=recording,
            shuffled=shuffled,
        )

    def _pieces(self, rows: RawRows) -> Iterator[RawRows]:
        """Yield rows in pieces of about a commit's size that cut no context in two."""
        count = 1 if self._scattered else -(-rows.bytes // layout.COMMIT_BYTES)
        size = -(-len(rows.contexts) // max(1, count)) or 1
        row = 0
        for start in range(0, len(rows.contexts), size):
            contexts = rows.contexts[start : start + size]
            is_last = start + size >= len(rows.contexts)
            end = contexts[-1].index + 1
            stop = rows.count if is_last else int(np.searchsorted(rows.columns["context"], end))
            sites = {name: part[row:stop] for name, part in rows.sites.items()}
            columns = {name: part[row:stop] for name, part in rows.columns.items()}
            yield RawRows(sites, columns, contexts)
            row = stop
        if not rows.contexts and rows.count:
            yield rows

    def _raise_failure(self) -> None:
        if self._failure is None:
            return
        if isinstance(self._failure, OSError):
            number = self._failure.errno
            reason = os.strerror(number) if number else str(self._failure)
            raise StoreError(
                f"cannot write to {self.folder}: {reason}. What was committed before is safe; make "
                "room and continue with --resume."
            ) from self._failure
        raise self._failure

    def _work(self) -> None:
        """Write what comes, until told to stop; after a failure, take it and drop it."""
        while True:
            try:
                job = self._jobs.get(timeout=self._patience)
            except queue.Empty:
                self._try(self._commit)
                continue
            if job is _STOP:
                self._try(self._finish_shard)
                for helper in self._helpers.values():
                    self._try(helper.wait)
                    helper.pool.shutdown()
                if self._failure is not None and self._shard is not None:
                    self._shard.file.abandon()
                self._jobs.task_done()
                return
            if job is None:
                self._try(self._commit)
                self._try(self._helpers["commit"].wait)
            else:
                self._try(self._take, job)
            self._jobs.task_done()

    def _try(self, step: Any, *arguments: Any) -> None:
        if self._failure is None:
            try:
                step(*arguments)
            except BaseException as problem:
                self._failure = problem

    @property
    def _patience(self) -> float | None:
        """Seconds to wait for rows before those that came are committed."""
        if self._shard is None or not self._shard.uncommitted:
            return None
        return max(0.0, self._shard.began + layout.COMMIT_SECONDS - time.monotonic())

    def _take(self, rows: RawRows) -> None:
        if self._shard is None:
            name = layout.shard_name(self._shards)
            path = self.folder / f"{name}.writing"
            self._shard = GrowingShard(name, ShardFile(path), self.sites, self._helpers["count"])
            self._shards += 1
        shard = self._shard
        shard.take(rows)
        if shard.uncommitted >= layout.COMMIT_BYTES or not self._patience:
            self._commit()
        if shard.bytes >= layout.SHARD_BYTES:
            self._finish_shard()

    def _commit(self) -> None:
        """Put the rows of the shard on disk, and say so there."""
        shard = self._shard
        if shard is None or not shard.uncommitted:
            return
        if any(site.compressed for site in self.sites.values()):
            self._finish_shard()  # a packed chunk cannot be written again in its place
            return
        line = {**shard.counts, "arrays": shard.file.flush()}
        self._helpers["commit"].do(commit, self.folder, shard.file.path, shard.name, line)
        shard.uncommitted = 0

    def _finish_shard(self) -> None:
        """Close the shard; what is left to do, to hash it most of all, is done beside."""
        shard = self._shard
        if shard is None:
            return
        self._helpers["count"].wait()
        append_statistics(shard.file, shard.statistics)
        shard.file.close()
        for name, total in self._statistics.items():
            total.merge(shard.statistics[name])
        self._shard = None
        self._helpers["commit"].do(publish, self.folder, shard.file.path, shard.name, shard.counts)


_STOP = RawRows({}, {}, [])
