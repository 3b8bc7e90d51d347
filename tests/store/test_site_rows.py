"""A site's rows are an array: slices, numbers, DataLoader workers."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from probe_sae.errors import ShapeError, SiteNotFound
from probe_sae.store import Store, layout

from .conftest import MakeStore


@pytest.fixture
def store(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(layout, "CHUNK_BYTES", 256)  # chunks of 8 rows
    return make_store([50, 70, 33], dtype="float16")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_rows_have_the_dtype_of_the_store(make_store: MakeStore, dtype: str) -> None:
    rows = make_store([5], dtype=dtype)["site"]

    assert rows[:].dtype == rows.dtype == getattr(torch, dtype)
    assert rows.shape == (5, 8)


@pytest.mark.parametrize(
    "wanted",
    [
        slice(None),
        slice(7, 60),
        slice(-9, None),
        slice(140, 3, -7),
        slice(60, 7),
        [3, 3, 152, 0, -1],
        [],
        np.arange(20, 90),
        torch.tensor([8, 7, 9]),
        np.arange(153) % 5 == 0,
        17,
        -1,
    ],
)
def test_they_are_indexed_like_an_array(store: Store, wanted: object) -> None:
    whole = store["site"][:].numpy()

    is_empty = isinstance(wanted, list) and not wanted
    expected = whole[np.zeros(0, np.int64) if is_empty else wanted]  # type: ignore[index]
    assert np.array_equal(store["site"][wanted].numpy(), expected)  # type: ignore[index]


def test_wrong_numbers_are_errors(store: Store) -> None:
    with pytest.raises(IndexError, match="no row"):
        store["site"][[1, 153]]
    with pytest.raises(IndexError, match="no row"):
        store["site"][-154]
    with pytest.raises(ShapeError, match="float64"):
        store["site"][[0.5]]
    with pytest.raises(SiteNotFound, match="it has site"):
        store["sight"]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_of_a_data_loader_read_each_row_once(store: Store, start: str) -> None:
    store.read("site", 0, 10)  # files are open in this process, too
    loader = DataLoader(
        store["site"], batch_size=16, shuffle=True, num_workers=2, multiprocessing_context=start
    )

    rows = torch.cat(list(loader))

    order = store["site"][:]
    assert torch.equal(rows[rows[:, 0].argsort()], order[order[:, 0].argsort()])


def test_a_store_travels(store: Store) -> None:
    assert torch.equal(pickle.loads(pickle.dumps(store))["site"][:], store["site"][:])
