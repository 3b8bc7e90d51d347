"""What every architecture promises, and what the checkpoint keeps."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from probe_sae.errors import FormatError, SettingsError, ShapeError
from probe_sae.sae import (
    ARCHITECTURES,
    L1,
    OMP,
    SAE,
    BatchTopK,
    TopK,
    load_sae,
    make_sae,
    save_sae,
    settings_for,
)

ARCHS = list(ARCHITECTURES)
WIDTHS = {"transcoder": (10, 6), "crosscoder": (6, 4)}
EXACT = sorted(set(ARCHS) - {"l1", "kl", "gated"})
"""Those whose untrained dictionary fires k features a row already."""


def small(arch: str, **values: Any) -> Any:
    """Return settings of 40 features, of which 4 fire."""
    wanted = {"features": 40, "k": 4, "points": 20} | values
    kind = ARCHITECTURES[arch]
    return settings_for(arch, {n: v for n, v in wanted.items() if hasattr(kind, n)})


def make(arch: str, seed: int = 0, **values: Any) -> tuple[SAE, torch.Tensor]:
    """Return a dictionary that is not quite untrained, and raw rows of another scale.

    Rows are those of a stream: a transcoder encodes the first 10 of 16 numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    widths = WIDTHS.get(arch, (10,))
    rows = torch.randn(200, sum(widths), generator=generator) * 30 + 7
    sae = make_sae(small(arch, **values), widths, generator)
    sae.initialise(rows, generator)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            if name in ("b_enc", "b_dec", "W_skip"):
                parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    sae.finish(rows)
    return sae.requires_grad_(False).eval(), rows


@pytest.mark.parametrize("arch", ARCHS)
def test_sparse_and_dense_codes_agree(arch: str) -> None:
    sae, rows = make(arch)
    x, _ = sae.split(rows)

    codes = sae.encode(x)

    assert codes.shape == (200, 40)
    assert torch.allclose(sae.decode(codes), sae.decode(sae.encode_sparse(x)), atol=1e-4)
    assert torch.allclose(sae(x), sae.reconstruct(x, codes), atol=1e-4)


def test_whole_numbers_of_the_command_line_read_as_whole_numbers() -> None:
    settings = settings_for("topk", {"features": 512, "k": 16.0})

    assert repr(settings) == repr(TopK(features=512, k=16))
    assert BatchTopK(512, k=2.5).k == 2.5


@pytest.mark.parametrize("arch", EXACT)
def test_codes_are_sparse(arch: str) -> None:
    sae, rows = make(arch)
    codes = sae.encode(sae.split(rows)[0])

    assert (codes != 0).sum() / 200 == pytest.approx(4, rel=0.1)
    assert bool((codes < 0).any()) == (arch == "signed_topk")


@pytest.mark.parametrize("arch", ARCHS)
def test_codes_of_a_row_do_not_depend_on_the_others(arch: str) -> None:
    sae, rows = make(arch)
    x, _ = sae.split(rows)

    assert torch.allclose(sae.encode(x[:7]), sae.encode(x)[:7], atol=1e-5)


@pytest.mark.parametrize("arch", sorted(set(ARCHS) - {"kl"}))
def test_scaling_the_input_is_undone(arch: str) -> None:
    """Raw activations in another unit, with the scale to match, give the same codes."""
    sae, rows = make(arch)
    x, _ = sae.split(rows)
    codes, x_hat = sae.encode(x), sae(x)
    sae.input_scale.div_(1024)

    assert torch.allclose(sae.encode(x * 1024), codes, rtol=1e-4, atol=1e-5)
    if arch != "transcoder":  # it writes another site, in units of its own
        assert torch.allclose(sae(x * 1024) / 1024, x_hat, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("arch", ARCHS)
def test_directions_are_what_a_feature_adds_to_a_reconstruction(arch: str) -> None:
    sae, _ = make(arch)
    alone = torch.zeros(1, 40)
    silent = sae.decode(alone)
    alone[0, 3] = 1.0

    assert torch.allclose(sae.directions()[3], (sae.decode(alone) - silent)[0], atol=1e-4)


@pytest.mark.parametrize("arch", ARCHS)
def test_its_final_form_reconstructs_the_same(arch: str) -> None:
    """Bringing directions to length 1, or calibrating a threshold, is no change of meaning."""
    sae, rows = make(arch)
    x, _ = sae.split(rows)
    if arch in ("l1", "jumprelu"):
        with torch.no_grad():
            sae.get_parameter("W_dec").mul_(torch.rand(40, 1) + 0.5)
    before = sae(x)
    sae.finish(rows)

    assert torch.allclose(sae(x), before, atol=1e-3)
    decoder = sae.linear_decoder()
    if decoder is not None and arch != "kl":
        assert torch.allclose(decoder.norm(dim=1), torch.ones(40), atol=1e-5)


@pytest.mark.parametrize("arch", ["l1", "kl", "gated", "jumprelu"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_deep_encoders_and_decoders_are_mirrored(arch: str, batch_norm: bool) -> None:
    sae, rows = make(arch, hidden=[8, 6], batch_norm=batch_norm)

    codes = sae.encode(rows)

    assert codes.shape == (200, 40)
    assert sae(rows).shape == rows.shape
    assert sae.directions().shape == (40, 10)
    widths = [m.out_features for m in sae.modules() if isinstance(m, torch.nn.Linear)]
    assert widths == [8, 6, 8, 10]
    norms = [m for m in sae.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    assert [n.num_features for n in norms] == ([8, 6] if batch_norm else [])


@pytest.mark.parametrize("arch", ARCHS)
def test_saving_and_loading_keeps_codes_on_raw_activations(arch: str, tmp_path: Path) -> None:
    sae, rows = make(arch)
    x, _ = sae.split(rows)
    sae.provenance, sae.log = {"sites": ["here"]}, [{"step": 1}]
    save_sae(tmp_path, sae)

    loaded = load_sae(tmp_path)

    assert torch.equal(loaded.encode(x), sae.encode(x))
    assert torch.equal(loaded(x), sae(x))
    assert loaded.settings == sae.settings
    assert (loaded.provenance, loaded.log) == ({"sites": ["here"]}, [{"step": 1}])


@pytest.mark.parametrize("arch", ARCHS)
def test_the_step_lowers_the_loss_along_its_gradient(arch: str) -> None:
    sae, x = make(arch)
    sae.requires_grad_(True)
    first = sae.step(x).loss
    first.backward()
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter -= 1e-4 * parameter.grad if parameter.grad is not None else 0
    if arch == "archetypal":
        sae.constrain()

    assert sae.step(x).loss.item() < first.item()


def test_the_threshold_of_batch_top_k_brings_unseen_rows_to_k() -> None:
    generator = torch.Generator().manual_seed(3)
    sae = make_sae(BatchTopK(features=200, k=8), 32, generator)
    sae.finish(torch.randn(8000, 32, generator=generator))

    codes = sae.encode_sparse(torch.randn(8000, 32, generator=generator))

    assert (codes.values > 0).sum() / 8000 == pytest.approx(8, rel=0.03)


def test_rows_of_another_length_are_refused() -> None:
    sae, _ = make("topk")

    with pytest.raises(ShapeError, match=r"\[rows, 10\]"):
        sae.encode(torch.randn(5, 11))


@pytest.mark.parametrize("refine", [None, "omp"])
def test_rows_that_are_no_tensor_are_refused(refine: str | None) -> None:
    sae, _ = make("topk")
    rows: Any = np.zeros((5, 10), np.float32)

    with pytest.raises(ShapeError, match=r"are a ndarray; expected a tensor: torch\.as_tensor"):
        sae.encode(rows, refine)


@dataclass(frozen=True)
class Odd(TopK):
    """An architecture of one's own, with settings of other types."""

    mode: Literal["a", "b"] = "a"
    rate: float | None = None
    size: int | str = "auto"
    many: list[int] | None = None


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_codes_of_a_row_that_is_not_finite_are_no_numbers(arch: str, wrong: float) -> None:
    sae, x = make(arch)
    x = sae.split(x[:6])[0].clone()
    fine = sae.encode(x)
    x[3, 1] = wrong

    found = sae.encode(x)

    assert bool(found[3].isnan().all())
    assert bool(sae.encode_sparse(x).values[3].isnan().all())
    others = [0, 1, 2, 4, 5]
    torch.testing.assert_close(found[others], fine[others])
    if sae.linear_decoder() is not None and sae.is_autoencoder:
        assert bool(sae.encode(x, refine="omp")[3].isnan().all())


def test_rows_of_any_precision_are_refined() -> None:
    sae, x = make("topk")
    wanted = sae.encode(x[:20], refine="omp")

    for dtype in (torch.float64, torch.bfloat16):
        for how in ("omp", "lista", "leave_one_out"):
            assert sae.encode(x[:20].to(dtype), refine=how).dtype == torch.float32
    torch.testing.assert_close(sae.encode(x[:20].double(), refine="omp"), wanted)


def test_refinements_that_cannot_be_are_refused() -> None:
    sae, x = make("topk")
    how: Any = 5

    with pytest.raises(SettingsError, match="refine is 5; expected Lista"):
        sae.encode(x, refine=how)
    with pytest.raises(SettingsError, match="k is 0"):
        OMP(k=0)


@pytest.mark.parametrize("codes", [torch.zeros(5, 3), torch.zeros(50), np.zeros((5, 50))])
def test_codes_that_are_none_of_the_dictionary_are_refused(codes: Any) -> None:
    with pytest.raises(ShapeError, match=r"decodes \[rows, |expected a tensor"):
        make("topk")[0].decode(codes)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"k": "4"}, "k is '4'; expected a number"), ({"features": True}, "whole number")],
)
def test_settings_of_another_type_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        TopK(**values)
    numbers: dict[str, Any] = {"features": np.int64(64), "k": np.int32(4)}
    assert TopK(**numbers) == TopK(features=64, k=4)
    assert Odd(features=8, k=2, mode="b").rate is None  # types that are not ours are left alone
    one: Any = 32
    assert L1(features=64, hidden=one) == L1(features=64, hidden=(32,))


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
        ({"version": 9}, "version 9.*Update probe_sae"),
        ({"version": 1}, "version 1.*Train it again"),
        ({"format": "x"}, "not the config"),
        ({"arch": "nonsense"}, "no architecture"),
        ({"widths": [11]}, "is \\["),
        ({"settings": {"features": 10**12, "k": 4}}, "is \\["),
        ({"settings": {"features": 40, "k": 5, "q": 1}}, "no setting 'q'"),
        ({"settings": {"features": 40, "k": 5, "aux_k": "x"}}, "expected a whole number"),
        ({"widths": [10**15]}, "is \\["),
        ({"widths": [-1]}, "damaged"),
        ({"widths": [float("inf")]}, "widths are .*expected whole numbers over 0"),
        ({"widths": [10.5]}, "expected whole numbers"),
        ({"widths": "10"}, "expected whole numbers"),
        ({"provenance": 5}, "provenance is 5, expected an object"),
        ({"provenance": {"trained_on": "x"}}, "trained_on is 'x', expected an object"),
        ({"provenance": {"trained_on": {"hooks": "x"}}}, "hooks .* expected a list of names"),
        ({"provenance": {"sites": 5}}, "sites .* 5, expected a list of names"),
        ({"provenance": {"sites": ["a", 5]}}, "expected a list of names"),
        ({"provenance": {"host": ["x"]}}, "host is \\['x'\\], expected an object"),
        ({"provenance": {"store": [1]}}, "store is"),
        ({"provenance": {"split": {"seed": 1}}}, "expected held_out and seed"),
        ({"provenance": {"split": []}}, "expected held_out and seed"),
        ({"settings": 3}, "damaged"),
    ],
)
def test_a_wrong_config_is_refused(saved: Path, changes: dict[str, Any], message: str) -> None:
    _config(saved, **changes)

    with pytest.raises(FormatError, match=message):
        load_sae(saved)


def test_a_host_that_is_a_name_only_is_read_as_one(saved: Path) -> None:
    _config(saved, provenance={"host": "gpt2", "sites": []})

    assert load_sae(saved).provenance == {"host": {"name": "gpt2"}, "sites": []}


def test_weights_that_do_not_belong_to_the_fingerprint_are_refused(saved: Path) -> None:
    tensors = load_file(saved / "sae.safetensors")
    tensors["W_enc"] = tensors["W_enc"].flip(0).contiguous()
    save_file(tensors, saved / "sae.safetensors")
    with pytest.raises(FormatError, match="is not the file that was saved"):
        load_sae(saved)

    _config(saved, weights="")  # an older dictionary, without a hash
    with pytest.raises(FormatError, match="does not give the codes"):
        load_sae(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {"fingerprint.codes": t["fingerprint.codes"].double()}, "float64"),
        (lambda t: {"fingerprint.codes": t["fingerprint.codes"] > 0}, "bool"),
        (lambda t: {"fingerprint.rows": t["fingerprint.rows"].half()}, "float16"),
        (
            lambda t: {n: t[n][:0].clone() for n in ("fingerprint.rows", "fingerprint.codes")},
            "no fingerprint",
        ),
        (lambda t: {"input_scale": t["input_scale"] * 0}, "input_scale is not over 0"),
        (lambda t: {"input_scale": -t["input_scale"]}, "input_scale is not over 0"),
        (lambda t: {"input_scale": t["input_scale"] / 0}, "not finite"),
    ],
    ids=["float64", "bool", "half", "empty", "scale 0", "negative scale", "infinite scale"],
)
def test_a_fingerprint_or_scale_that_checks_nothing_is_refused(
    saved: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    tensors = load_file(saved / "sae.safetensors")
    save_file(tensors | change(tensors), saved / "sae.safetensors")
    _config(saved, weights="")

    with pytest.raises(FormatError, match=message):
        load_sae(saved)


@pytest.mark.parametrize("log", ["[" * 100_000, "5", '{"rows": 1}\n[1]\n', "{"])
def test_a_log_of_anything_else_than_lines_is_refused(saved: Path, log: str) -> None:
    (saved / "log.jsonl").write_text(log)

    with pytest.raises(FormatError, match=r"log\.jsonl is damaged"):
        load_sae(saved)


def test_a_configuration_that_is_too_deep_is_refused(saved: Path) -> None:
    (saved / "config.json").write_text("[" * 100_000)

    with pytest.raises(FormatError, match="cannot be read"):
        load_sae(saved)


def test_a_fingerprint_has_rows_where_none_are_given(tmp_path: Path) -> None:
    save_sae(tmp_path, make("topk")[0], torch.zeros(0, 10))

    assert load_sae(tmp_path).features == 40


@pytest.mark.parametrize("place", [-1, -100, 300])
def test_one_changed_byte_of_the_weights_is_noticed(saved: Path, place: int) -> None:
    path = saved / "sae.safetensors"
    changed = bytearray(path.read_bytes())
    changed[place] ^= 1
    path.write_bytes(changed)

    with pytest.raises(FormatError):
        load_sae(saved)


def test_dictionaries_from_before_there_was_a_hash_are_read(saved: Path) -> None:
    _config(saved, weights="")

    assert load_sae(saved).features == 40


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
    sae = make_sae(TopK(features=6, k=3), 4)
    with torch.no_grad():
        sae.get_parameter("b_enc").fill_(-1e6)

    assert (sae.encode(torch.randn(5, 4)) == 0).all()
