"""The shard that is being written, the rows that come to it, and what is done beside."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from probe_sae.store import layout
from probe_sae.store.layout import SiteInfo
from probe_sae.store.rows import ContextInput
from probe_sae.store.shard_file import ShardFile
from probe_sae.store.shard_parts import append_inputs, append_rows
from probe_sae.store.statistics import RowStatistics


@dataclass(frozen=True)
class RawRows:
    """Rows as they lie on disk."""

    sites: dict[str, NDArray[Any]]
    """Site name -> [rows, width]."""
    columns: dict[str, NDArray[Any]]
    """[rows] each."""
    contexts: list[ContextInput]

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.columns["context"])

    @property
    def bytes(self) -> int:
        """What they take on disk, about."""
        arrays = [*self.sites.values(), *self.columns.values()]
        inputs = ((c.tokens, c.thumbnail) for c in self.contexts)
        return sum(a.nbytes for pair in (arrays, *inputs) for a in pair if a is not None)


class Helper:
    """A thread that does one thing beside, in order, while the next is prepared."""

    def __init__(self, name: str) -> None:
        self.pool = ThreadPoolExecutor(1, f"probe-sae-{name}")
        self._last: Future[None] | None = None

    def do(self, work: Callable[..., None], *arguments: Any) -> None:
        """Begin some work once the work before is done; its errors come here or in `wait`."""
        self.wait()
        self._last = self.pool.submit(work, *arguments)

    def wait(self) -> None:
        """Wait until all work is done."""
        if self._last is not None:
            self._last.result()


class GrowingShard:
    """The shard that is being written."""

    def __init__(
        self, name: str, file: ShardFile, sites: dict[str, SiteInfo], counting: Helper
    ) -> None:
        self.name, self.file, self._sites, self._counting = name, file, sites, counting
        self.statistics = {site: RowStatistics() for site in sites}
        self.counts = {"rows": 0, "contexts": 0, "documents": 0}
        self.bytes = self.uncommitted = 0
        self.began = time.monotonic()
        self._ends: dict[str, int] = {}

    def take(self, rows: RawRows) -> None:
        """Append rows and their contexts."""
        if not self.uncommitted:
            self.began = time.monotonic()
        self._counting.do(self._count, rows)
        append_rows(self.file, self._sites, rows.sites, rows.columns)
        append_inputs(self.file, rows.contexts, self._ends)
        documents = [1 + c.document for c in rows.contexts]
        if rows.count:
            documents.append(1 + int(rows.columns["doc"].max()))
        self.counts = {
            "rows": self.counts["rows"] + rows.count,
            "contexts": self.counts["contexts"] + len(rows.contexts),
            "documents": max([self.counts["documents"], *documents]),
        }
        self.bytes += rows.bytes
        self.uncommitted += max(1, rows.bytes)

    def _count(self, rows: RawRows) -> None:
        for name, info in self._sites.items():
            self.statistics[name].add(layout.from_disk(rows.sites[name], info.dtype))
