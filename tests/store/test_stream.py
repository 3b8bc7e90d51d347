"""One epoch is each row once, in an order of the seed's own; held-out contexts stay out."""

from typing import Any

import pytest
import torch

from probe_sae.errors import SettingsError
from probe_sae.store import (
    Store,
    StoreStream,
    TensorStream,
    fillings,
    held_out_contexts,
    stream,
)

from .conftest import MakeStore


@pytest.fixture
def store(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(fillings, "BLOCK_ROWS", 16)
    monkeypatch.setattr(stream, "BUFFER_BYTES", 64 * 8 * 4)
    return make_store([50, 70, 33, 90], width=8)


def _sorted(rows: torch.Tensor) -> list[list[float]]:
    return sorted(rows.tolist())


@pytest.mark.parametrize("batch", [1, 7, 64, 500])
def test_an_epoch_reads_each_row_once(store: Store, batch: int) -> None:
    batches = list(StoreStream(store, "site", seed=3).epoch(0, batch))

    assert _sorted(torch.cat(batches)) == _sorted(store.read("site", 0, store.rows))
    assert all(len(rows) == batch for rows in batches[:-1])


@pytest.mark.parametrize("batch", [1, 7, 64, 500])
@pytest.mark.parametrize("half", [False, True])
def test_an_epoch_can_begin_at_any_batch(store: Store, batch: int, half: bool) -> None:
    held = held_out_contexts(store.contexts, 0.5, seed=1) if half else None
    stream = StoreStream(store, "site", 3, held)
    whole = list(stream.epoch(2, batch))

    for start in {0, 1, len(whole) // 2, len(whole) - 1, len(whole)}:
        rest = list(stream.epoch(2, batch, start))
        assert len(rest) == max(0, len(whole) - start)
        assert all(map(torch.equal, rest, whole[start:]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_batches_hold_the_rows_as_they_are_on_disk(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    monkeypatch.setattr(fillings, "BLOCK_ROWS", 16)
    store = make_store([50, 70], dtype=dtype)

    batches = list(StoreStream(store, "site", seed=3).epoch(0, 50))

    assert batches[0].dtype == getattr(torch, dtype)
    assert _sorted(torch.cat(batches).float()) == _sorted(store.read("site", 0, 120))


def test_a_batch_or_a_part_of_one_that_is_kept_stays_as_it_is(store: Store) -> None:
    """Memory of batches is used again, but only where nobody looks at it any more."""
    kept: list[torch.Tensor] = []
    copies: list[torch.Tensor] = []
    addresses: set[int] = set()
    for i, rows in enumerate(StoreStream(store, "site", seed=3).epoch(0, 8)):
        addresses.add(rows.data_ptr())
        if i % 3 == 0:
            kept.append(rows[2:5].T)
            copies.append(kept[-1].clone())

    assert all(map(torch.equal, kept, copies))
    assert len(addresses) < 25


def test_an_epoch_that_is_left_early_stops_reading(store: Store) -> None:
    batches = StoreStream(store, "site", seed=3).epoch(0, 8)

    assert len(next(batches)) == 8
    batches.close()  # type: ignore[attr-defined]


def test_epochs_and_seeds_have_orders_of_their_own(store: Store) -> None:
    def order(seed: int, epoch: int) -> torch.Tensor:
        return torch.cat(list(StoreStream(store, "site", seed).epoch(epoch, 32)))

    assert torch.equal(order(0, 0), order(0, 0))
    assert not torch.equal(order(0, 0), order(0, 1))
    assert not torch.equal(order(0, 0), order(1, 0))


def test_training_and_held_out_rows_share_no_context(store: Store) -> None:
    held = held_out_contexts(store.contexts, 0.5, seed=1)
    seen = torch.cat(list(StoreStream(store, "site", 0, ~held).epoch(0, 32)))
    unseen = torch.cat(list(StoreStream(store, "site", 0, held).in_order(32)))

    assert 0 < held.sum() < len(held)
    assert _sorted(torch.cat([seen, unseen])) == _sorted(store.read("site", 0, store.rows))


def test_the_split_keeps_its_share_and_does_not_depend_on_what_follows() -> None:
    held = held_out_contexts(20_000, 0.1, seed=5)

    assert held.mean() == pytest.approx(0.1, abs=0.01)
    assert (held_out_contexts(100, 0.1, seed=5) == held[:100]).all()
    assert (held_out_contexts(20_000, 0.1, seed=6) != held).any()


def test_no_rows_left_is_an_error(store: Store) -> None:
    with pytest.raises(SettingsError, match="no rows"):
        StoreStream(store, "site", 0, held_out_contexts(store.contexts, 0.0, 0))


def test_a_tensor_streams_like_a_store() -> None:
    rows = torch.randn(100, 4)

    batches = list(TensorStream(rows, seed=0).epoch(0, 32))

    assert [len(b) for b in batches] == [32, 32, 32, 4]
    assert _sorted(torch.cat(batches)) == _sorted(rows)


def test_a_store_that_fits_into_a_buffer_is_read_once(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In orders that are those of an epoch read anew, also of chosen contexts; memory of one."""
    store = make_store([50, 70, 33, 90], width=8)
    held = held_out_contexts(store.contexts, 0.5, seed=1)
    seen: list[int] = []
    real = Store.read_into

    def watched(self: Store, site: str, start: int, out: Any) -> None:
        seen.append(start)
        real(self, site, start, out)

    for contexts in (None, held):
        stream = StoreStream(store, "site", 0, contexts)
        with monkeypatch.context() as patch:
            patch.setattr(Store, "read_into", watched)
            epochs = [list(stream.epoch(number, 50)) for number in range(3)]
            middle = list(stream.epoch(1, 50, 2))
        assert seen == [0]
        seen.clear()
        for number, epoch in enumerate(epochs):
            anew = list(StoreStream(store, "site", 0, contexts).epoch(number, 50))
            assert all(map(torch.equal, epoch, anew))
        assert all(map(torch.equal, middle, epochs[1][2:]))
        assert not torch.equal(epochs[0][0], epochs[1][0])


def _epochs(stream: StoreStream, last: int, batch: int = 8) -> list[list[torch.Tensor]]:
    return [list(stream.epoch(number, batch)) for number in range(last + 1)]


def test_an_epoch_reads_the_beginning_of_the_next(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = _epochs(StoreStream(store, "site", seed=3), 3)
    begun: list[int] = []
    first = 0
    real = StoreStream._begin

    def watched(self: StoreStream, *given: Any) -> Any:
        begun.append(len(given[0].blocks))
        return real(self, *given)

    monkeypatch.setattr(StoreStream, "_begin", watched)
    ahead = StoreStream(store, "site", seed=3)
    ahead.prepare(torch.device("cpu"), 3)
    got: list[list[torch.Tensor]] = []
    for number in range(4):
        got.append([])
        for i, rows in enumerate(ahead.epoch(number, 8)):
            got[-1].append(rows)
            if i == 0:
                first = len(begun)
    fillings = len(list(ahead._fillings.of_epoch(0, 8)))

    assert fillings > 2
    assert len(begun) == 4 * fillings  # nothing twice, and nothing after the last
    assert first == 3 * fillings + 2  # the last epoch found its first filling
    assert all(all(map(torch.equal, *both)) for both in zip(got, wanted, strict=True))


def test_what_was_read_ahead_is_of_no_use_to_another_epoch(store: Store) -> None:
    plain = StoreStream(store, "site", seed=3)
    ahead = StoreStream(store, "site", seed=3)
    ahead.prepare(torch.device("cpu"), 9)
    asked = [(0, 8, 0), (2, 8, 0), (3, 7, 0), (4, 7, 5), (5, 100, 0), (6, 8, 2), (7, 8, 0)]
    for number, batch, start in asked:
        got = list(ahead.epoch(number, batch, start))
        assert all(map(torch.equal, got, plain.epoch(number, batch, start)))
        left = ahead.epoch(number + 1, batch)
        next(left)
        left.close()  # type: ignore[attr-defined]


def test_epochs_of_one_stream_at_the_same_time_do_not_disturb_each_other(store: Store) -> None:
    stream = StoreStream(store, "site", seed=3)
    wanted = _epochs(stream, 1)

    both = list(zip(stream.epoch(0, 8), stream.epoch(1, 8), strict=True))

    for i, epoch in enumerate(wanted):
        assert all(map(torch.equal, epoch, [pair[i] for pair in both]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("bytes_", [64 * 8 * 4, 1 << 20])
def test_a_gpu_gathers_the_same_batches(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, dtype: str, bytes_: int
) -> None:
    monkeypatch.setattr(fillings, "BLOCK_ROWS", 16)
    monkeypatch.setattr(stream, "BUFFER_BYTES", bytes_)
    store = make_store([50, 70, 33, 90] * 20, width=8, dtype=dtype)
    there = StoreStream(store, "site", seed=3)
    there.prepare(torch.device("cuda"), 3)

    wanted, got = _epochs(StoreStream(store, "site", seed=3), 3), _epochs(there, 3)

    for here, those in zip(wanted, got, strict=True):
        assert all(rows.is_cuda for rows in those)
        assert all(torch.equal(one, other.cpu()) for one, other in zip(here, those, strict=True))


def test_a_part_of_a_tensor_is_streamed_as_if_it_were_a_tensor_of_its_own() -> None:
    rows = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    numbers = torch.randperm(100, generator=torch.Generator().manual_seed(1))[:90]
    part, own = TensorStream(rows, 3, numbers=numbers), TensorStream(rows[numbers], 3)

    assert part.rows == own.rows == 90
    assert torch.equal(part.sample(50), own.sample(50))
    for epoch in range(2):
        batches = list(part.epoch(epoch, 32))
        wanted = list(own.epoch(epoch, 32))
        assert [len(batch) for batch in batches] == [32, 32, 26]
        assert all(torch.equal(*pair) for pair in zip(batches, wanted, strict=True))
        assert torch.equal(rows[part.row_number(epoch, 32, 70)], batches[2][6])
    assert torch.equal(
        torch.cat(list(part.epoch(2, 32, 1))), torch.cat(list(own.epoch(2, 32)))[32:]
    )
