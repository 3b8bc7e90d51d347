"""Several dictionaries on one stream, averages of weights, several sites, precisions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from probe_sae.errors import SettingsError
from probe_sae.evaluation import evaluate
from probe_sae.sae import (
    KL,
    BatchTopK,
    Crosscoder,
    Settings,
    TopK,
    Transcoder,
    fraction_unexplained,
    load_sae,
)
from probe_sae.sae.architectures.crosscoder import CrosscoderSAE
from probe_sae.store import StoreStream, stream_of
from probe_sae.training import TrainSettings, train, train_several

from .killed import make_store
from .test_train import QUICK, world

SHORT = TrainSettings(rows=20_000, batch_size=512, lr=5e-3)


def test_each_of_several_is_what_it_would_be_alone(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    kinds: list[Settings] = [TopK(32, 2), TopK(64, 2), BatchTopK(32, 2.5)]

    made = train_several(store, kinds, SHORT, site="site", out=tmp_path / "saes", device="cpu")

    assert list(made) == ["topk-features32-k2", "topk-features64-k2", "batchtopk-features32-k2.5"]
    for (name, sae), settings in zip(made.items(), kinds, strict=True):
        alone = train(store, settings, SHORT, site="site", device="cpu")
        loaded = load_sae(tmp_path / "saes" / name)
        assert torch.equal(sae.directions(), alone.directions())
        assert torch.equal(loaded.directions(), alone.directions())
        assert [line["loss"] for line in loaded.log] == [line["loss"] for line in alone.log]


def test_seeds_draw_other_weights_over_the_same_rows(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    made = train_several(store, [TopK(32, 2)], SHORT, seeds=[0, 1], site="site", device="cpu")

    assert list(made) == ["seed0", "seed1"]
    assert not torch.equal(made["seed0"].directions(), made["seed1"].directions())
    held = {str(sae.provenance["split"]) for sae in made.values()}
    assert len(held) == 1
    assert [sae.provenance["weights_seed"] for sae in made.values()] == [0, 1]


def test_two_that_are_the_same_are_refused() -> None:
    with pytest.raises(SettingsError, match="the same"):
        train_several(world(2_000, 1), [TopK(32, 2), TopK(32, 2)], SHORT, device="cpu")


def test_a_finished_run_of_several_is_left_as_it_is(tmp_path: Path) -> None:
    kinds = [TopK(32, 2), TopK(32, 3)]
    options: dict[str, Any] = {"out": tmp_path / "saes", "device": "cpu", "resume": True}
    one, two = (train_several(world(2_000, 1), kinds, SHORT, **options) for _ in range(2))

    assert {path.name for path in (tmp_path / "saes").iterdir()} == {"k2", "k3"} == set(one)
    assert all(torch.equal(one[n].directions(), two[n].directions()) for n in one)


def test_the_average_of_weights_is_returned() -> None:
    """Near the last weights, but smoother; 0 keeps none, and its directions have length 1."""
    x, fresh = world(20_000, 1), world(2_000, 2)
    plain, averaged = (
        train(x, TopK(64, 3), replace(QUICK, ema=ema, decay=0.0)) for ema in (0.0, 0.99)
    )
    a, b = plain.get_parameter("W_dec"), averaged.get_parameter("W_dec")

    assert not torch.equal(a, b)
    assert (a * b).sum(1).median() > 0.99
    assert torch.allclose(b.norm(dim=1), torch.ones(64), atol=1e-5)
    missed = [fraction_unexplained(fresh, sae(fresh)) for sae in (plain, averaged)]
    assert missed[1] < missed[0] + 0.01


def test_rows_of_several_sites_are_read_together(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    stream = stream_of(store, ["site", "other"], 3)
    one = StoreStream(store, "site", 3)
    batches = list(stream.epoch(1, 256))

    rows = torch.cat(batches)

    assert stream.widths == (16, 8)
    assert rows.shape == (store.rows, 24)
    assert torch.equal(rows[:, :8].half(), rows[:, 16:].half())
    assert torch.equal(rows[:, :16], torch.cat(list(one.epoch(1, 256))).float())
    assert torch.equal(torch.cat(list(stream.epoch(1, 256, 3))), torch.cat(batches[3:]))
    numbers = [stream.row_number(1, 256, place) for place in (0, 300, 3999)]
    assert torch.equal(store["site"][numbers].float(), rows[[0, 300, 3999], :16])


def test_a_transcoder_reconstructs_its_second_site(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    run = TrainSettings(rows=100_000, batch_size=256, lr=5e-3)
    sae = train(store, Transcoder(64, 8), run, site=["site", "other"], device="cpu")
    x, y = store["site"][:500].float(), store["other"][:500].float()

    assert (sae.d_model, sae.d_out) == (16, 8)
    assert fraction_unexplained(y, sae(x)) < 0.05
    assert evaluate(sae, store).metrics["fraction_unexplained"] < 0.05


def test_a_crosscoder_scales_every_site_by_itself(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    x = torch.cat([store["site"][:].float(), 1000 * store["other"][:].float()], 1)
    for sparsity in ("batchtopk", "l1"):
        sae = train(
            (x[:, :16], x[:, 16:]),
            Crosscoder(64, 8, sparsity=sparsity),
            TrainSettings(rows=100_000, batch_size=256, lr=5e-3),
            device="cpu",
        )
        scaled = x * sae.input_scale

        assert isinstance(sae, CrosscoderSAE)
        power = [float(part.square().mean()) for part in scaled.split([16, 8], 1)]
        assert power == pytest.approx([1, 1], rel=0.05)
        assert sae.site_norms().shape == (2, 64)
        assert torch.allclose(sae.site_norms().square().sum(0), torch.ones(64), atol=1e-4)
        assert (sae.encode(x) > 0).sum(1).float().mean() == pytest.approx(8, rel=0.1)
        assert fraction_unexplained(x[:, :16], sae(x)[:, :16]) < 0.5
        assert fraction_unexplained(x[:, 16:], sae(x)[:, 16:]) < 0.5


@pytest.mark.parametrize("settings", [TopK(64, 3), BatchTopK(64, 3), KL(16, hidden=(8,))])
def test_bfloat16_products_learn_nearly_the_same(settings: Settings) -> None:
    x, fresh = world(20_000, 1), world(2_000, 2)
    exact, coarse = (
        train(x, settings, replace(QUICK, precision=p), device="cpu") for p in ("float32", "bf16")
    )

    assert all(p.dtype == torch.float32 for p in coarse.parameters())
    assert not torch.equal(exact.directions(), coarse.directions())
    missed = [fraction_unexplained(fresh, sae(fresh)) for sae in (exact, coarse)]
    assert missed[1] < missed[0] + 0.05


def test_tf32_is_switched_back() -> None:
    before = torch.get_float32_matmul_precision()
    train(
        world(2_000, 1),
        TopK(32, 2),
        TrainSettings(rows=2_000, batch_size=512, precision="tf32"),
        device="cpu",
    )

    assert torch.get_float32_matmul_precision() == before
