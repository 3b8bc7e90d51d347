"""Each warning is provoked on purpose, and a healthy run gives none."""

from pathlib import Path
from typing import Any

import pytest
import torch

from probe_sae.errors import SettingsError
from probe_sae.evaluation import evaluate
from probe_sae.sae import L1, BatchTopK, Gated, JumpReLU, Settings, TopK
from probe_sae.store import TensorStream, open_store
from probe_sae.training import TrainSettings, train, warn_of_scale
from probe_sae.training.alarms import Alarms

from .killed import make_store
from .test_train import QUICK, world

SHORT = TrainSettings(rows=40_000, batch_size=512, lr=5e-3)


def said(
    capsys: pytest.CaptureFixture[str],
    settings: Settings,
    rows: torch.Tensor | None = None,
    trainer: TrainSettings = SHORT,
) -> str:
    """Train and return what was said."""
    train(world(5_000, 1) if rows is None else rows, settings, trainer, device="cpu")
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "settings",
    [TopK(64, 3), BatchTopK(64, 3), Gated(64, k=3), JumpReLU(64, k=3)],
)
def test_a_healthy_run_gives_no_warning(
    capsys: pytest.CaptureFixture[str], settings: Settings
) -> None:
    assert "warning" not in said(capsys, settings, trainer=QUICK)


def test_features_that_die(capsys: pytest.CaptureFixture[str]) -> None:
    run = TrainSettings(rows=40_000, batch_size=512, lr=5e-3, dead_after=512)

    assert "are dead after" in said(capsys, TopK(512, 2, aux_coefficient=0.0), trainer=run)


def test_a_coefficient_that_silences_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert "leaves nothing but the mean" in said(capsys, L1(64, coefficient=300.0))


def test_a_coefficient_that_does_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert "does nothing" in said(capsys, L1(64, coefficient=1e-6))


def test_thresholds_without_a_gradient(capsys: pytest.CaptureFixture[str]) -> None:
    assert "the others get no gradient" in said(capsys, JumpReLU(64, k=3, bandwidth=1e-9))


def test_thresholds_that_do_not_move(capsys: pytest.CaptureFixture[str]) -> None:
    run = TrainSettings(rows=40_000, batch_size=512, lr=1e-9)

    assert "thresholds have not moved" in said(capsys, JumpReLU(64, k=3), trainer=run)


def test_a_reconstruction_worse_than_the_mean(capsys: pytest.CaptureFixture[str]) -> None:
    run = TrainSettings(rows=40_000, batch_size=512, lr=3.0, clip=0.0, warm_up=0.0)

    assert "worse than the mean" in said(capsys, TopK(64, 3), trainer=run)


@pytest.mark.parametrize(
    ("since", "until", "is_said"), [(0, 8, False), (12, 15, False), (0, 10, True), (30, 41, True)]
)
def test_single_batches_that_are_worse_than_the_mean_are_let_pass(
    capsys: pytest.CaptureFixture[str], since: int, until: int, is_said: bool
) -> None:
    run, log = TrainSettings(rows=100 * 512, batch_size=512), list[dict[str, Any]]()
    alarms = Alarms()
    for step in range(1, 101):
        worse = since < step <= until
        line = {"step": step, "rows": 512 * step, "dead_fraction": 0.0, "l0": 3.0}
        log.append(line | {"fraction_unexplained": 1.4 if worse else 0.7})
        alarms.look(log, TopK(64, 3), run)

    assert ("worse than the mean" in capsys.readouterr().err) == is_said


def test_rows_as_long_as_attention_sinks(capsys: pytest.CaptureFixture[str]) -> None:
    rows = world(5_000, 1)
    rows[::100, 7] = 1e4

    text = said(capsys, TopK(64, 3), rows)

    assert "0.93% of the rows are over 10 times as long" in text
    assert "most in dimension 7" in text


def test_rows_of_another_scale_than_the_dictionary_was_trained_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store = make_store(tmp_path / "store")
    sae = train(store, TopK(32, 3), SHORT, site="site", device="cpu")
    evaluate(sae, store)
    assert "warning: rows have" not in capsys.readouterr().err

    warn_of_scale(sae, 40 * store["site"][:100].float())

    assert "1.83e+03 times the mean square" in capsys.readouterr().err


def test_evaluating_at_another_site_is_noticed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store = make_store(tmp_path / "store")
    sae = train(store, TopK(32, 3), SHORT, site="site", device="cpu")
    sae.input_scale *= 3
    evaluate(sae, open_store(tmp_path / "store"))

    assert "is it the same site of the same host" in capsys.readouterr().err


def test_rows_that_are_not_finite_are_named_by_their_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A few of them are in the first samples."""
    monkeypatch.setattr("probe_sae.training.loop.SAMPLE_ROWS", 16)
    rows = world(2_000, 1)
    run = TrainSettings(rows=2_000, batch_size=64)
    named = 0
    for row in range(0, 2_000, 100):
        damaged = rows.clone()
        damaged[row, 3] = float("nan")
        message = ""
        try:
            train(TensorStream(damaged, 1), TopK(32, 3), run, device="cpu")
        except SettingsError as problem:
            message = str(problem)
        if "of the data" in message:
            assert f": rows {row} of the data" in message
            named += 1

    assert named > 10


def test_rows_of_a_store_are_named_by_their_number_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store refuses such rows, so they are put in after it was read."""
    from probe_sae.store import StoreStream

    store = make_store(tmp_path / "store")
    marked = store["site"][2345].float()
    real = StoreStream.epoch

    def damaged(self: Any, *arguments: Any) -> Any:
        for batch in real(self, *arguments):
            wide = batch.float().clone()
            wide[(wide == marked).all(1)] = float("inf")
            yield wide

    monkeypatch.setattr(StoreStream, "epoch", damaged)
    run = TrainSettings(rows=20_000, batch_size=256, held_out=0.0)

    with pytest.raises(SettingsError, match=r"1 rows of a batch of 256 .*: rows 2345 of the data"):
        train(store, TopK(32, 3), run, site="site", device="cpu")


def test_a_loss_that_overflows_says_what_to_lower() -> None:
    run = TrainSettings(rows=40_000, batch_size=512, lr=1e30, clip=0.0, warm_up=0.0)

    with pytest.raises(SettingsError, match=r"the loss is not finite at step .* Lower the"):
        train(world(5_000, 1), L1(64, coefficient=0.1), run, device="cpu")
