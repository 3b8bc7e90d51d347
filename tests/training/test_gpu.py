"""A GPU learns what a CPU learns; these tests skip where there is none."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from probe_sae.errors import SettingsError
from probe_sae.evaluation import evaluate
from probe_sae.sae import (
    ARCHITECTURES,
    L1,
    TopK,
    dense,
    few,
    fraction_unexplained,
    load_sae,
    settings_for,
)
from probe_sae.store import TensorStream
from probe_sae.training import TrainSettings, train
from probe_sae.training.loop import Training
from probe_sae.training.runs import Run

from .killed import make_store
from .test_train import data, settings, world

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
RUN = TrainSettings(rows=60_000, batch_size=512, lr=5e-3, seed=1)


@pytest.mark.parametrize("arch", list(ARCHITECTURES))
def test_every_architecture_learns_as_on_a_cpu(arch: str) -> None:
    rows = data(arch, 20_000, 1)

    on = {name: train(rows, settings(arch), RUN, device=name) for name in ("cpu", "cuda")}

    logs = {name: [line["fraction_unexplained"] for line in sae.log] for name, sae in on.items()}
    assert logs["cuda"][:3] == pytest.approx(logs["cpu"][:3], rel=0.02)
    assert logs["cuda"][-1] == pytest.approx(logs["cpu"][-1], rel=0.2, abs=0.02)
    x = world(500, 3)
    for sae in on.values():
        assert next(sae.parameters()).device.type == "cpu"
    # the same dictionary says the same on both
    codes = {name: on["cuda"].to(name).encode(x.to(name)).cpu() for name in ("cuda", "cpu")}
    torch.testing.assert_close(codes["cuda"], codes["cpu"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("arch", ["topk", "batchtopk"])
def test_the_same_seed_gives_the_same_bits(arch: str) -> None:
    rows = world(20_000, 1)

    first, second = (train(rows, settings(arch), RUN, device="cuda") for _ in range(2))

    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name


@pytest.mark.parametrize("arch", ["l1", "gated", "jumprelu"])
def test_a_sparse_step_of_penalised_dictionaries_gives_the_same_bits(arch: str) -> None:
    """In float32, of firings that torch itself would add up in another order each time."""
    rows = world(20_000, 1, features=2048, d_model=64)
    wanted = settings_for(arch, {"features": 4096, "k": 3})
    run = TrainSettings(rows=40_000, batch_size=1024, lr=5e-3, seed=1)
    asked: list[bool] = []
    real = few.few_over

    def watched(*given: Tensor) -> Any:
        found = real(*given)
        asked.append(found is not None)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "few_over", watched)
        first, second = (train(rows, wanted, run, device="cuda") for _ in range(2))

    assert sum(asked) > 0.5 * len(asked)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_quicker_products_learn_as_well(precision: str) -> None:
    rows = world(20_000, 1)
    run = TrainSettings(rows=60_000, batch_size=512, lr=5e-3)

    plain = train(rows, L1(features=64, k=3), run, device="cuda")
    quick = train(rows, L1(features=64, k=3), replace(run, precision=precision), device="cuda")

    assert quick.log[-1]["fraction_unexplained"] == pytest.approx(
        plain.log[-1]["fraction_unexplained"], abs=0.05
    )
    assert all(weight.dtype != torch.bfloat16 for weight in quick.state_dict().values())
    assert torch.get_float32_matmul_precision() == "highest"


def test_rows_come_from_a_store_and_in_a_run_that_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "store")
    run = TrainSettings(rows=8_000, batch_size=64, seed=2)
    whole = train(store, TopK(features=64, k=3), run, site="site", device="cuda")
    real = Training._step

    def interrupted(self: Training, rows: torch.Tensor, at: Any, began: float) -> None:
        assert rows.is_cuda
        assert rows.dtype == torch.float32
        if at.step == 50:
            signal.raise_signal(signal.SIGINT)
        real(self, rows, at, began)

    monkeypatch.setattr(Training, "_step", interrupted)
    what: dict[str, Any] = {"site": "site", "out": tmp_path / "sae", "device": "cuda"}
    with pytest.raises(KeyboardInterrupt):
        train(store, TopK(features=64, k=3), run, **what)
    monkeypatch.undo()

    resumed = train(store, TopK(features=64, k=3), run, **what, resume=True)

    assert len(resumed.log) == len(whole.log)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    assert load_sae(tmp_path / "sae").settings == resumed.settings


def test_rows_that_are_no_numbers_are_named_although_they_are_seen_later() -> None:
    rows, clean = world(20_000, 1), TensorStream(world(2_000, 2), 1)
    rows[12_345, 3] = float("nan")
    stream, run = TensorStream(rows, 1), TrainSettings(rows=20_000, batch_size=512)
    runs, device = [Run(TopK(features=64, k=3), 0)], torch.device("cuda")
    training = Training(clean, clean, runs, run, device)
    training._stream = stream

    with pytest.raises(SettingsError, match="NaN or infinity: rows 12345"):
        training.run()


def test_a_loss_that_is_no_number_stops_the_run() -> None:
    run = TrainSettings(rows=20_000, batch_size=512, lr=1e30, clip=0, warm_up=0.0)

    with pytest.raises(SettingsError, match="loss is not finite"):
        train(world(5_000, 1), L1(features=64, k=3), run, device="cuda")


def test_a_tensor_that_is_there_already_is_learned_from() -> None:
    rows = world(20_000, 1)

    there = train(rows.cuda(), TopK(features=64, k=3), RUN, device="cuda")
    sent = train(rows, TopK(features=64, k=3), RUN, device="cuda")

    assert there.log[-1]["loss"] == pytest.approx(sent.log[-1]["loss"], rel=1e-3)
    assert fraction_unexplained(rows, sent(rows)) < 0.5


def test_what_was_learned_is_measured_as_on_a_cpu(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    run = TrainSettings(rows=8_000, batch_size=64)
    sae = train(store, TopK(features=64, k=3), run, site="site", device="cuda")

    assert evaluate(sae, store).metrics["l0"] == pytest.approx(3, abs=0.5)
