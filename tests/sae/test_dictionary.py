"""What every architecture promises, and what the checkpoint keeps."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from probe_sae.errors import FormatError, SettingsError, ShapeError
from probe_sae.sae import (
    ARCHITECTURES,
    SAE,
    BatchTopK,
    TopK,
    load_sae,
    save_sae,
    settings_for,
)

ARCHS = list(ARCHITECTURES)


def make(arch: str, seed: int = 0) -> tuple[SAE, torch.Tensor]:
    """Return a dictionary that is not quite untrained, and raw activations of another scale."""
    generator = torch.Generator().manual_seed(seed)
    sae = SAE(settings_for(arch, {"features": 40, "k": 4}), 10, generator=generator)
    x = torch.randn(200, 10, generator=generator) * 30 + 7
    with torch.no_grad():
        sae.b_enc.normal_(std=0.1, generator=generator)
        sae.b_dec.normal_(std=0.1, generator=generator)
        sae.input_scale.fill_(0.1)
    sae.calibrate(x)
    return sae.requires_grad_(False), x


@pytest.mark.parametrize("arch", ARCHS)
def test_sparse_and_dense_codes_agree(arch: str) -> None:
    sae, x = make(arch)

    codes = sae.encode(x)

    assert codes.shape == (200, 40)
    assert torch.allclose(sae.decode(codes), sae.decode(sae.encode_sparse(x)), atol=1e-4)
    assert torch.allclose(sae(x), sae.decode(codes), atol=1e-4)


@pytest.mark.parametrize("arch", ARCHS)
def test_codes_are_sparse_and_not_negative(arch: str) -> None:
    sae, x = make(arch)
    codes = sae.encode(x)

    assert (codes >= 0).all()
    assert (codes > 0).sum() / 200 == pytest.approx(4, rel=0.03)


@pytest.mark.parametrize("arch", ARCHS)
def test_codes_of_a_row_do_not_depend_on_the_others(arch: str) -> None:
    sae, x = make(arch)

    assert torch.allclose(sae.encode(x[:7]), sae.encode(x)[:7], atol=1e-5)


@pytest.mark.parametrize("arch", ARCHS)
def test_scaling_the_input_is_undone(arch: str) -> None:
    """Raw activations in another unit, with the scale to match, give the same codes."""
    sae, x = make(arch)
    codes, x_hat = sae.encode(x), sae(x)
    sae.input_scale.div_(1000)

    assert torch.allclose(sae.encode(x * 1000), codes, rtol=1e-4, atol=1e-5)
    assert torch.allclose(sae(x * 1000) / 1000, x_hat, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("arch", ARCHS)
def test_saving_and_loading_keeps_codes_on_raw_activations(arch: str, tmp_path: Path) -> None:
    sae, x = make(arch)
    sae.provenance, sae.log = {"site": "here"}, [{"step": 1}]
    save_sae(tmp_path, sae)

    loaded = load_sae(tmp_path)

    assert torch.equal(loaded.encode(x), sae.encode(x))
    assert torch.equal(loaded(x), sae(x))
    assert loaded.settings == sae.settings
    assert (loaded.provenance, loaded.log) == ({"site": "here"}, [{"step": 1}])


@pytest.mark.parametrize("arch", ARCHS)
def test_the_step_lowers_the_loss_along_its_gradient(arch: str) -> None:
    sae, x = make(arch)
    sae.requires_grad_(True)
    first = sae.step(x, torch.tensor(10.0)).loss
    first.backward()
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter -= 1e-4 * parameter.grad if parameter.grad is not None else 0

    assert sae.step(x, torch.tensor(10.0)).loss.item() < first.item()


@pytest.mark.parametrize("arch", ARCHS)
def test_the_loss_equals_its_formula_in_float64(arch: str) -> None:
    """Squared error over variance, plus AuxK: the share of the error that dead features leave."""
    sae, x = make(arch)
    sae, x, variance = sae.double(), x.double(), torch.tensor(7.0, dtype=torch.float64)
    sae.threshold.fill_(float("nan"))  # a batch chooses, as in training
    dead = torch.tensor([1, 5, 9])
    scaled = x * sae.input_scale
    x_hat = sae.encode(x) @ sae.W_dec + sae.b_dec
    error = scaled - x_hat
    pre = ((scaled - sae.b_dec) @ sae.W_enc.T + sae.b_enc)[:, dead].relu()
    aux = pre @ sae.W_dec[dead]
    share = (error - aux).square().sum() / error.square().sum() * len(dead) / (sae.d_model // 2)
    plain = error.square().sum() / (len(x) * variance)

    step = sae.step(x, variance)

    assert torch.allclose(step.x_hat, x_hat, rtol=1e-12)
    assert step.loss.item() == pytest.approx(plain.item(), rel=1e-12)
    with_aux = sae.step(x, variance, dead).loss.item()
    assert with_aux == pytest.approx((plain + share / 32).item(), rel=1e-12)


@pytest.mark.parametrize("arch", ARCHS)
def test_aux_k_reaches_the_encoder_of_dead_features_and_no_others(arch: str) -> None:
    sae, x = make(arch)
    sae.requires_grad_(True)
    with torch.no_grad():
        sae.W_enc[:5] *= 1e-3  # positive on some rows, but never among the strongest
        sae.b_enc[:5] = 0
    sae.step(x, torch.tensor(10.0)).loss.backward()
    without = sae.W_enc.grad
    assert without is not None
    assert (without[:5] == 0).all()
    sae.zero_grad()
    sae.step(x, torch.tensor(10.0), dead=torch.arange(5)).loss.backward()
    assert sae.W_enc.grad is not None
    assert sae.W_dec.grad is not None

    assert (sae.W_enc.grad[:5].abs().sum(1) > 0).all()
    assert (sae.W_dec.grad[:5].abs().sum(1) > 0).all()
    assert torch.allclose(sae.W_enc.grad[5:], without[5:], atol=1e-6)


def test_the_projected_decoder_gradient_only_turns_rows() -> None:
    sae, x = make("topk")
    sae.requires_grad_(True)
    sae.step(x, torch.tensor(10.0)).loss.backward()
    sae.project_decoder_gradient()

    assert sae.W_dec.grad is not None
    assert (sae.W_dec.grad * sae.W_dec).sum(1).abs().max() < 1e-5


def test_the_threshold_of_batch_top_k_brings_unseen_rows_to_k() -> None:
    generator = torch.Generator().manual_seed(3)
    sae = SAE(BatchTopK(features=200, k=8), 32, generator=generator)
    sae.calibrate(torch.randn(8000, 32, generator=generator))

    codes = sae.encode_sparse(torch.randn(8000, 32, generator=generator))

    assert (codes.values > 0).sum() / 8000 == pytest.approx(8, rel=0.03)


def test_rows_of_another_length_are_refused() -> None:
    sae, _ = make("topk")

    with pytest.raises(ShapeError, match=r"\[rows, 10\]"):
        sae.encode(torch.randn(5, 11))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"k": 100, "features": 50}, "between 1 and 50"),
        ({"k": 0}, "between 1"),
        ({"features": 0}, "at least 1"),
        ({"k": 1.5}, "whole number"),
        ({"feature": 50}, "Near it: features"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings_for("topk", values)


def test_an_unknown_architecture_names_what_is_near() -> None:
    with pytest.raises(SettingsError, match="Near it: topk"):
        settings_for("top-k", {})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_sae(tmp_path, make("batchtopk")[0])
    return tmp_path


def _config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 9}, "version 9"),
        ({"format": "x"}, "not the config"),
        ({"arch": "nonsense"}, "no architecture"),
        ({"d_model": 11}, "W_enc is"),
        ({"settings": {"features": 10**12, "k": 4}}, "W_enc is"),
        ({"settings": {"features": 40, "k": 5, "aux_k": "x", "q": 1}}, "no setting 'q'"),
        ({"settings": 3}, "damaged"),
    ],
)
def test_a_wrong_config_is_refused(saved: Path, changes: dict[str, Any], message: str) -> None:
    _config(saved, **changes)

    with pytest.raises(FormatError, match=message):
        load_sae(saved)


def test_weights_that_do_not_belong_to_the_fingerprint_are_refused(saved: Path) -> None:
    tensors = load_file(saved / "sae.safetensors")
    tensors["W_enc"] = tensors["W_enc"].flip(0).contiguous()
    save_file(tensors, saved / "sae.safetensors")

    with pytest.raises(FormatError, match="does not give the codes"):
        load_sae(saved)


def test_weights_that_are_not_finite_are_refused(saved: Path) -> None:
    tensors = load_file(saved / "sae.safetensors")
    tensors["b_dec"][0] = float("nan")
    save_file(tensors, saved / "sae.safetensors")

    with pytest.raises(FormatError, match="not finite"):
        load_sae(saved)


def test_half_a_weights_file_is_refused(saved: Path) -> None:
    path = saved / "sae.safetensors"
    path.write_bytes(path.read_bytes()[:200])

    with pytest.raises(FormatError, match="cannot be read"):
        load_sae(saved)


def test_an_unfinished_dictionary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="unfinished"):
        load_sae(tmp_path / "sae.partial")


def test_topk_fires_exactly_k_or_fewer_where_nothing_is_positive() -> None:
    sae = SAE(TopK(features=6, k=3), 4)
    with torch.no_grad():
        sae.b_enc.fill_(-1e6)

    assert (sae.encode(torch.randn(5, 4)) == 0).all()
