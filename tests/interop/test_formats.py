"""What other libraries wrote says the same here; what is written for them says the same there."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import probe_sae as ps
from probe_sae.errors import FormatError, SettingsError
from probe_sae.sae import Plain, PlainSAE

from . import references as r

D, MANY, K = r.D, r.MANY, r.K
NONE = {"apply_b_dec_to_input": False}
THEIRS: dict[str, tuple[str, Callable[..., None]]] = {
    "saelens standard": ("saelens", r.saelens("standard")),
    "saelens uncentred": ("saelens", r.saelens("standard", NONE)),
    "saelens layer_norm": (
        "saelens",
        r.saelens("standard", {"normalize_activations": "layer_norm"}),
    ),
    "saelens constant_norm_rescale": (
        "saelens",
        r.saelens("standard", {"normalize_activations": "constant_norm_rescale"}),
    ),
    "saelens topk": ("saelens", r.saelens("topk", {"k": K})),
    "saelens topk rescaled": (
        "saelens",
        r.saelens("topk", {"k": K, "rescale_acts_by_decoder_norm": True}),
    ),
    "saelens abstopk": ("saelens", r.saelens("abstopk", {"k": K})),
    "saelens jumprelu": (
        "saelens",
        r.saelens("jumprelu", threshold=r.drawn(MANY, positive=True)),
    ),
    "saelens gated": (
        "saelens",
        r.saelens("gated", r_mag=r.drawn(MANY) / 5, b_mag=r.drawn(MANY, seed=7)),
    ),
    "saelens transcoder": ("saelens", r.saelens("transcoder", {"d_out": D})),
    "saelens skip_transcoder": (
        "saelens",
        r.saelens("skip_transcoder", {"d_out": D}, W_skip=r.drawn(D, D)),
    ),
    "saelens jumprelu_skip_transcoder": (
        "saelens",
        r.saelens(
            "jumprelu_skip_transcoder",
            {"d_out": D},
            W_skip=r.drawn(D, D),
            threshold=r.drawn(MANY, positive=True),
        ),
    ),
    "sparsify topk": ("sparsify", r.sparsify()),
    "sparsify topk with a skip": ("sparsify", r.sparsify(skip_connection=True)),
    "sparsify groupmax": ("sparsify", r.sparsify(activation="groupmax")),
    "sparsify transcoder": ("sparsify", r.sparsify(transcode=True)),
    "sparsify skip transcoder": ("sparsify", r.sparsify(transcode=True, skip_connection=True)),
    **{
        f"dictionary_learning {kind}": ("dictionary_learning", r.dictionary_learning(kind))
        for kind in (
            "AutoEncoder",
            "AutoEncoderNew",
            "GatedAutoEncoder",
            "JumpReluAutoEncoder",
            "AutoEncoderTopK",
            "BatchTopKSAE",
            "MatryoshkaBatchTopKSAE",
        )
    },
    "gemma_scope": ("gemma_scope", r.gemma_scope()),
    "gemma_scope to a wider site": ("gemma_scope", r.gemma_scope(d_out=14)),
    "gemma_scope 2 transcoder": ("gemma_scope", r.gemma_scope(second=True)),
    "gemma_scope 2 skip": ("gemma_scope", r.gemma_scope(second=True, skip=True, d_out=14)),
    "openai ReLU": ("openai", r.openai("ReLU")),
    "openai TopK": ("openai", r.openai("TopK")),
    "openai tied": ("openai", r.openai("ReLU", tied=True)),
}
SKIPPING = ("saelens skip", "saelens jumprelu_skip", "sparsify skip", "gemma_scope 2 skip")


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found.double() - expected).abs().max() <= 1e-5 * expected.abs().max())


@pytest.mark.parametrize("case", THEIRS)
def test_theirs_gives_the_same_codes_and_reconstructions(case: str, tmp_path: Path) -> None:
    library, write = THEIRS[case]
    write(tmp_path / "theirs")
    codes, out = r.RUN[library](tmp_path / "theirs", r.rows())

    sae = ps.load_sae(tmp_path / "theirs")

    assert sae.provenance["imported"]["format"] == library
    assert close(sae.encode(r.rows()), codes)
    assert close(sae(r.rows()), out)
    assert 0 < float((codes != 0).double().mean()) < 1


@pytest.mark.parametrize("case", THEIRS)
def test_theirs_in_every_format_that_has_the_like(case: str, tmp_path: Path) -> None:
    """Whatever is written says the same; whatever is refused leaves nothing behind."""
    library, write = THEIRS[case]
    write(tmp_path / "theirs")
    codes, out = r.RUN[library](tmp_path / "theirs", r.rows())
    written = 0

    for format in ("plain", *r.RUN):
        try:
            ps.export_sae(tmp_path / "theirs", tmp_path / format, format)
        except SettingsError:
            assert not list(tmp_path.glob(f"{format}*"))
            continue
        written += 1
        again = ps.load_sae(tmp_path / format)
        assert close(again.encode(r.rows()), codes), format
        assert close(again(r.rows()), out), format
        if format != "plain":
            found = r.RUN[format](tmp_path / format, r.rows())
            assert close(found[0], codes), format
            assert close(found[1], out), format
    assert written >= 1


def test_what_is_written_says_where_it_comes_from(tmp_path: Path) -> None:
    sae = ps.make_sae(ps.L1(MANY, k=K), D)
    sae.initialise(r.rows(), torch.Generator())
    sae.provenance = {"sites": ["blocks.3.resid_post"], "host": {"name": "gpt2"}}

    ps.export_sae(sae, tmp_path / "out", "saelens")

    config = json.loads((tmp_path / "out" / "cfg.json").read_text())
    assert config["metadata"]["hook_name"] == "blocks.3.hook_resid_post"
    assert config["metadata"]["model_name"] == "gpt2"
    scale = json.loads((tmp_path / "out" / "probe_sae.json").read_text())["folded_input_scale"]
    assert scale == pytest.approx(float(sae.input_scale))


@pytest.mark.parametrize("name", ["saelens", "sparsify", "gemma_scope", "dictionary_learning"])
def test_a_format_refuses_what_it_has_not(name: str, tmp_path: Path) -> None:
    kind = {"saelens": "groupmax", "sparsify": "gated", "gemma_scope": "topk"}
    sae = Plain(MANY, kind.get(name, "signed_topk"), k=4).build((D,))

    with pytest.raises(SettingsError, match=f"has no {sae.settings.activation} features"):
        ps.export_sae(sae, tmp_path / "out", name)

    assert list(tmp_path.iterdir()) == []


def test_saelens_before_version_6_had_other_words(tmp_path: Path) -> None:
    r.saelens("topk", {"k": K})(tmp_path / "new")
    (tmp_path / "old").mkdir()
    for file in (tmp_path / "new").iterdir():
        (tmp_path / "old" / file.name).write_bytes(file.read_bytes())
    old = {"d_in": D, "d_sae": MANY, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    old |= {"hook_point": "blocks.2.hook_resid_pre", "normalize_activations": False}
    (tmp_path / "old" / "cfg.json").write_text(json.dumps(old | {"model_name": "gpt2"}))

    sae = ps.load_sae(tmp_path / "old")

    assert torch.equal(sae.encode(r.rows()), ps.load_sae(tmp_path / "new").encode(r.rows()))
    assert sae.provenance["trained_on"] == {"host": "gpt2", "hooks": ["blocks.2.hook_resid_pre"]}


def test_a_training_checkpoint_of_saelens_brings_its_scale_and_threshold(tmp_path: Path) -> None:
    scale = 0.3
    config = {"k": K, "normalize_activations": "expected_average_only_in"}
    config |= {"rescale_acts_by_decoder_norm": True}
    r.saelens("batchtopk", config, topk_threshold=torch.tensor(2.0, dtype=torch.float64))(
        tmp_path / "run"
    )
    (tmp_path / "run" / "activation_scaler.json").write_text(f'{{"scaling_factor": {scale}}}')
    w = {
        name: tensor.double()
        for name, tensor in r.load_file(tmp_path / "run" / "sae_weights.safetensors").items()
    }
    lengths, z = w["W_dec"].norm(dim=1), r.rows().double() * scale
    pre = ((z - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * lengths
    codes = pre.relu() * (pre > 2.0)

    sae = ps.load_sae(tmp_path / "run")

    assert close(sae.encode(r.rows()), codes)
    assert close(sae(r.rows()), (codes / lengths @ w["W_dec"] + w["b_dec"]) / scale)


def test_a_state_dict_by_itself_needs_its_class_where_two_have_the_same_names(
    tmp_path: Path,
) -> None:
    r.dictionary_learning("BatchTopKSAE", config=False)(tmp_path / "a")

    with pytest.raises(FormatError, match="dict_class=BatchTopKSAE"):
        ps.load_sae(tmp_path / "a" / "ae.pt")

    sae = ps.load_sae(tmp_path / "a" / "ae.pt", dict_class="AutoEncoderTopK")
    assert float((sae.encode(r.rows()) > 0).double().sum(1).max()) == K
    r.dictionary_learning("GatedAutoEncoder", config=False)(tmp_path / "b")
    assert ps.load_sae(tmp_path / "b").settings.activation == "gated"  # type: ignore[attr-defined]


def test_a_threshold_that_was_never_set_fires_as_theirs_does_and_is_said(tmp_path: Path) -> None:
    r.dictionary_learning("BatchTopKSAE", threshold=torch.tensor(-1.0))(tmp_path / "a")
    codes, _ = r.run_dictionary_learning(tmp_path / "a", r.rows())

    with pytest.warns(UserWarning, match="never set"):
        sae = ps.load_sae(tmp_path / "a")

    assert close(sae.encode(r.rows()), codes)


def linear(prefix: str = "") -> dict[str, torch.Tensor]:
    names = {"encoder": (MANY, D), "decoder": (D, MANY)}
    found = {f"{name}{prefix}.weight": r.drawn(*shape) for name, shape in names.items()}
    return found | {
        f"{name}{prefix}.bias": r.drawn(shape[0], seed=8) for name, shape in names.items()
    }


def expected_linear(prefix: str, scale: float, limit: float) -> r.Run:
    w = {name: tensor.double() for name, tensor in linear(prefix).items()}
    pre = scale * r.rows().double() @ w[f"encoder{prefix}.weight"].T + w[f"encoder{prefix}.bias"]
    codes = pre.relu() * (pre > limit)
    out = codes @ w[f"decoder{prefix}.weight"].T + w[f"decoder{prefix}.bias"]
    return codes, out / scale


def test_llama_scope_is_scaled_by_the_length_of_its_rows(tmp_path: Path) -> None:
    scale = D**0.5 / 7.5
    norm = {"dataset_average_activation_norm": {"in": 7.5}, "jump_relu_threshold": 2.0}
    r.write_json(tmp_path / "hyperparams.json", norm | {"hook_point_in": "blocks.1.hook_x"})
    (tmp_path / "checkpoints").mkdir()
    save_file(linear(), tmp_path / "checkpoints" / "final.safetensors")
    codes, out = expected_linear("", scale, 2.0 * scale)

    sae = ps.load_sae(tmp_path)

    assert close(sae.encode(r.rows()), codes)
    assert close(sae(r.rows()), out)


def test_later_ones_of_the_same_group_keep_a_logarithm(tmp_path: Path) -> None:
    hook = "blocks.1.hook_x"
    more = {"log_jumprelu_threshold": torch.full((MANY,), 0.5)}
    norm = {f"dataset_average_activation_norm.{hook}": torch.tensor(7.5)}
    r.write_json(tmp_path / "config.json", {"hook_point_in": hook})
    save_file(linear() | more | norm, tmp_path / "sae_weights.safetensors")
    codes, out = expected_linear("", D**0.5 / 7.5, 2.718281828459045**0.5)

    sae = ps.load_sae(tmp_path)

    assert close(sae.encode(r.rows()), codes)
    assert close(sae(r.rows()), out)
    save_file(linear() | more, tmp_path / "sae_weights.safetensors")
    with pytest.raises(FormatError, match="how long the rows were"):
        ps.load_sae(tmp_path)


def test_goodfires_file(tmp_path: Path) -> None:
    torch.save(linear("_linear"), tmp_path / "sae.pth")
    codes, out = expected_linear("_linear", 1.0, 0.0)

    sae = ps.load_sae(tmp_path / "sae.pth")

    assert close(sae.encode(r.rows()), codes)
    assert close(sae(r.rows()), out)


def test_qwen_scope_has_k_in_its_name_only(tmp_path: Path) -> None:
    w = {"W_enc": r.drawn(MANY, D), "W_dec": r.drawn(D, MANY), "b_enc": r.drawn(MANY)}
    folder = tmp_path / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_5"
    folder.mkdir()
    torch.save(w | {"b_dec": r.drawn(D)}, folder / "layer3.sae.pt")
    pre = r.rows().double() @ w["W_enc"].double().T + w["b_enc"].double()

    sae = ps.load_sae(folder / "layer3.sae.pt")

    assert close(sae.encode(r.rows()), r.kept(pre, 5))
    assert close(sae(r.rows()), r.kept(pre, 5) @ w["W_dec"].double().T + r.drawn(D).double())
    (folder / "layer3.sae.pt").rename(tmp_path / "layer3.sae.pt")
    with pytest.raises(FormatError, match="k=32"):
        ps.load_sae(tmp_path / "layer3.sae.pt")
    assert torch.equal(
        ps.load_sae(tmp_path / "layer3.sae.pt", k=5).encode(r.rows()), sae.encode(r.rows())
    )


@pytest.mark.parametrize("is_rows", [True, False])
def test_circuit_tracers_decoders_lie_either_way(is_rows: bool, tmp_path: Path) -> None:
    W_dec = r.drawn(MANY, D)
    w = {"W_enc": r.drawn(MANY, D), "b_enc": r.drawn(MANY), "b_dec": r.drawn(D)}
    w |= {"W_skip": r.drawn(D, D), "W_dec": W_dec if is_rows else W_dec.T.contiguous()}
    save_file(w, tmp_path / "layer_3.safetensors")
    x = r.rows().double()
    codes = (x @ w["W_enc"].double().T + w["b_enc"].double()).relu()
    out = codes @ W_dec.double() + w["b_dec"].double() + x @ w["W_skip"].double().T

    sae = ps.load_sae(tmp_path / "layer_3.safetensors")

    assert not sae.is_autoencoder
    assert close(sae.encode(r.rows()), codes)
    assert close(sae(r.rows()), out)


def test_an_orientation_is_not_guessed_from_a_square(tmp_path: Path) -> None:
    square = {"W_enc": r.drawn(D, D), "W_dec": r.drawn(D, D)}
    save_file(square | {"b_enc": r.drawn(D), "b_dec": r.drawn(D)}, tmp_path / "a.safetensors")

    with pytest.raises(FormatError, match="cannot be told"):
        ps.load_sae(tmp_path / "a.safetensors")


@pytest.mark.parametrize("case", ["saelens standard", "sparsify topk", "gemma_scope"])
def test_as_many_features_as_dimensions_are_read_by_the_format(case: str, tmp_path: Path) -> None:
    """A transposed square matrix would fit as well, and be wrong."""
    library, write = THEIRS[case]
    before = r.MANY
    r.MANY = D
    try:
        write(tmp_path / "theirs")
    finally:
        r.MANY = before
    codes, out = r.RUN[library](tmp_path / "theirs", r.rows())

    sae = ps.load_sae(tmp_path / "theirs")

    assert (sae.features, sae.d_model) == (D, D)
    assert close(sae.encode(r.rows()), codes)
    assert close(sae(r.rows()), out)


def test_overcomplete_has_to_be_told_what_chooses(tmp_path: Path) -> None:
    directions = r.drawn(MANY, D)
    w = {"dictionary._weights": directions, "dictionary.multiplier": torch.tensor(0.2)}
    w |= {"encoder.final_block.0.weight": r.drawn(MANY, D, seed=4)}
    w |= {"encoder.final_block.0.bias": r.drawn(MANY)}
    torch.save(w, tmp_path / "a.pt")
    pre = r.rows().double() @ w["encoder.final_block.0.weight"].double().T
    pre = pre + w["encoder.final_block.0.bias"].double()
    atoms = torch.nn.functional.normalize(directions.double(), dim=1) * 2.718281828459045**0.2

    with pytest.raises(FormatError, match="activation=topk"):
        ps.load_sae(tmp_path / "a.pt")
    sae = ps.load_sae(tmp_path / "a.pt", activation="topk", k=3)

    assert isinstance(sae, PlainSAE)
    assert close(sae.encode(r.rows()), r.kept(pre, 3))
    assert close(sae(r.rows()), r.kept(pre, 3) @ atoms)


def test_the_site_is_said_where_the_files_do_not(tmp_path: Path) -> None:
    r.saelens("standard")(tmp_path / "a")

    sae = ps.load_sae(tmp_path / "a", sites=["blocks.3.resid_post"])
    ps.import_sae(tmp_path / "a", tmp_path / "b", sites=["blocks.3.resid_post"])

    assert sae.provenance["sites"] == ["blocks.3.resid_post"]
    assert ps.load_sae(tmp_path / "b").provenance["sites"] == ["blocks.3.resid_post"]
    with pytest.raises(SettingsError, match="takes 1 site; got 2"):
        ps.load_sae(tmp_path / "a", sites=["x", "y"])
    with pytest.raises(SettingsError, match=r"trained on blocks\.3\.resid_post, not on y"):
        ps.load_sae(tmp_path / "b", sites=["y"])


def test_a_factor_of_finetuning_comes_after_the_lengths(tmp_path: Path) -> None:
    config = {"k": K, "rescale_acts_by_decoder_norm": True, "finetuning_scaling_factor": True}
    factor = r.drawn(MANY, positive=True)
    r.saelens("topk", config, scaling_factor=factor)(tmp_path / "a")
    w = {n: t.double() for n, t in r.load_file(tmp_path / "a" / "sae_weights.safetensors").items()}
    codes, _ = r.run_saelens(tmp_path / "a", r.rows())
    directions = w["W_dec"] / w["W_dec"].norm(dim=1, keepdim=True) * factor.double()[:, None]

    sae = ps.load_sae(tmp_path / "a")

    assert close(sae.encode(r.rows()), codes)
    assert close(sae(r.rows()), codes @ directions + w["b_dec"])
