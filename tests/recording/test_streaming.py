"""A host's rows without a disk are the rows that a store would hold, in another order."""

from itertools import islice
from pathlib import Path

import pytest
import torch

import probe_sae as ps
from probe_sae.errors import SettingsError
from probe_sae.host import Host
from probe_sae.recording import CaptureSettings, HostStream, Recipe, capture, dataset_from
from probe_sae.recording.batches import batches
from probe_sae.store import held_out_contexts
from probe_sae.training import TrainSettings

SITE = "blocks.1.resid_post"
SETTINGS = CaptureSettings(max_length=16, batch_size=4, dtype="float32")


@pytest.fixture
def recipe() -> Recipe:
    texts = [f"def f{i}(x):\n    return x * {i} + {'y' * (i % 7)}\n" * 2 for i in range(40)]
    return dataset_from(lambda: texts, name="functions", kind="text")


def _sorted(rows: torch.Tensor) -> torch.Tensor:
    return rows[rows[:, 0].argsort()]


def test_an_epoch_is_each_row_of_a_store_once(
    code_lm: Host, recipe: Recipe, tmp_path: Path
) -> None:
    store = capture(code_lm, recipe, SITE, tmp_path / "store", SETTINGS)
    stream = HostStream(code_lm, recipe, SITE, SETTINGS, buffer_rows=100)

    batches = list(stream.epoch(0, 32))

    rows = torch.cat(batches)
    assert [len(b) for b in batches[:-1]] == [32] * (len(batches) - 1)
    assert rows.shape == (store.rows, stream.width)
    assert torch.allclose(_sorted(rows), _sorted(store.read(SITE, 0, store.rows)), atol=1e-4)


@pytest.mark.parametrize("start", [1, 2, 3, 5, 11])
def test_an_epoch_can_begin_at_any_batch(
    code_lm: Host, recipe: Recipe, start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = HostStream(code_lm, recipe, SITE, SETTINGS, buffer_rows=100)
    whole = list(stream.epoch(2, 32))
    runs: list[object] = []
    run = Host.run
    monkeypatch.setattr(Host, "run", lambda self, x: (runs.append(x), run(self, x))[1])

    rest = list(stream.epoch(2, 32, start))

    assert len(rest) == len(whole) - start
    assert all(map(torch.equal, rest, whole[start:]))
    runs_of_an_epoch = len(list(batches(code_lm, recipe, max_length=16, batch_size=4)))
    first_row = start * 32 // 96 * 96  # of the filling that it begins in
    assert len(runs) <= 1 + runs_of_an_epoch * (1 - first_row / sum(map(len, whole))) * 1.2
    assert len(runs) == runs_of_an_epoch or first_row > 0


def test_epochs_and_seeds_have_orders_of_their_own(code_lm: Host, recipe: Recipe) -> None:
    one, other = (HostStream(code_lm, recipe, SITE, SETTINGS, seed=seed) for seed in (0, 1))
    first = [torch.cat(list(s.epoch(n, 32))) for s, n in ((one, 0), (one, 0), (one, 1), (other, 0))]

    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[3])


def test_held_out_contexts_are_those_of_a_store(
    code_lm: Host, recipe: Recipe, tmp_path: Path
) -> None:
    store = capture(code_lm, recipe, SITE, tmp_path / "store", SETTINGS)
    held = held_out_contexts(store.contexts, 0.3, seed=5)[store.context_of_row]
    held = torch.from_numpy(held)
    rows = store.read(SITE, 0, store.rows)
    stream = HostStream(code_lm, recipe, SITE, SETTINGS)

    seen, unseen = (torch.cat(list(s.epoch(0, 32))) for s in stream.split(0.3, seed=5))

    assert torch.allclose(_sorted(seen), _sorted(rows[~held]), atol=1e-4)
    assert torch.allclose(_sorted(unseen), _sorted(rows[held]), atol=1e-4)
    assert stream.provenance["store"]["recording"] == store.recording


def test_images_stream_too(digits_vit: Host) -> None:
    stream = HostStream(digits_vit, "digits", "blocks.0.resid_post")

    rows = next(iter(stream.epoch(0, 512)))
    later = next(iter(stream.epoch(0, 512, 3)))

    assert rows.shape == (512, stream.width)
    assert torch.equal(later, list(islice(stream.epoch(0, 512), 4))[3])


def test_a_dictionary_is_trained_without_a_store(
    code_lm: Host, recipe: Recipe, tmp_path: Path
) -> None:
    stream = HostStream(code_lm, recipe, SITE, SETTINGS)
    trainer = TrainSettings(rows=4000, batch_size=256, held_out=0.3, seed=5)

    sae = ps.train(stream, ps.BatchTopK(features=64, k=4), trainer, device="cpu")
    store = capture(code_lm, recipe, SITE, tmp_path / "store", SETTINGS)
    metrics = ps.evaluate(sae, store).metrics

    held = held_out_contexts(store.contexts, 0.3, seed=5)[store.context_of_row]
    assert metrics["rows_evaluated"] == held.sum()  # what it never saw, although it saw no store
    assert metrics["fraction_unexplained"] < 1


def test_contexts_are_mixed_among_each_other(code_lm: Host, recipe: Recipe) -> None:
    def order(**arrange: object) -> list[int]:
        made = batches(code_lm, recipe, max_length=16, batch_size=4, **arrange)  # type: ignore[arg-type]
        return [context.index for batch in made for context in batch.contexts]

    plain = order()
    mixed = order(arrange=lambda items: reversed(list(items)))

    assert mixed == plain[::-1] == list(range(len(plain)))[::-1]


def test_a_stream_is_of_one_site(code_lm: Host, recipe: Recipe) -> None:
    with pytest.raises(SettingsError, match="2 sites"):
        HostStream(code_lm, recipe, "blocks.{0,1}.resid_post")
