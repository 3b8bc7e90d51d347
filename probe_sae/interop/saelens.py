"""SAELens: `cfg.json` and `sae_weights.safetensors`, of version 6 and older.

pre = (x - b_dec [apply_b_dec_to_input]) @ W_enc + b_enc. Read in SAELens 6.54.12.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from probe_sae.errors import FormatError
from probe_sae.interop.reading import Weights, read_json
from probe_sae.interop.refusing import Refused, refuse
from probe_sae.interop.source import Source, assemble, measure_by_length, provenance_of, repeated
from probe_sae.interop.values import positive, whole, word
from probe_sae.sae import PlainSAE, with_centre

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
_JUMP = ("batchtopk", "matryoshka_batchtopk", "jumprelu")
_ACTIVATIONS = {
    "standard": "relu",
    "topk": "topk",
    "abstopk": "signed_topk",
    "gated": "gated",
    **dict.fromkeys(_JUMP, "jumprelu"),
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
_NORMALISE = {
    "none": "none",
    "expected_average_only_in": "none",
    "layer_norm": "layer_norm",
    "constant_norm_rescale": "unit_norm",
}


def is_saelens(source: Source) -> bool:
    """Return whether a folder is SAELens'."""
    return source.has(CONFIG, WEIGHTS)


def read_saelens(source: Source) -> PlainSAE:
    """Return the dictionary in a folder of SAELens.

    Raises:
        FormatError: it is damaged, or of an architecture that has no plain form.
    """
    config = _named_as_today(source.config(CONFIG))
    arch = word(config["architecture"], f"{source.path}: architecture")
    if arch not in _ACTIVATIONS:
        raise FormatError(
            f"{source.path} is a {arch} of SAELens, which is not read: "
            f"{_REFUSED.get(arch, 'it is not known')}. Known are {', '.join(_ACTIVATIONS)}."
        )
    weights, is_transcoder = source.read(WEIGHTS), "transcoder" in arch
    d_in, many = (whole(config.get(name), f"{source.path}: {name}") for name in ("d_in", "d_sae"))
    d_out = whole(config.get("d_out", d_in), f"{source.path}: d_out") if is_transcoder else d_in
    parts: dict[str, Tensor] = {
        "W_enc": weights.take("W_enc", d_in, many).T,
        "b_enc": weights.take("b_gate" if arch == "gated" else "b_enc", many),
        "W_dec": weights.take("W_dec", many, d_out),
        "b_dec": weights.take("b_dec", d_out),
    }
    if arch == "gated":
        parts |= {"r_mag": weights.take("r_mag", many), "b_mag": weights.take("b_mag", many)}
    if _ACTIVATIONS[arch] == "jumprelu":
        parts["threshold"] = _threshold(weights, many)
    if "skip" in arch:
        parts["W_skip"] = weights.take("W_skip", d_out, d_in)
    if config.get("apply_b_dec_to_input", True) and not is_transcoder:
        parts["centre"] = parts["b_dec"]
    _fold_lengths(parts, config, weights, many)
    _fold_scale(parts, config, source)
    sae = assemble(
        **parts,  # pyright: ignore[reportArgumentType]
        activation=_ACTIVATIONS[arch],
        k=source.k(config.get("k")) if "topk" in _ACTIVATIONS[arch] else 0,
        normalise=_NORMALISE.get(config["normalize_activations"], "none"),
        is_transcoder=is_transcoder,
    )
    known = config["metadata"]
    sae.provenance = provenance_of(
        {"format": "saelens", "architecture": arch, "version": known.get("sae_lens_version")},
        host=known.get("model_name"),
        site=known.get("hook_name"),
        site_out=known.get("hook_name_out"),
    )
    return sae


_REFUSED = {
    "matching_pursuit": "each of its features is chosen by what the earlier ones leave",
    "temporal": "its codes depend on the rows before",
}


def _named_as_today(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of any version in the words of version 6."""
    renamed = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}
    config = {renamed.get(name, name): value for name, value in config.items()}
    more = config.get("activation_fn_kwargs")
    if config.get("activation_fn") == "topk" and isinstance(more, dict) and "k" in more:
        config |= {"architecture": "topk", "k": more["k"]}
    config.setdefault("architecture", "standard")
    normalise = config.get("normalize_activations") or "none"
    config["normalize_activations"] = "expected_average_only_in" if normalise is True else normalise
    if not isinstance(config.get("metadata"), dict):
        config["metadata"] = config
    return config


def _threshold(weights: Weights, many: int) -> Tensor:
    if "topk_threshold" in weights:  # a training's checkpoint, before it was exported
        return repeated(weights.number("topk_threshold") or 0.0, many)
    if "log_threshold" in weights:
        return weights.take("log_threshold", many).exp()
    return weights.take("threshold", many)


def _fold_lengths(
    parts: dict[str, Tensor], config: dict[str, Any], weights: Weights, many: int
) -> None:
    """Let codes say what theirs do where activations are measured by the directions' length."""
    if config.get("rescale_acts_by_decoder_norm") and "topk" in config["architecture"]:
        measure_by_length(parts, weights.origin)
    if config.get("finetuning_scaling_factor") and "scaling_factor" in weights:
        parts["W_dec"] = parts["W_dec"] * weights.take("scaling_factor", many)[:, None]


def _fold_scale(parts: dict[str, Tensor], config: dict[str, Any], source: Source) -> None:
    """Bring what was trained on scaled rows to raw ones: a training's checkpoint has the scale."""
    normalise = word(config["normalize_activations"], f"{source.path}: normalize_activations")
    if normalise not in _NORMALISE:
        raise FormatError(
            f"{source.path} normalises its rows by {normalise}, which is not read; save it with "
            "SAE.save_inference_model, which folds it into the weights."
        )
    if _NORMALISE[normalise] != "none" and "W_skip" in parts:
        raise FormatError(f"{source.path}: a skip past normalised rows is not read.")
    if normalise != "expected_average_only_in" or not source.has("activation_scaler.json"):
        return
    scale = read_json(source.folder / "activation_scaler.json").get("scaling_factor")
    if scale is None:
        return
    scale = positive(scale, f"{source.folder}/activation_scaler.json: scaling_factor")
    parts["W_enc"] = parts["W_enc"] * scale
    for name in ("centre", "W_dec", "b_dec"):
        if name in parts:
            parts[name] = parts[name] / scale


def write_saelens(sae: PlainSAE, folder: Path, words: dict[str, Any]) -> None:
    """Write a dictionary as SAELens 6 does.

    Raises:
        SettingsError: SAELens has nothing like it.
    """
    arch = _architecture(sae)
    is_transcoder = not sae.is_autoencoder
    centred = not is_transcoder and bool(sae.centre.any())
    sae = with_centre(sae, sae.b_dec if centred else torch.zeros_like(sae.centre))
    tensors = {"W_enc": sae.W_enc.T, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    tensors["b_gate" if arch == "gated" else "b_enc"] = sae.b_enc
    for name in ("threshold", "r_mag", "b_mag", "W_skip"):
        weight = getattr(sae, name)
        if weight is not None:
            tensors[name] = weight
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / WEIGHTS)
    names = {
        ours: theirs for theirs, ours in _NORMALISE.items() if theirs != "expected_average_only_in"
    }
    config: dict[str, Any] = {
        "architecture": arch,
        "d_in": sae.d_model,
        "d_sae": sae.features,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": centred,
        "normalize_activations": names[sae.settings.normalise],
        "reshape_activations": "none",
    }
    if "topk" in arch:
        config |= {"k": sae.settings.k, "rescale_acts_by_decoder_norm": False}
    if is_transcoder:
        config["d_out"] = sae.d_out
    known = {"sae_lens_version": "6.0.0", "sae_lens_training_version": None}
    host = {"model_name": words["host"], "hook_name": words["hooks"][0]}
    if is_transcoder:
        host["hook_name_out"] = words["hooks"][-1]
    config["metadata"] = known | host | {"probe_sae": words["written"]}
    (folder / CONFIG).write_text(json.dumps(config, indent=1))


def _architecture(sae: PlainSAE) -> str:
    kind, has_skip = sae.settings.activation, sae.W_skip is not None
    if sae.is_autoencoder and not has_skip:
        names = {ours: theirs for theirs, ours in _ACTIVATIONS.items() if "trans" not in theirs}
        if kind in names:
            return names[kind]
        refuse("SAELens", sae, Refused.activation)
    if sae.is_autoencoder:
        refuse("SAELens", sae, Refused.skip)
    if kind not in ("relu", "jumprelu"):
        refuse("SAELens", sae, Refused.transcoder_activation)
    if sae.settings.normalise != "none":
        refuse("SAELens", sae, Refused.normalise)
    return (
        ("jumprelu_" if kind == "jumprelu" else "") + ("skip_" if has_skip else "") + "transcoder"
    )
