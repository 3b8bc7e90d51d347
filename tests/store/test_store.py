"""What is written is what is read; what is damaged, hostile or newer is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from probe_sae.errors import SiteNotFound, StoreError
from probe_sae.store import SiteInfo, StoreWriter, layout, open_store

from .conftest import MakeStore, forge, some_rows


@pytest.mark.parametrize(
    ("dtype", "error"), [("float32", 0), ("float16", 1e-3), ("bfloat16", 1e-2)]
)
def test_rows_come_back_as_written(make_store: MakeStore, dtype: str, error: float) -> None:
    store = make_store([5, 3, 9], dtype=dtype)
    expected = some_rows([5, 3, 9], 8).sites["site"]

    assert torch.allclose(store.read("site", 0, 17), expected, atol=error, rtol=error)
    assert torch.equal(store.read("site", 4, 11), store.read("site", 0, 17)[4:11])
    assert store.context_of_row.tolist() == [0] * 5 + [1] * 3 + [2] * 9


def test_contexts_come_back_whole(make_store: MakeStore) -> None:
    inputs = list(make_store([5, 3]).inputs())

    assert [c.name for c in inputs] == ["doc 0", "doc 1"]
    assert [[] if c.tokens is None else c.tokens.tolist() for c in inputs] == [
        [0, 1, 2, 3, 4],
        [0, 1, 2],
    ]


def test_statistics_of_many_shards_equal_those_of_all_rows(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, [SiteInfo("site", 4, "float32")], "text")
    parts = [some_rows([7], 4, first=i, seed=i) for i in range(5)]
    for part in parts:
        part.sites["site"].add_(1000)
        writer.append(part)
        writer.commit()
    writer.finish({})
    rows = torch.cat([part.sites["site"] for part in parts]).double()

    seen = open_store(tmp_path).statistics("site")

    assert seen.count == 35
    assert seen.mean is not None
    assert seen.scatter is not None
    assert torch.allclose(seen.mean, rows.mean(0), rtol=1e-12)
    assert torch.allclose(seen.scatter / 35, rows.var(0, correction=0), rtol=1e-9)
    assert seen.mean_square_norm == pytest.approx(float(rows.square().sum(1).mean()))


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("float16", 7e4, r"float16 \(at most 65504\).*`dtype` bfloat16 or `dtype` float32\.$"),
        ("float16", -7e4, r"float16 \(at most 65504\)"),
        ("float16", 3.4e38, r"with `dtype` float32\.$"),
        ("bfloat16", 3.4e38, r"bfloat16 \(at most 3\.38953e\+38\).*with `dtype` float32\.$"),
        ("bfloat16", 1e39, r"no dtype of a store holds it"),
        ("float32", 1e39, r"float32 \(at most 3\.40282e\+38\).*no dtype of a store holds it"),
    ],
)
def test_a_value_too_large_for_the_dtype_is_refused(
    tmp_path: Path, dtype: str, value: float, message: str
) -> None:
    rows = some_rows([3], 4)
    rows = replace(rows, sites={"site": rows.sites["site"].double()})
    rows.sites["site"][1, 2] = value

    with pytest.raises(StoreError, match=message):
        StoreWriter(tmp_path, [SiteInfo("site", 4, dtype)], "text").append(rows)


@pytest.mark.parametrize(
    ("dtype", "value"), [("float16", 65504), ("bfloat16", 3.39e38), ("float32", 3.4e38)]
)
def test_a_value_that_rounds_to_the_largest_is_kept(
    tmp_path: Path, dtype: str, value: float
) -> None:
    rows = some_rows([3], 4)
    rows.sites["site"][1, 2] = value
    with StoreWriter(tmp_path, [SiteInfo("site", 4, dtype)], "text") as writer:
        writer.append(rows)
        writer.finish({})

    assert float(open_store(tmp_path)["site"][1][2]) == pytest.approx(value, rel=1e-3)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    rows = some_rows([3], 4)
    rows.sites["site"][1, 2] = float("nan")

    with pytest.raises(StoreError, match="not finite"):
        StoreWriter(tmp_path, [SiteInfo("site", 4, "float32")], "text").append(rows)


def test_a_shard_without_a_journal_line_does_not_exist(tmp_path: Path) -> None:
    with StoreWriter(tmp_path, [SiteInfo("site", 4, "float32")], "text") as writer:
        writer.append(some_rows([3], 4))
    (tmp_path / "shard-00001.h5.writing").write_bytes(b"cut short")
    with (tmp_path / "journal.jsonl").open("a") as journal:
        journal.write('{"shard": "shard-00001.h5", "ro')

    with StoreWriter(tmp_path, [SiteInfo("site", 4, "float32")], "text") as again:
        assert (again.rows, again.contexts) == (3, 1)
        again.append(some_rows([2], 4, first=1))
        again.finish({})

    assert open_store(tmp_path).rows == 5
    assert not list(tmp_path.glob("*.writing"))


def test_a_store_is_plain_hdf5(make_store: MakeStore) -> None:
    store = make_store([5])

    with h5py.File(store.folder / "shard-00000.h5") as file:
        acts: Any = file["sites/site/acts"]
        assert acts[:2].tolist() == store.read("site", 0, 2).tolist()


def test_a_site_that_is_not_there_names_what_is_near(make_store: MakeStore) -> None:
    with pytest.raises(SiteNotFound, match="it has site"):
        make_store([3]).site("sit")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version 2; this probe_sae reads version 1. Update"),
        ({"format": "zip"}, "not the manifest"),
        ({"rows": 99}, "shards hold 8 rows"),
        ({"sites": {"other": {"width": 8, "dtype": "float32", "compressed": False}}}, "damaged"),
        ({"sites": {"site": {"width": 9, "dtype": "float32", "compressed": False}}}, "width"),
        ({"sites": {"site": {"width": 8, "dtype": "object", "compressed": False}}}, "object"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused(
    make_store: MakeStore, changes: dict[str, Any], message: str
) -> None:
    store = make_store([8])
    forge(store.folder, **changes)

    with pytest.raises(Exception, match=message) as caught:
        open_store(store.folder)
    assert type(caught.value).__module__ == "probe_sae.errors"


def test_a_missing_store_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no manifest\.json"):
        open_store(tmp_path)


def test_half_a_shard_is_refused(make_store: MakeStore) -> None:
    store = make_store([8])
    shard = store.folder / "shard-00000.h5"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])

    with pytest.raises(StoreError):
        open_store(store.folder)


def test_every_changed_byte_of_a_shard_is_found(make_store: MakeStore) -> None:
    store = make_store([8])
    shard = store.folder / "shard-00000.h5"
    whole = shard.read_bytes()

    for place in range(0, len(whole), 997):
        shard.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert store.verify() == ["shard-00000.h5: its bytes are not those that were written"]
    shard.write_bytes(whole)
    assert store.verify() == []


@pytest.mark.parametrize("file", ["manifest.json", "journal.jsonl"])
def test_every_changed_byte_of_a_small_file_is_found(make_store: MakeStore, file: str) -> None:
    path = make_store([8]).folder / file
    whole = path.read_bytes()

    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(StoreError):
            open_store(path.parent)
    path.write_bytes(whole)
    assert open_store(path.parent).verify() == []


def test_chunks_are_of_some_megabytes() -> None:
    for row_bytes in (200, 1536, 8192, 200_000):
        size = layout.chunk_rows(row_bytes) * row_bytes
        assert layout.CHUNK_BYTES // 2 < size <= layout.CHUNK_BYTES
    assert layout.chunk_rows(4) == 16_384
    assert layout.chunk_rows(10 << 20) == 1
