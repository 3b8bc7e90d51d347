"""dictionary_learning: `config.json` and `ae.pt` of each trainer, or a state dict by itself.

Linear layers are [out, in]; JumpReluAutoEncoder and AutoEncoderNew do not subtract a bias. Read in
git 60ec6bf (August 2025).
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probe_sae.errors import FormatError, near
from probe_sae.interop.reading import Weights
from probe_sae.interop.refusing import Refused, refuse
from probe_sae.interop.source import Source, assemble, measure_by_length, provenance_of, repeated
from probe_sae.sae import PlainSAE, with_centre

CLASSES = {
    "AutoEncoder": "relu",
    "AutoEncoderNew": "relu",
    "GatedAutoEncoder": "gated",
    "JumpReluAutoEncoder": "jumprelu",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "jumprelu",
    "MatryoshkaBatchTopKSAE": "jumprelu",
}
_BIAS = {
    "AutoEncoder": "bias",
    "AutoEncoderNew": "decoder.bias",
    "GatedAutoEncoder": "decoder_bias",
}
_UNCENTRED = ("AutoEncoderNew", "JumpReluAutoEncoder")


def is_dictionary_learning(source: Source) -> bool:
    """Return whether a folder, or the state dict in a file, is dictionary_learning's."""
    if source.path.is_dir() and source.has("ae.pt") and "dict_class" in _trainer(source):
        return True
    return _class_of(source, source.weights) is not None


def read_dictionary_learning(source: Source) -> PlainSAE:
    """Return the dictionary that a trainer saved.

    Raises:
        FormatError: it is damaged, or of a class that is not known.
    """
    is_folder = source.path.is_dir() and source.has("ae.pt")  # other files may lie beside it
    weights = source.read("ae.pt") if is_folder else source.weights
    kind, trainer = _class_of(source, weights), _trainer(source)
    if kind == _EITHER:
        raise FormatError(
            f"{source.path} fits {kind}, and nothing says which it is. Say it: "
            "`--set dict_class=BatchTopKSAE`, or load_sae(path, dict_class=...)."
        )
    if kind is None or kind not in CLASSES:
        raise FormatError(
            f"{source.path} is of class {kind}; known are {', '.join(CLASSES)}."
            f"{near(str(kind), CLASSES)}"
        )
    parts = _matrices(weights, is_linear="encoder.weight" in weights)
    many, d_in = parts["W_enc"].shape
    parts["b_dec"] = weights.take(_BIAS.get(kind, "b_dec"), d_in)
    if kind == "GatedAutoEncoder":
        parts["b_enc"] = weights.take("gate_bias", many)
        parts |= {"r_mag": weights.take("r_mag", many), "b_mag": weights.take("mag_bias", many)}
    if CLASSES[kind] == "jumprelu":
        parts["threshold"] = _threshold(source, weights, many, kind)
    if kind not in _UNCENTRED:
        parts["centre"] = parts["b_dec"]
    lengths = parts["W_dec"].norm(dim=1)
    if kind == "AutoEncoder" and not torch.allclose(lengths, torch.ones_like(lengths)):
        measure_by_length(parts, weights.origin)  # as the library's loader does
    sae = assemble(
        **parts,  # pyright: ignore[reportArgumentType]
        activation=CLASSES[kind],
        k=source.k(weights.number("k") or trainer.get("k")) if kind == "AutoEncoderTopK" else 0,
    )
    sae.provenance = provenance_of(
        {"format": "dictionary_learning", "dict_class": kind},
        host=trainer.get("lm_name"),
        site=trainer.get("submodule_name"),
    )
    return sae


def _trainer(source: Source) -> dict[str, Any]:
    for folder in (source.folder, source.folder.parent):  # checkpoints lie a folder deeper
        config = Source(folder, {}).config() if folder.is_dir() else {}
        if isinstance(config.get("trainer"), dict):
            return config["trainer"]
    return {}


def _class_of(source: Source, weights: Weights) -> str | None:
    """Return the class, from the configuration, the owner, or names that only one class has."""
    named = source.option("dict_class") or _trainer(source).get("dict_class")
    if named is not None:
        return str(named)
    for names, kind in (
        (("decoder_bias", "gate_bias", "r_mag"), "GatedAutoEncoder"),
        (("group_sizes", "W_enc", "W_dec"), "MatryoshkaBatchTopKSAE"),
        (("bias", "encoder.weight", "decoder.weight"), "AutoEncoder"),
        (("encoder.bias", "encoder.weight", "decoder.bias"), "AutoEncoderNew"),
    ):
        if all(name in weights for name in names):
            return kind
    is_either = all(name in weights for name in ("encoder.weight", "b_dec", "k", "threshold"))
    return _EITHER if is_either else None


_EITHER = "AutoEncoderTopK or BatchTopKSAE"


def _matrices(weights: Weights, *, is_linear: bool) -> dict[str, Tensor]:
    if is_linear:
        W_enc = weights.take("encoder.weight", None, None)
        many, d_in = W_enc.shape
        parts = {"W_enc": W_enc, "W_dec": weights.take("decoder.weight", d_in, many).T}
        if "encoder.bias" in weights:
            parts["b_enc"] = weights.take("encoder.bias", many)
        return parts
    W_enc = weights.take("W_enc", None, None).T
    many, d_in = W_enc.shape
    b_enc = weights.take("b_enc", many)
    return {"W_enc": W_enc, "W_dec": weights.take("W_dec", many, d_in), "b_enc": b_enc}


def _threshold(source: Source, weights: Weights, many: int, kind: str) -> Tensor:
    if kind == "JumpReluAutoEncoder":
        return weights.take("threshold", many)
    value = weights.number("threshold")
    if value is None:
        raise FormatError(f"{source.path} has no threshold to choose firings by.")
    if value < 0:
        warnings.warn(
            f"{source.path}: its threshold was never set (it is, after 1,000 steps), so that every "
            f"positive activation fires, as with dictionary_learning's own; k is "
            f"{weights.number('k')}.",
            stacklevel=5,
        )
    return repeated(value, many)


def write_dictionary_learning(sae: PlainSAE, folder: Path, words: dict[str, Any]) -> None:
    """Write a dictionary as a trainer of dictionary_learning does.

    Raises:
        SettingsError: dictionary_learning has nothing like it.
    """
    kinds = {"relu": "AutoEncoderNew", "gated": "GatedAutoEncoder", "topk": "AutoEncoderTopK"}
    kinds["jumprelu"] = "JumpReluAutoEncoder"
    if not sae.is_autoencoder:
        refuse("dictionary_learning", sae, Refused.transcoder)
    if sae.settings.activation not in kinds:
        refuse("dictionary_learning", sae, Refused.activation)
    if sae.W_skip is not None:
        refuse("dictionary_learning", sae, Refused.skip)
    if sae.settings.normalise != "none":
        refuse("dictionary_learning", sae, Refused.normalise)
    kind = kinds[sae.settings.activation]
    sae = with_centre(sae, torch.zeros_like(sae.b_dec) if kind in _UNCENTRED else sae.b_dec)
    state: dict[str, Tensor] = {_BIAS.get(kind, "b_dec"): sae.b_dec}
    if kind == "JumpReluAutoEncoder" and sae.threshold is not None:
        state |= {"W_enc": sae.W_enc.T, "b_enc": sae.b_enc, "W_dec": sae.W_dec}
        state["threshold"] = sae.threshold
    else:
        state |= {"encoder.weight": sae.W_enc, "decoder.weight": sae.W_dec.T}
        state["gate_bias" if kind == "GatedAutoEncoder" else "encoder.bias"] = sae.b_enc
    if sae.r_mag is not None and sae.b_mag is not None:
        state |= {"r_mag": sae.r_mag, "mag_bias": sae.b_mag}
    if kind == "AutoEncoderTopK":
        state |= {"k": torch.tensor(sae.settings.k, dtype=torch.int32)}
        state |= {"threshold": torch.tensor(-1.0)}
    torch.save({name: t.detach().contiguous() for name, t in state.items()}, folder / "ae.pt")
    trainer = {
        "dict_class": kind,
        "trainer_class": "probe_sae",
        "activation_dim": sae.d_model,
        "dict_size": sae.features,
        "k": sae.settings.k,
        "lm_name": words["host"],
        "submodule_name": words["hooks"][0],
        "layer": words["layer"],
    }
    config = {"trainer": trainer, "buffer": {"ctx_len": 0}, "probe_sae": words["written"]}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
