"""Stores joined are their rows one after the other; some sites of one are just those."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from probe_sae.errors import OutputExists, SiteNotFound, StoreError
from probe_sae.store import (
    RecordedRows,
    SiteInfo,
    Store,
    StoreWriter,
    join_stores,
    merge_stores,
    open_store,
    shuffle_store,
)

from .conftest import MakeStore, some_rows


@pytest.fixture
def pair(make_store: MakeStore) -> list[Store]:
    return [make_store([5, 3], name="one"), make_store([4, 6, 2], name="two", seed=1)]


def _check_joined(joined: Store, one: Store, two: Store) -> None:
    rows = torch.cat([s.read("site", 0, s.rows) for s in (one, two)])
    assert torch.equal(joined.read("site", 0, joined.rows), rows)
    assert torch.equal(joined.read("site", 5, 12), rows[5:12])
    assert joined.context_of_row.tolist() == [0] * 5 + [1] * 3 + [2] * 4 + [3] * 6 + [4] * 2
    assert joined.column("doc").max() == 4
    assert [(c.index, c.document) for c in joined.inputs()] == [(i, i) for i in range(5)]
    assert joined.statistics("site").count == 20
    mean = joined.statistics("site").mean
    assert mean is not None
    assert torch.allclose(mean, rows.double().mean(0))
    assert joined.verify() == []


def test_joined_stores_are_one(pair: list[Store]) -> None:
    _check_joined(join_stores(pair), *pair)


def test_a_store_is_not_joined_with_itself(pair: list[Store], tmp_path: Path) -> None:
    one = pair[0]
    copy = merge_stores([one], tmp_path / "copy")

    for stores in ([one, one], [one, open_store(one.folder)], [pair[1], one, copy]):
        with pytest.raises(StoreError, match="hold the same rows; name each store once"):
            join_stores(stores)


def test_merged_stores_are_one_and_take_no_room(pair: list[Store], tmp_path: Path) -> None:
    merged = merge_stores(pair, tmp_path / "both")

    _check_joined(merged, *pair)
    assert all(shard.path.stat().st_nlink == 2 for shard in merged.shards)
    _check_joined(merge_stores([merged], tmp_path / "again"), *pair)


def test_where_files_cannot_be_linked_they_are_copied(
    pair: list[Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)

    _check_joined(merge_stores(pair, tmp_path / "both"), *pair)


def test_three_merged_in_two_steps_number_their_contexts_on(
    pair: list[Store], tmp_path: Path
) -> None:
    merged = merge_stores([*pair, merge_stores(pair, tmp_path / "both")], tmp_path / "four")

    assert merged.context_of_row.tolist() == [
        n for base in (0, 5) for n in (c + base for c in join_stores(pair).context_of_row)
    ]
    assert [c.index for c in merged.inputs()] == list(range(10))


def _two_sites(folder: Path) -> Store:
    folder.mkdir()
    rows = some_rows([5, 3, 9], 8)
    both = RecordedRows(
        {"a": rows.sites["site"], "b": rows.sites["site"][:, :3]}, rows.columns, rows.contexts
    )
    sites = [SiteInfo("a", 8, "float32"), SiteInfo("b", 3, "bfloat16")]
    with StoreWriter(folder, sites, "text") as writer:
        writer.append(both)
        writer.finish({"host": {}, "dataset": {}})
    return open_store(folder)


@pytest.mark.parametrize("shuffled", [False, True])
def test_some_sites_of_a_store_are_a_store(tmp_path: Path, shuffled: bool) -> None:
    store = _two_sites(tmp_path / "both")
    if shuffled:
        store = shuffle_store(store, tmp_path / "shuffled")

    one = merge_stores([store], tmp_path / "one", sites=["b"])

    assert list(one.sites) == ["b"]
    assert torch.equal(one["b"][:], store["b"][:])
    assert (one.column("context") == store.column("context")).all()
    assert [c.name for c in one.inputs()] == [c.name for c in store.inputs()]
    assert one.recording == store.recording
    assert one.is_shuffled == shuffled
    assert one.verify() == []


def test_a_context_without_rows_at_the_end_is_kept(make_store: MakeStore, tmp_path: Path) -> None:
    store = _two_sites(tmp_path / "both")
    empty = tmp_path / "empty"
    empty.mkdir()
    rows = some_rows([4, 0], 8)
    both = RecordedRows(
        {"a": rows.sites["site"], "b": rows.sites["site"][:, :3]}, rows.columns, rows.contexts
    )
    with StoreWriter(empty, list(store.sites.values()), "text") as writer:
        writer.append(both)
        writer.finish({})

    assert merge_stores([empty], tmp_path / "one", sites=["a"]).contexts == 2


def test_stores_that_differ_are_not_joined(make_store: MakeStore) -> None:
    narrow = make_store([3], name="narrow", width=4)

    with pytest.raises(StoreError, match="differ in sites"):
        join_stores([make_store([3], name="wide"), narrow])
    with pytest.raises(StoreError, match="no store to join"):
        join_stores([])


def test_a_merge_keeps_what_is_there(pair: list[Store], tmp_path: Path) -> None:
    with pytest.raises(SiteNotFound, match="it has site"):
        merge_stores(pair, tmp_path / "new", sites=["sight"])
    with pytest.raises(OutputExists, match="force=True"):
        merge_stores(pair, pair[0].folder)
    assert not (tmp_path / "new").exists()
    assert np.array_equal(open_store(pair[0].folder)["site"][:], pair[0]["site"][:])
