"""Encode the rows of a store, once, into codes on disk."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.analysis.codes import (
    FORMAT,
    VERSION,
    Block,
    Codes,
    join,
    open_codes,
    open_part,
    part_name,
    write_part,
)
from probe_sae.analysis.source import Source, source_of
from probe_sae.devices import device_for
from probe_sae.errors import SettingsError
from probe_sae.evaluation.held_rows import check_finite
from probe_sae.outputs import whole_folder, write_whole
from probe_sae.progress import progress
from probe_sae.sae import SAE
from probe_sae.store import RowBlock, Store

BLOCK_ROWS = 8192
PART_FIRINGS = 1 << 25
"""Firings after which a part is written: 200 MB, and what an interruption costs at most."""
_BEGUN = "begun.json"
"""What unfinished codes are of."""


def encode(
    sae: SAE | str | Path | Sequence[SAE | str | Path],
    store: Store | str | Path,
    out: str | Path,
    *,
    rows: str = "all",
    device: str | None = None,
    resume: bool = False,
    force: bool = False,
) -> Codes:
    """Write the sparse codes of a store's rows: which features fire, and how strongly.

    Takes 6 bytes a firing (8 beyond 65,536 features) and 24 a row.

    Args:
        sae: the dictionary or its folder; several are numbered one after the other.
        store: the store, or its folder; not a shuffled one.
        out: folder for the codes.
        rows: `all`, or `held_out`: rows that training never saw.
        device: where to encode; a GPU where there is one.
        resume: continue unfinished work.
        force: replace codes that are there already.

    Raises:
        ShapeError: the store's rows are not as long as those that the dictionary takes.
        OutputExists: `out` is there already.
        SettingsError: what is continued, or finished, is of something else.
    """
    source = source_of(sae, store, rows)
    if resume and Path(out).exists():
        finished = open_codes(out)
        source.check_finished(out, finished.info)
        return finished
    how: dict[str, Any] = {"keep": "part-*.h5", "marks": ("codes.json",), "drop": (_BEGUN,)}
    with whole_folder(out, force=force, resume=resume, **how) as folder:
        write_codes(source, folder, device)
    return open_codes(out)


def write_codes(source: Source, folder: Path, device: str | None = None) -> None:
    """Encode what is not encoded yet into `folder`, which exists.

    Raises:
        SettingsError: it holds codes of something else.
    """
    begun = folder / _BEGUN
    same = json.dumps(source.same(), sort_keys=True)
    if begun.exists() and begun.read_text("utf-8") != same:
        raise SettingsError(
            f"{folder} holds codes of another dictionary, store or choice of rows; "
            "continue with the same, or begin anew with --force."
        )
    write_whole(begun, same)
    number, after = _done(folder)
    where = device_for(device)
    for block, total in _parts(source, where, after):
        write_part(folder / part_name(number), block, total)
        number += 1
    rows, firings = 0, 0
    for i in range(number):
        with open_part(folder / part_name(i)) as file:
            rows, firings = rows + len(file["row"]), firings + len(file["feature"])
    info = {
        "format": FORMAT,
        "version": VERSION,
        "rows": rows,
        "firings": firings,
        "parts": [part_name(i) for i in range(number)],
        **source.same(),
    }
    write_whole(folder / "codes.json", json.dumps(info, indent=1, sort_keys=True))


def _done(folder: Path) -> tuple[int, int]:
    """Return how many parts are there, and the first row of the store after them."""
    number, after = 0, 0
    while (folder / part_name(number)).exists():
        with open_part(folder / part_name(number)) as file:
            rows = file["row"]
            after = int(rows[-1]) + 1 if len(rows) else after
        number += 1
    return number, after


def _parts(
    source: Source, device: torch.device, after: int
) -> Iterator[tuple[Block, NDArray[np.float64]]]:
    """Yield the codes of a part, and the sums of all activations in it."""
    pending: list[Block] = []
    total, firings = np.zeros(source.features), 0
    saes = [sae.to(device) for sae in source.saes]
    try:
        for block, sums in _blocks(source, saes, device, after):
            pending.append(block)
            total, firings = total + sums, firings + len(block.feature)
            if firings >= PART_FIRINGS:
                yield join(pending), total
                pending, total, firings = [], np.zeros(source.features), 0
        if pending:
            yield join(pending), total
    finally:
        for sae in source.saes:
            sae.to("cpu")


def _blocks(
    source: Source, saes: list[SAE], device: torch.device, after: int
) -> Iterator[tuple[Block, NDArray[np.float64]]]:
    labels = None
    if source.store.kind == "image":
        labels = np.array([context.label for context in source.store.inputs()], np.int64)
    with progress("encode", source.store.rows) as advance:
        for block in source.store.blocks(BLOCK_ROWS):
            wanted = np.flatnonzero(source.contexts[block.columns["context"]])
            if block.start >= after and len(wanted):
                yield _encoded(source, saes, block, wanted, labels, device)
            advance(block.stop - block.start)


@torch.no_grad()
def _encoded(
    source: Source,
    saes: list[SAE],
    block: RowBlock,
    wanted: NDArray[np.int64],
    labels: NDArray[np.int64] | None,
    device: torch.device,
) -> tuple[Block, NDArray[np.float64]]:
    """Return the codes of the wanted rows of a block, and the sums of all their activations."""
    places = torch.from_numpy(wanted)
    lists: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []
    totals: list[NDArray[np.float64]] = []
    for sae, sites, first in zip(saes, source.sites, source.firsts, strict=True):
        rows = read_rows(source.store, sites, block.start, block.stop)[places]
        check_finite(source.store, rows, wanted + block.start)
        codes = sae.encode_sparse(sae.split(rows.to(device))[0])
        values, indices = codes.values.cpu().float().numpy(), codes.indices.cpu().numpy()
        local, place = np.nonzero(sae.fires(codes.values).cpu().numpy())
        lists.append((local, indices[local, place] + first, values[local, place]))
        weights = values.ravel().astype(np.float64)
        sums: Any = np.bincount(indices.ravel(), weights, sae.features)
        totals.append(sums)
    local, feature, value = (np.concatenate(column) for column in zip(*lists, strict=True))
    order = np.lexsort((feature, local))
    context = block.columns["context"][wanted]
    token = block.columns.get("token")
    tokens = token[wanted] if token is not None else None
    if tokens is None:
        tokens = np.full(len(wanted), -1) if labels is None else labels[context]
    made = Block(
        wanted + block.start,
        context,
        block.columns["pos"][wanted].astype(np.int64),
        tokens.astype(np.int64),
        np.concatenate([[0], np.cumsum(np.bincount(local, minlength=len(wanted)))]),
        feature[order].astype(np.int32),
        value[order],
    )
    return made, np.concatenate(totals)


def read_rows(store: Store, sites: Sequence[str], start: int, stop: int) -> Tensor:
    """Return rows of several sites beside each other, [rows, sum of widths]."""
    return torch.cat([store.read(site, start, stop) for site in sites], 1)
