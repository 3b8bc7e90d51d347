"""Training learns, repeats itself to the bit, and refuses what cannot be."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from probe_sae.errors import OutputExists, ProbeSaeError, SettingsError
from probe_sae.sae import (
    ARCHITECTURES,
    L1,
    BatchTopK,
    Settings,
    TopK,
    fraction_unexplained,
    load_sae,
    settings_for,
)
from probe_sae.sae.kernels import threads
from probe_sae.store import TensorStream
from probe_sae.training import TrainSettings, split_settings, train
from probe_sae.training.loop import Training
from probe_sae.training.runs import Run
from probe_sae.training.sources import sources

ARCHS = list(ARCHITECTURES)


def world(rows: int, seed: int, features: int = 64, d_model: int = 24) -> torch.Tensor:
    """Return rows that are sums of three of `features` fixed unit directions."""
    directions = normalize(
        torch.randn(features, d_model, generator=torch.Generator().manual_seed(77)), dim=1
    )
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(rows, features, generator=generator).topk(3).indices
    strengths = 1 + torch.rand(rows, 3, generator=generator)
    codes = torch.zeros(rows, features).scatter(1, chosen, strengths)
    return 5 * codes @ directions + 2


def settings(arch: str) -> Settings:
    # a transcoder's skip would copy the columns that are asked for, and no feature were needed
    wanted = {"features": 64, "k": 3, "points": 256, "skip": False}
    kind = ARCHITECTURES[arch]
    return settings_for(arch, {n: v for n, v in wanted.items() if hasattr(kind, n)})


UNEXPLAINED = {"l1": 0.65, "gated": 0.25, "matryoshka": 0.35, "transcoder": 0.3} | dict.fromkeys(
    ["frozen_decoder", "frozen_encoder"], 0.65
)
"""What is left after a short run; L1 shrinks, half of the frozen ones is random, and of directions
that are cut off to 16 columns 64 are hard to tell apart."""


def data(arch: str, rows: int, seed: int) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """Return rows, for a transcoder of two sites."""
    x = world(rows, seed)
    return (x, x[:, :16]) if arch == "transcoder" else x


QUICK = TrainSettings(rows=200_000, batch_size=512, lr=5e-3, seed=1)


@pytest.mark.parametrize("arch", ARCHS)
def test_it_learns_a_world_that_it_can_represent(arch: str) -> None:
    sae = train(data(arch, 20_000, seed=1), settings(arch), QUICK, device="cpu")
    fresh = world(2_000, seed=2)
    x, target = sae.split(torch.cat([fresh, fresh[:, :16]], 1) if arch == "transcoder" else fresh)

    fires = sae.fires(sae.encode(x))
    assert fraction_unexplained(target, sae(x)) < UNEXPLAINED.get(arch, 0.2)
    assert fires.any(0).float().mean() > 0.75
    if arch != "kl":  # it has a target for each feature, not for each row
        assert fires.sum(1).float().mean() == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_same_seed_gives_the_same_files(arch: str, tmp_path: Path) -> None:
    short = TrainSettings(rows=20_000, batch_size=512)
    for name in ("one", "two"):
        train(data(arch, 5_000, seed=1), settings(arch), short, out=tmp_path / name, device="cpu")

    for file in ("sae.safetensors", "config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_small_steps_use_one_thread_and_give_the_others_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, seen = torch.get_num_threads(), list[int]()
    real = Training._step

    def watched(self: Training, *arguments: Any) -> None:
        seen.append(torch.get_num_threads())
        real(self, *arguments)

    monkeypatch.setattr(Training, "_step", watched)
    run = TrainSettings(rows=1800, batch_size=512)
    torch.set_num_threads(3)
    try:
        for limit in (1 << 27, 24 * 64 * 512 - 1):
            monkeypatch.setattr(threads, "SMALL", limit)
            train(world(2_000, 1), settings("topk"), run, device="cpu")
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)

    assert seen == [1] * 4 + [3] * 4


def test_another_seed_gives_another_dictionary() -> None:
    short = [TrainSettings(rows=5_000, batch_size=512, seed=seed) for seed in (0, 1)]
    one, two = (train(world(5_000, 1), settings("topk"), s, device="cpu") for s in short)

    assert not torch.equal(one.directions(), two.directions())


def test_the_decoder_stays_on_the_unit_sphere() -> None:
    sae = train(world(5_000, 1), settings("topk"), TrainSettings(rows=20_000), device="cpu")

    assert torch.allclose(sae.get_parameter("W_dec").norm(dim=1), torch.ones(64), atol=1e-5)


def test_the_log_tells_the_run(tmp_path: Path) -> None:
    train(world(20_000, 1), settings("batchtopk"), QUICK, out=tmp_path / "sae", device="cpu")
    log = load_sae(tmp_path / "sae").log

    # 18,000 rows are not held out: 35 batches of 512, and one of 80
    assert 200_000 <= log[-1]["rows"] < 200_000 + 512
    assert log[-1]["step"] == 11 * 36 + 4
    assert (log[0]["step"], log[0]["rows"]) == (1, 512)
    assert log[-1]["fraction_unexplained"] < log[0]["fraction_unexplained"]
    assert [line["step"] for line in log] == sorted({line["step"] for line in log})


def test_dead_features_come_back_to_explain_something() -> None:
    """Half of the features begin with a bias that keeps them silent; AuxK revives many of them."""
    stream = TensorStream(world(20_000, seed=1), seed=0)
    fresh = world(2_000, seed=2)
    run = TrainSettings(rows=200_000, batch_size=512, lr=5e-3, dead_after=5_000)
    dead: dict[float, float] = {}
    missed: dict[float, float] = {}
    for weight in (0.0, 1 / 32):
        made = TopK(features=64, k=3, aux_coefficient=weight)
        training = Training(stream, stream, [Run(made, 0)], run, torch.device("cpu"))
        with torch.no_grad():
            training.learners[0].sae.get_parameter("b_enc")[:32] = -3.0
        (sae,) = training.run()
        dead[weight] = float((~(sae.encode(fresh) > 0).any(0)).float().mean())
        missed[weight] = fraction_unexplained(fresh, sae(fresh))

    assert dead[0.0] == 0.5
    assert dead[1 / 32] < 0.35
    assert missed[1 / 32] < missed[0.0]


def test_rows_that_are_all_zero_are_refused() -> None:
    with pytest.raises(SettingsError, match="all zero"):
        train(torch.zeros(1000, 8), settings("topk"), QUICK, device="cpu")


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_nothing(tmp_path: Path) -> None:
    rows = world(20_000, 1)
    rows[19_990:, 3] = float("inf")

    with pytest.raises(SettingsError, match="hold NaN or infinity"):
        train(rows, settings("topk"), QUICK, out=tmp_path / "sae", device="cpu")
    assert list(tmp_path.iterdir()) == []


def test_a_finished_dictionary_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "sae").mkdir()

    with pytest.raises(OutputExists, match="force=True"):
        train(world(2_000, 1), settings("topk"), QUICK, out=tmp_path / "sae", device="cpu")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"arch": "topk", "features": 10, "k": 11}, "between 1 and 10"),
        ({"learning_rate": 1}, "neither batchtopk nor the trainer"),
        ({"lrr": 1}, "Near it: lr"),
        ({"batch_size": 0}, "at least 1"),
        ({"features": 10.5}, "whole number"),
        ({"lr": "high"}, "expected a number"),
        ({"ema": True}, "expected a number"),
        ({"precision": "bf61"}, "Near it: bf16"),
        ({"arch": "jumprelu", "penalty": "tan"}, "Near it: tanh"),
        ({"arch": "kl", "hidden": [8, 0]}, "at least 1"),
        ({"held_out": 1.0}, "expected 0 or more, under 1"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        split_settings(values)


def test_one_table_holds_the_settings_of_both() -> None:
    made, run = split_settings({"features": 8192.0, "k": 16, "lr": 1e-3, "rows": 1e6})

    assert made == BatchTopK(features=8192, k=16)
    assert (run.lr, run.rows) == (1e-3, 1_000_000)


def test_a_short_run_turns_directions_as_far_at_every_width() -> None:
    narrow, wide = (TopK().learning_rate(100_000, width) for width in (100, 400))

    assert narrow == pytest.approx(2 * wide)


def test_a_feature_is_dead_sooner_where_aux_k_revives_it() -> None:
    run = TrainSettings(rows=1_000_000, batch_size=512)

    assert run.dead_window(TopK()) == 10_000
    assert run.dead_window(L1()) == 50_000


def test_the_learning_rate_rises_and_falls() -> None:
    run = TrainSettings(rows=100 * 4096, lr=1.0, warm_up=0.1, decay=0.2)
    rates = [run.rate(step, TopK(), 64) for step in range(run.steps)]

    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == 1.0
    assert rates[50] == 1.0
    assert rates[-1] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (torch.randn(50, 4), {"resume": True}, "nothing to resume without out="),
        (torch.randn(50, 4), {"site": "blocks.0.out"}, "site is named .blocks.0.out., but tensors"),
        (torch.randn(50, 0), {}, r"rows are float32 \(50, 0\); expected real numbers"),
        (torch.randn(50, 4, dtype=torch.complex64), {}, "rows are complex64"),
    ],
)
def test_what_would_be_ignored_is_refused(
    rows: Tensor, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ProbeSaeError, match=message):
        train(rows, TopK(features=16, k=2), TrainSettings(rows=100), device="cpu", **options)


def test_batches_are_no_larger_than_there_are_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """Each step learns from the rows that there are, and as many are consumed as were asked for."""
    run = TrainSettings(rows=2_000, batch_size=512)

    sae = train(world(100, 1), TopK(features=16, k=2), run, device="cpu")

    assert (sae.log[-1]["step"], sae.log[-1]["rows"]) == (23, 22 * 90 + 90)
    assert "a batch is of 90 rows instead of 512" in capsys.readouterr().err


def test_a_tensor_is_not_copied_to_hold_rows_out() -> None:
    rows = world(1_000, 1)

    seen, unseen, _ = sources(rows, None, TrainSettings())

    assert isinstance(seen, TensorStream)
    assert isinstance(unseen, TensorStream)
    assert (seen.rows, unseen.rows) == (900, 100)
    assert seen._data.data_ptr() == unseen._data.data_ptr() == rows.data_ptr()
    both = torch.cat([*seen.epoch(0, 256), *unseen.epoch(0, 256)])
    assert torch.equal(both.sort(0).values, rows.sort(0).values)
