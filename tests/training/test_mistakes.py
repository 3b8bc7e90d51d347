"""Mistakes of a user are told in words before any work, and a useless result at its end."""

from pathlib import Path
from typing import Any

import pytest
import torch

from probe_sae.errors import SettingsError
from probe_sae.sae import KL, L1, JumpReLU, TopK
from probe_sae.store import StoreStream
from probe_sae.training import TrainSettings, train, train_several

from .killed import make_store
from .test_train import world

RUN = TrainSettings(rows=2_000, batch_size=256)
SMALL = TopK(features=32, k=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": torch.ones(500, 8).numpy()}, "ndarray; expected a store.*from_numpy"),
        ({"data": [[1.0, 2.0]]}, "are a list; expected a store"),
        ({"settings": TopK}, "settings are .*TopK.*expected those of an architecture"),
        ({"settings": "topk"}, "settings are 'topk'"),
        ({"trainer": {"rows": 5}}, "expected TrainSettings"),
        ({"device": "gpu"}, "device 'gpu' cannot be used here.*There is cpu"),
        ({"data": torch.ones(500, 8)}, "rows are all the same"),
        ({"data": torch.zeros(500, 8)}, "all zero"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"data": world(500, 1), "settings": SMALL, "trainer": RUN} | change
    with pytest.raises(SettingsError, match=message):
        train(**given)


@pytest.mark.parametrize("settings", [[], SMALL, "topk"])
def test_several_want_a_list(settings: Any) -> None:
    with pytest.raises(SettingsError, match="expected a list of at least one"):
        train_several(world(500, 1), settings, RUN)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingsError, match="device 'cuda' cannot be used here"):
        train(world(500, 1), SMALL, RUN, device="cuda")


def test_a_site_of_a_store_is_not_mistaken_for_the_store(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")

    with pytest.raises(SettingsError, match=r"Give the store itself.*site=NAME"):
        train(store["site"], SMALL, RUN)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_rows_of_a_tensor_that_are_no_numbers_go_by_their_own_number(bad: float) -> None:
    rows = world(3_000, 1)
    rows[777, 3] = bad

    with pytest.raises(SettingsError, match=r"rows 777 of the tensor"):
        train(rows, SMALL, RUN)


@pytest.mark.parametrize("lr", [-1.0, float("nan"), float("inf")])
def test_learning_rates_that_are_none_are_refused(lr: float) -> None:
    with pytest.raises(SettingsError, match=r"lr is .*expected 0 or more"):
        TrainSettings(lr=lr)


def test_a_learning_rate_that_ends_in_no_number_names_the_default() -> None:
    run = TrainSettings(rows=2_000, batch_size=256, lr=1e30)
    default = SMALL.learning_rate(2_000, 24)

    with pytest.raises(SettingsError, match=f"without lr, it is chosen as {default:.2g} here"):
        train(world(3_000, 1), SMALL, run)


def test_rows_of_one_context_are_counted_in_whole_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StoreStream, "companions", lambda *_: 141.3)
    monkeypatch.setattr(StoreStream, "mixing", lambda *_: 40.0)

    train(make_store(tmp_path / "store"), SMALL, RUN, site="site")

    said = capsys.readouterr().err
    assert "a row meets 140 rows of its own context in its batch, by chance it would be 3.5" in said


def test_a_ruined_dictionary_is_named_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    train_several(world(3_000, 1), [SMALL, TopK(features=48, k=3)], RUN)
    assert "do not use it" not in capsys.readouterr().err

    train(world(3_000, 1), SMALL, TrainSettings(rows=10_000, batch_size=256, lr=10.0, clip=0))

    assert "explains less than the mean does" in capsys.readouterr().err


def test_a_target_that_was_missed_is_named_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    train(world(3_000, 1), L1(features=64, k=3), RUN)
    assert "asked for L0 3, the run ended at" in capsys.readouterr().err

    train(world(3_000, 1), KL(features=64, rho=0.01), RUN)
    assert "asked for a mean of 0.01, the run ended at" in capsys.readouterr().err

    train(world(3_000, 1), L1(features=64, coefficient=0.1), RUN)
    train(world(3_000, 1), SMALL, RUN)
    train(world(3_000, 1), JumpReLU(features=64, k=30, penalty="tanh", coefficient=0.0), RUN)
    assert "asked for" not in capsys.readouterr().err
