"""A store from a stranger: a clear refusal or the rows, never a crash, nothing read outside."""

import json
import math
import os
import signal
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from probe_sae.errors import StoreError
from probe_sae.store import SiteInfo, Store, StoreWriter, hdf5, layout, open_store

from .conftest import MakeStore, forge, some_rows

SHARD = "shard-00000.h5"
ACTS = "sites/site/acts"
STATISTICS: dict[str, Any] = {
    "count": 8,
    "mean": [0.0] * 8,
    "scatter": [1.0] * 8,
    "largest": 1.0,
    "norm_sum": 8.0,
}


def _sign(folder: Path) -> None:
    """Give a changed shard and journal digests that are right, as an attacker would."""
    from probe_sae.store.journal import file_digest

    journal = folder / "journal.jsonl"
    line = json.loads(journal.read_text())
    journal.write_text(json.dumps(line | {"sha256": file_digest(folder / SHARD)}) + "\n")
    forge(folder)


def _external_link(file: h5py.File, secret: Path) -> None:
    file[ACTS] = h5py.ExternalLink(str(secret), "/data")


def _soft_link(file: h5py.File, secret: Path) -> None:
    file[ACTS] = h5py.SoftLink("/rows/pos")


def _external_storage(file: h5py.File, secret: Path) -> None:
    file.create_dataset(ACTS, (8, 8), "<f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def _virtual(file: h5py.File, secret: Path) -> None:
    made = h5py.VirtualLayout((8, 8), "<f4")
    made[:] = h5py.VirtualSource(str(secret), "data", (8, 8))
    file.create_virtual_dataset(ACTS, made)


def _forty_terabytes(file: h5py.File, secret: Path) -> None:
    file.create_dataset(ACTS, (10 << 40, 8), "<f4", chunks=(1024, 8))


def _unwritten(file: h5py.File, secret: Path) -> None:
    file.create_dataset(ACTS, (8, 8), "<f4", chunks=(4, 8))


def _packed_bomb(file: h5py.File, secret: Path) -> None:
    shape = (1 << 22, 8)
    made = file.create_dataset(ACTS, shape, "<f4", chunks=shape, compression="gzip")
    made.id.write_direct_chunk((0, 0), zlib.compress(bytes(1 << 27), 1))


def _objects(file: h5py.File, secret: Path) -> None:
    file.create_dataset(ACTS, data=["a"] * 8)


def _compound(file: h5py.File, secret: Path) -> None:
    file.create_dataset(ACTS, (8, 8), np.dtype([("a", "<f4")]))


def _references(file: h5py.File, secret: Path) -> None:
    file.create_dataset(ACTS, (8, 8), h5py.ref_dtype)


def _plugin(file: h5py.File, secret: Path) -> None:
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk((8, 8))
    made.set_filter(32008, h5py.h5z.FLAG_OPTIONAL, (0, 2))
    space = h5py.h5s.create_simple((8, 8))
    kind = h5py.h5t.py_create(np.dtype("<f4"))
    h5py.h5d.create(file["sites/site"].id, b"acts", kind, space, dcpl=made)


def _too_narrow(file: h5py.File, secret: Path) -> None:
    file.create_dataset(ACTS, data=np.zeros((8, 7), np.float32))


def _too_few(file: h5py.File, secret: Path) -> None:
    file.create_dataset(ACTS, data=np.zeros((7, 8), np.float32))


def _a_group(file: h5py.File, secret: Path) -> None:
    file.create_group(ACTS)


def _many(file: h5py.File, secret: Path) -> None:
    for i in range(400):
        file.create_group(f"more/{i}")


@pytest.mark.parametrize(
    "attack",
    [
        _external_link,
        _soft_link,
        _external_storage,
        _virtual,
        _forty_terabytes,
        _unwritten,
        _packed_bomb,
        _objects,
        _compound,
        _references,
        _plugin,
        _too_narrow,
        _too_few,
        _a_group,
        _many,
    ],
)
def test_a_hostile_shard_is_refused(
    make_store: MakeStore,
    tmp_path: Path,
    attack: Callable[[h5py.File, Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hdf5, "MAX_OBJECTS", 300)
    store = make_store([8])
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["data"] = np.zeros((8, 8), np.float32)
    with h5py.File(store.folder / SHARD, "r+") as file:
        del file[ACTS]
        attack(file, secret)
    _sign(store.folder)
    before = secret.stat().st_atime_ns

    with pytest.raises(StoreError, match=r"refused|expected|half written"):
        open_store(store.folder)
    assert secret.stat().st_atime_ns == before


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("rows/context", np.full(8, 9, np.uint32), "contexts 9 to 9"),
        ("rows/context", np.zeros(8, np.float32), "expected 8 numbers"),
        ("rows/doc", np.zeros(7, np.uint32), "expected 8 numbers"),
        ("inputs/token_ends", np.array([99], np.int64), "not in order"),
        ("inputs/token_ends", np.array([-9], np.int64), "not in order"),
        ("inputs/name_ends", np.zeros((1, 2), np.int64), "expected 1 numbers"),
        ("inputs/names", np.full(5, 255, np.uint8), "damaged"),
        ("inputs/thumbnails", np.zeros((1, 2, 2), np.uint8), "thumbnails are"),
    ],
)
def test_columns_that_lead_nowhere_are_refused(
    make_store: MakeStore, column: str, values: np.ndarray, message: str
) -> None:
    store = make_store([8])
    with h5py.File(store.folder / SHARD, "r+") as file:
        if column in file:
            del file[column]
        file[column] = values
    _sign(store.folder)

    with pytest.raises(StoreError, match=message):
        _read_all(open_store(store.folder))


@pytest.mark.parametrize(
    "changes",
    [
        {"shard": "../other.h5"},
        {"shard": "/etc/passwd"},
        {"shard": "shard-00000.h5/../../secret.h5"},
        {"shard": 3},
        {"rows": -8},
        {"rows": 1 << 60},
        {"rows": "8"},
        {"rows": True},
        {"rows": 8.0},
        {"contexts": 2},
        {"context_base": -1},
        {"context_base": 1 << 40},
        {"sha256": None},
        {"more": 1},
    ],
)
def test_a_journal_that_is_wrong_is_refused(make_store: MakeStore, changes: dict[str, Any]) -> None:
    folder = make_store([8]).folder
    journal = folder / "journal.jsonl"
    journal.write_text(json.dumps(json.loads(journal.read_text()) | changes) + "\n")
    forge(folder, **{k: v for k, v in changes.items() if k in ("rows", "contexts")})

    with pytest.raises(StoreError):
        _read_all(open_store(folder))


@pytest.mark.parametrize(
    "changes",
    [
        {"sites": []},
        {"sites": {}},
        {"sites": {"site": {"width": 8}}},
        {"sites": {"../site": {"width": 8, "dtype": "float32", "compressed": False}}},
        {"sites": {"site": {"width": 0, "dtype": "float32", "compressed": False}}},
        {"sites": {"site": {"width": "8", "dtype": "float32", "compressed": False}}},
        {"statistics": {}},
        {"statistics": {"site": {"count": 8, "mean": [1], "scatter": [1]}}},
        {"statistics": {"site": STATISTICS | {"count": 7}}},
        {"statistics": {"site": STATISTICS | {"count": [8]}}},
        {"statistics": {"site": STATISTICS | {"mean": [math.nan] * 8}}},
        {"statistics": {"site": STATISTICS | {"mean": ["1"] * 8}}},
        {"statistics": {"site": STATISTICS | {"mean": []}}},
        {"statistics": {"site": STATISTICS | {"scatter": [1.0]}}},
        {"statistics": {"site": STATISTICS | {"scatter": [-1.0] * 8}}},
        {"statistics": {"site": STATISTICS | {"largest": "x"}}},
        {"statistics": {"site": STATISTICS | {"largest": 10**400}}},
        {"statistics": {"site": STATISTICS | {"norm_sum": math.inf}}},
        {"statistics": 3},
        {"provenance": 3},
        {"provenance": {"host": None}},
        {"provenance": {"host": "x", "dataset": {}}},
        {"provenance": {"host": {}, "dataset": [1]}},
        {"provenance": {"settings": None}},
        {"provenance": {"special": "a"}},
        {"provenance": {"special": ["a"]}},
        {"provenance": {"special": [1 << 80]}},
        {"provenance": {"grid": 5}},
        {"provenance": {"grid": [1]}},
        {"provenance": {"classes": [1]}},
        {"contexts": 1.0},
        {"documents": "x"},
        {"documents": 2},
        {"rows": 8.0},
        {"recording": 5},
        {"shuffled": True},
        {"kind": "sound"},
        {"rows": None},
        {"rows": 9},
        {"format": "zip"},
        {"version": "1"},
        {"files": {}},
        {"files": {"journal.jsonl": "0", "../../secret": "1"}},
    ],
)
def test_a_manifest_that_is_wrong_is_refused(
    make_store: MakeStore, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_store([8]).folder
    forge(folder, **changes)
    if "files" in changes:  # the helper puts the right ones back
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    with pytest.raises(StoreError):
        open_store(folder)


def test_a_store_without_rows_or_with_a_shard_twice_is_refused(make_store: MakeStore) -> None:
    for times, message in ((0, "there are no rows"), (2, "has shard-00000.h5 more than once")):
        folder = make_store([8], name=f"store {times}").folder
        journal = folder / "journal.jsonl"
        journal.write_text(journal.read_text() * times)
        forge(folder, rows=8 * times, contexts=times, documents=min(times, 1))

        with pytest.raises(StoreError, match=rf"damaged: .*{message}"):
            open_store(folder)


def test_a_store_need_not_say_where_it_comes_from(make_store: MakeStore) -> None:
    folder = make_store([8]).folder
    forge(folder, provenance={}, statistics={"site": STATISTICS})

    assert open_store(folder).rows == 8


@pytest.mark.parametrize("name", ["manifest.json", "journal.jsonl"])
@pytest.mark.parametrize(
    "content", [b"", b"[" * 100_000, b"\xff\xfe", b"null", b"{}", b'{"format": "probe_sae.store"}']
)
def test_small_files_of_rubbish_are_refused(
    make_store: MakeStore, name: str, content: bytes
) -> None:
    folder = make_store([8]).folder
    (folder / name).write_bytes(content)
    if name == "journal.jsonl":
        forge(folder)

    with pytest.raises(StoreError):
        open_store(folder)


def test_links_to_files_outside_are_refused(make_store: MakeStore, tmp_path: Path) -> None:
    for name in (SHARD, "journal.jsonl"):
        store = make_store([8], name=name)
        (store.folder / name).rename(tmp_path / "elsewhere")
        (store.folder / name).symlink_to(tmp_path / "elsewhere")

        with pytest.raises(StoreError, match=r"link|missing"):
            open_store(store.folder)


def _read_all(store: Store) -> list[object]:
    """Read everything that a store offers."""
    seen: list[object] = [store[site][:].sum() for site in store.sites]
    seen += [store.column(name) for name in ("doc", "context", "pos", "token")]
    seen += [(c.name, c.tokens) for c in store.inputs()]
    seen += [block.columns for block in store.blocks(16)]
    seen += [store.vocabulary(), store.marked(np.ones(store.contexts, np.bool_))]
    return seen


def _mutated(whole: bytes, generator: np.random.Generator) -> bytes:
    """Return bytes with a few changed, cut off, put in twice, or overwritten by a large number."""
    changed = bytearray(whole)
    for _ in range(int(generator.integers(1, 5))):
        kind = generator.integers(6)
        at = int(generator.integers(len(changed))) if changed else 0
        if kind <= 1 and changed:
            changed[at] ^= 1 << int(generator.integers(8))
        elif kind == 2 and changed:
            changed[at] = int(generator.integers(256))
        elif kind == 3:
            changed = changed[: max(at, 1)]
        elif kind == 4:
            changed[at : at + 8] = int(generator.integers(2**63)).to_bytes(8, "little")
        else:
            size = int(generator.integers(64))
            changed[at:at] = changed[at : at + size]
    return bytes(changed)


def test_mutated_stores_are_refused_or_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Each attempt runs in a forked child, so that a crash of HDF5 itself would be seen."""
    monkeypatch.setattr(layout, "CHUNK_BYTES", 256)
    folder = tmp_path / "store"
    folder.mkdir()
    sites = [SiteInfo("site", 8, "float32"), SiteInfo("packed", 8, "float16", compressed=True)]
    rows = some_rows([9, 12, 4], 8)
    rows = type(rows)({s.name: rows.sites["site"] for s in sites}, rows.columns, rows.contexts)
    with StoreWriter(folder, sites, "text") as made:
        made.append(rows)
        made.finish({"host": {}, "dataset": {}})
    whole = {
        name: (folder / name).read_bytes() for name in (SHARD, "journal.jsonl", "manifest.json")
    }
    attempts = 10_000 if request.config.getoption("--long") else 300

    outcomes: dict[str, int] = {}
    for start in range(0, attempts, 50):
        for outcome in _fuzzed(folder, whole, range(start, start + 50)):
            outcomes[outcome] = outcomes.get(outcome, 0) + 1

    assert set(outcomes) == {"refused", "read"}
    assert sum(outcomes.values()) == attempts
    assert outcomes["refused"] > 0.2 * attempts


def _fuzzed(folder: Path, whole: dict[str, bytes], seeds: range) -> list[str]:
    """Return what became of some attempts, `refused` or `read`; raise if one ended otherwise."""
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        torch.set_num_threads(1)  # the parent's other threads are not there
        signal.alarm(120)
        for seed in seeds:
            os.write(writable, _attempt(folder, whole, seed).encode() + b"\n")
        os._exit(0)
    os.close(writable)
    with os.fdopen(readable) as told:
        outcomes = told.read().split("\n")[:-1]
    _, status = os.waitpid(child, 0)
    assert status == 0, f"attempt {seeds[len(outcomes)]} ended with {status}"
    return outcomes


def _attempt(folder: Path, whole: dict[str, bytes], seed: int) -> str:
    generator = np.random.default_rng(seed)
    name = SHARD if seed % 3 else ("journal.jsonl", "manifest.json")[seed % 2]
    for other, content in whole.items():
        (folder / other).write_bytes(content)
    (folder / name).write_bytes(_mutated(whole[name], generator))
    try:
        if name == "journal.jsonl" or name == "manifest.json":
            forge(folder)
    except ValueError:  # no JSON any more: left as it is
        pass
    try:
        _read_all(open_store(folder))
    except StoreError:
        return "refused"
    except BaseException as problem:
        return f"attempt {seed}: {problem!r}"[:200].replace("\n", " ")
    return "read"
