"""The arrays of a shard, by name: rows of sites, columns, and the contexts themselves."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.store.layout import SiteInfo
from probe_sae.store.rows import ContextInput
from probe_sae.store.shard_file import ShardFile
from probe_sae.store.statistics import RowStatistics


def acts(site: str) -> str:
    """Return the name of the array of a site's rows."""
    return f"sites/{site}/acts"


def append_rows(
    file: ShardFile,
    sites: Mapping[str, SiteInfo],
    rows: Mapping[str, NDArray[Any]],
    columns: Mapping[str, NDArray[Any]],
) -> None:
    """Append rows as they lie on disk, [rows, width] of each site, and their columns, [rows]."""
    for name, info in sites.items():
        file.append(
            acts(name),
            rows[name],
            compressed=info.compressed,
            attributes={"logical_dtype": info.dtype},
        )
    for name, column in columns.items():
        file.append(f"rows/{name}", column)


def append_inputs(file: ShardFile, contexts: list[ContextInput], ends: dict[str, int]) -> None:
    """Append contexts, so that an analysis needs neither dataset nor tokenizer.

    Args:
        file: the shard.
        contexts: those that begin in it.
        ends: where tokens and names of the contexts before end in the shard; brought up to date.
    """
    numbers = {
        "document": np.array([c.document for c in contexts], np.uint32),
        "start": np.array([c.start for c in contexts], np.uint32),
        "label": np.array([c.label for c in contexts], np.int32),
    }
    for name, values in numbers.items():
        file.append(f"inputs/{name}", values)
    names = [np.frombuffer(c.name.encode("utf-8", "surrogatepass"), np.uint8) for c in contexts]
    _append_runs(file, "name", names, ends)
    tokens = [c.tokens.astype(np.int32) for c in contexts if c.tokens is not None]
    if tokens:
        _append_runs(file, "token", tokens, ends)
    thumbnails = [c.thumbnail for c in contexts if c.thumbnail is not None]
    for thumbnail in thumbnails:
        file.append("inputs/thumbnails", thumbnail[None])


def append_statistics(file: ShardFile, statistics: Mapping[str, RowStatistics]) -> None:
    """Append the statistics of the shard's rows, once it is full."""
    for site, seen in statistics.items():
        for name, values in seen.arrays().items():
            file.append(f"sites/{site}/statistics/{name}", values)


def read_statistics(file: Any, site: str) -> RowStatistics:
    """Return a site's statistics from an open shard.

    Raises:
        KeyError: they are not there.
    """
    group = file[f"sites/{site}/statistics"]
    return RowStatistics.from_arrays({name: np.asarray(group[name]) for name in group})


def read_inputs(file: Any, first: int, document_base: int) -> Iterator[ContextInput]:
    """Yield the contexts of an open shard, a few thousand of them in memory.

    Args:
        file: the shard.
        first: the number of its first context.
        document_base: added to their documents.

    Raises:
        ValueError: tokens or names end before they begin, or a name is no text.
    """
    group = file["inputs"]
    count = len(group["document"])
    token_end = name_end = 0
    for start in range(0, count, _CONTEXTS):
        part = slice(start, start + _CONTEXTS)
        document, begin, label = (group[n][part] for n in ("document", "start", "label"))
        names, name_end = _runs(group, "name", part, name_end)
        tokens: list[Any] = [None] * len(document)
        if "tokens" in group:
            tokens, token_end = _runs(group, "token", part, token_end)
        has_thumbnails = "thumbnails" in group
        for i, name in enumerate(names):
            yield ContextInput(
                first + start + i,
                int(document[i]) + document_base,
                name.tobytes().decode("utf-8", "surrogatepass"),
                int(begin[i]),
                tokens[i],
                group["thumbnails"][start + i] if has_thumbnails else None,
                int(label[i]),
            )


_CONTEXTS = 2048
"""Contexts read at a time."""


def _append_runs(
    file: ShardFile, what: str, runs: list[NDArray[Any]], ends: dict[str, int]
) -> None:
    """Append runs of values one after the other, and where each ends in the shard."""
    if runs:
        upto = ends.get(what, 0) + np.cumsum([len(run) for run in runs], dtype=np.int64)
        file.append(f"inputs/{what}s", np.concatenate(runs))
        file.append(f"inputs/{what}_ends", upto)
        ends[what] = int(upto[-1])


def _runs(group: Any, what: str, part: slice, begin: int) -> tuple[list[NDArray[Any]], int]:
    """Return some of the runs that `_append_runs` wrote, and where the last ends."""
    ends = np.asarray(group[f"{what}_ends"][part]).astype(np.int64)
    bounds = np.concatenate([[begin], ends])
    data = group[f"{what}s"]
    if (np.diff(bounds) < 0).any() or bounds[-1] > len(data):
        raise ValueError(f"{what}_ends are not in order")
    values = np.asarray(data[begin : bounds[-1]])
    return np.split(values, (bounds[1:-1] - begin).tolist()), int(bounds[-1])
