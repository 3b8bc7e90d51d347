"""A copy of a store whose rows lie in random order, written in two passes and bounded memory.

Every row is dealt to one of several piles at random, and each pile, which fits into memory, is then
shuffled by itself: every order of all rows is equally likely. Costs two writes and two reads of the
bytes, and about as much disk again as the store takes while it is at work.

Source: the pile shuffle of Rao 1961 and Sandelius 1962.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.errors import SettingsError, StoreError
from probe_sae.outputs import sync, whole_folder, write_whole
from probe_sae.progress import progress, say
from probe_sae.store import layout
from probe_sae.store.growing_shard import RawRows
from probe_sae.store.merge import PIECE_BYTES, copy_vocabulary, raw_rows
from probe_sae.store.opening import open_store
from probe_sae.store.reader import Store
from probe_sae.store.rows import ContextInput, RowBlock
from probe_sae.store.writer import StoreWriter

PILE_BYTES = 192 << 20
"""Of a pile, on average; one is in memory, and its rows once more while they are written."""
DEALT_BYTES = 96 << 20
"""Rows dealt at a time."""
SAFE_BLOCKS = 16
"""Times of dealing after which what was dealt is put on disk for good."""
_PLAN, _DEALT = "shuffle.json", "dealt.json"
"""What an unfinished copy is of, and what of it is dealt."""


def shuffle_store(
    store: Store | str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
) -> Store:
    """Write a copy of a store whose rows lie in random order, for training.

    It has the same columns and contexts, so that every row can still be traced.

    Args:
        store: a store, or its folder.
        out: the copy's folder.
        seed: of the order.
        resume: continue a copy that was interrupted.
        force: replace what is in `out`.

    Raises:
        StoreError: the store is damaged, the disk too small, or what is to be continued, or is
            finished already, is another copy.
        OutputExists: `out` is there already.
        SettingsError: the seed is negative.
    """
    if seed < 0:
        raise SettingsError(f"seed is {seed}; expected at least 0.")
    opened = store if isinstance(store, Store) else open_store(store)
    if resume and Path(out).exists():
        finished = open_store(out)
        _check_copy(finished, opened, seed)
        say(f"{out} is finished already; nothing to do.")
        return finished
    how: dict[str, Any] = {"keep": _PLAN, "marks": ("manifest.json",), "drop": (_PLAN, _DEALT)}
    with whole_folder(out, force=force, resume=resume, **how) as folder:
        shuffle = _Shuffle(opened, folder, seed)
        shuffle.deal()
        shuffle.gather()
    return open_store(out)


def _check_copy(finished: Store, store: Store, seed: int) -> None:
    """Refuse a finished copy that is another than the one asked for.

    Raises:
        StoreError: it is; the message says in what.
    """
    there, here = (
        {
            "seed": drawn,
            "recording": some.recording,
            "rows": some.rows,
            "contexts": some.contexts,
            "sites": list(some.sites.values()),
            "provenance": some.provenance,
        }
        for some, drawn in ((finished, _seed_of(finished)), (store, seed))
    )
    differing = [
        f"{name} ({there[name]} there, {here[name]} here)"
        if name in ("seed", "rows", "contexts")
        else name
        for name in here
        if there[name] != here[name]
    ]
    if differing:
        raise StoreError(
            f"{finished.folder} is finished, and is no such copy of {store.folder}: it has another "
            f"{', '.join(differing)}. Choose another folder, or replace it with --force."
        )


def _seed_of(store: Store) -> Any:
    """Return what the order of a shuffled store was drawn from."""
    shuffled: Any = store.manifest["shuffled"]
    return shuffled.get("seed", "none") if isinstance(shuffled, dict) else "none"


@dataclass(frozen=True)
class _Plan:
    """What the order depends on."""

    source: str
    """Which store."""
    seed: int
    piles: int
    block_rows: int
    """Rows dealt at a time."""


class _Shuffle:
    """A shuffle at work in a folder."""

    def __init__(self, store: Store, folder: Path, seed: int) -> None:
        self._store, self._folder = store, folder
        self._sites = list(store.sites.values())
        self._record = _record_of(store)
        size = max(1, self._record.itemsize * store.rows)
        plan = _Plan(
            store.manifest["sha256"],
            seed,
            -(-size // PILE_BYTES),
            max(1, DEALT_BYTES // self._record.itemsize),
        )
        self._plan = self._begun(plan, size)

    def deal(self) -> None:
        """Deal every row to a pile; what a crash left is continued."""
        plan, store = self._plan, self._store
        blocks, lengths = self._dealt()
        total = -(-store.rows // plan.block_rows)
        for pile, length in enumerate(lengths):
            if blocks and blocks < total:
                _cut(self._pile(pile), length * self._record.itemsize)
            elif not blocks:
                self._pile(pile).write_bytes(b"")
        with progress("deal", store.rows) as advance:
            advance(min(store.rows, blocks * plan.block_rows))
            for number in range(blocks, total):
                start = number * plan.block_rows
                records = self._records(start, min(store.rows, start + plan.block_rows))
                generator = np.random.default_rng([plan.seed, 0, number])
                pile_of = generator.integers(plan.piles, size=len(records))
                order = np.argsort(pile_of, kind="stable")
                ends = np.cumsum(np.bincount(pile_of, minlength=plan.piles))
                for pile, rows in enumerate(np.split(order, ends[:-1])):
                    with self._pile(pile).open("ab") as file:
                        records[rows].tofile(file)
                    lengths[pile] += len(rows)
                if (number + 1) % SAFE_BLOCKS == 0 or number + 1 == total:
                    self._make_safe(number + 1, lengths)
                advance(len(records))

    def gather(self) -> None:
        """Shuffle each pile and write it; what a crash left is continued."""
        plan, store = self._plan, self._store
        _, lengths = self._dealt()
        copy_vocabulary(store, self._folder)
        size = max(1, PIECE_BYTES // self._record.itemsize)
        with (
            progress("write", store.rows) as advance,
            StoreWriter(self._folder, self._sites, store.kind, scattered=True) as writer,
        ):
            inputs = islice(store.inputs(), writer.contexts, None)
            advance(writer.rows)
            row = 0
            for pile, length in enumerate(lengths):
                begin = min(length, max(0, writer.rows - row))
                row += length
                if begin < length:
                    self._gather_pile(writer, pile, range(begin, length, size), inputs)
                    writer.commit()
                    advance(length - begin)
                self._pile(pile).unlink(missing_ok=True)
            shuffled = {"seed": plan.seed, "piles": plan.piles}
            writer.finish(store.provenance, recording=store.recording, shuffled=shuffled)

    def _gather_pile(
        self, writer: StoreWriter, pile: int, begins: range, inputs: Iterator[ContextInput]
    ) -> None:
        records = np.fromfile(self._pile(pile), self._record)
        if len(records) != begins.stop:
            raise StoreError(f"{self._pile(pile)} was changed; start anew with --force.")
        order = np.random.default_rng([self._plan.seed, 1, pile]).permutation(len(records))
        for begin in begins:
            part = records[order[begin : begin + begins.step]]
            upto = self._store.contexts * (writer.rows + len(part)) // self._store.rows
            contexts = list(islice(inputs, upto - writer.contexts))
            fields = {name: np.ascontiguousarray(part[name]) for name in self._record.names or ()}
            sites = {site.name: fields.pop(f"site {i}") for i, site in enumerate(self._sites)}
            writer.append_raw(RawRows(sites, fields, contexts))

    def _begun(self, plan: _Plan, size: int) -> _Plan:
        """Enter the plan of a new shuffle, or return that of the one to continue."""
        path = self._folder / _PLAN
        if path.exists():
            before = _Plan(**json.loads(path.read_text("utf-8")))
            if (before.source, before.seed) != (plan.source, plan.seed):
                raise StoreError(
                    f"{self._folder} was begun from another store or with another seed "
                    f"({before.seed}); start anew with --force."
                )
            return before
        free = shutil.disk_usage(self._folder).free
        say(f"shuffling {self._store.rows:,} rows takes {2 * size / 1e6:,.0f} MB of disk")
        if 2 * size > free:
            raise StoreError(
                f"shuffling takes {2 * size / 1e9:.1f} GB of disk, half of it for a while; there "
                f"are {free / 1e9:.1f} GB free. Make room, or choose another disk."
            )
        write_whole(path, json.dumps(plan.__dict__))
        return plan

    def _dealt(self) -> tuple[int, list[int]]:
        """Return how many blocks are dealt for good, and the rows of each pile then."""
        path = self._folder / _DEALT
        if not path.exists():
            return 0, [0] * self._plan.piles
        dealt = json.loads(path.read_text("utf-8"))
        return dealt["blocks"], dealt["lengths"]

    def _make_safe(self, blocks: int, lengths: list[int]) -> None:
        for pile in range(len(lengths)):
            sync(self._pile(pile))
        write_whole(self._folder / _DEALT, json.dumps({"blocks": blocks, "lengths": lengths}))

    def _pile(self, number: int) -> Path:
        return self._folder / f"pile-{number:05d}.rows"

    def _records(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows of the store with their columns, [rows]."""
        records = np.empty(stop - start, self._record)
        place = 0
        for block in self._store.ranges(start, stop):
            raw = raw_rows(self._store, self._sites, block, [])
            part = records[place : place + raw.count]
            for i, site in enumerate(self._sites):
                part[f"site {i}"] = raw.sites[site.name]
            for name, column in raw.columns.items():
                part[name] = column
            place += raw.count
        return records


def _record_of(store: Store) -> np.dtype[Any]:
    """Return the type of a row with its columns, without gaps."""
    fields: list[Any] = [
        (f"site {i}", layout.DTYPES[site.dtype][1], (site.width,))
        for i, site in enumerate(store.sites.values())
    ]
    first = next(store.blocks(1))
    row = raw_rows(store, [], RowBlock(0, 0, first.columns), [])
    fields += [(name, column.dtype) for name, column in row.columns.items()]
    return np.dtype(fields)


def _cut(path: Path, size: int) -> None:
    """Shorten a pile to what was safe before a crash."""
    if not path.exists() or path.stat().st_size < size:
        raise StoreError(f"{path} is gone or too short; start anew with --force.")
    os.truncate(path, size)
