"""Gemma Scope 1 (`params.npz`) and 2 (`params.safetensors`): JumpReLU, nothing subtracted."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from probe_sae.errors import FormatError
from probe_sae.interop.refusing import Refused, refuse
from probe_sae.interop.source import Source, assemble, provenance_of
from probe_sae.sae import PlainSAE, with_centre

_NAMES = ("w_enc", "w_dec", "b_enc", "b_dec", "threshold")
_TRANSCODERS = re.compile(r"(google[_-]+)?gemma-scope-(.*-)?transcoders|transcoders?(_all)?")
"""What releases call a repository, or a folder in it, of transcoders."""
_LAYER = re.compile(r"layer_\d")
"""What a folder of a layer's is called; that of the embeddings has none."""


def is_gemma_scope(source: Source) -> bool:
    """Return whether a file has Gemma Scope's five arrays."""
    names = {name.lower() for name in source.weights.tensors}
    return names.issuperset(_NAMES) and "group_sizes" not in names and _trainerless(source)


def _trainerless(source: Source) -> bool:
    return "trainer" not in source.config()  # dictionary_learning has the same names


def read_gemma_scope(source: Source) -> PlainSAE:
    """Return a dictionary or transcoder of Gemma Scope.

    Raises:
        FormatError: it is damaged, or reconstructs several layers.
    """
    weights, config = source.weights, source.config()
    called = {name.lower(): name for name in weights.tensors}
    if weights.tensors[called["w_dec"]].ndim == 3:
        raise FormatError(f"{source.path} reconstructs several layers at once, which is not read.")
    factor = weights.tensors["scaling_factor"] if "scaling_factor" in weights else torch.ones(())
    if not torch.allclose(factor.float(), torch.ones(())):
        raise FormatError(f"{source.path} has a scaling_factor other than 1, which is not read.")
    W_enc = weights.take(called["w_enc"], None, None).T
    many, d_in = W_enc.shape
    W_dec = weights.take(called["w_dec"], many, None)
    d_out = W_dec.shape[1]
    is_transcoder = bool(
        source.option("transcoder")
        or d_in != d_out
        or config.get("hf_hook_point_out")
        or "affine_skip_connection" in weights
        or _is_called_transcoder(source)
    )
    if _is_called_embedding(source):  # SAELens undoes it likewise
        W_enc, W_dec = W_enc / d_in**0.5, W_dec * d_in**0.5
    skip = None
    if "affine_skip_connection" in weights:
        skip = weights.take("affine_skip_connection", d_in, d_out).T
    sae = assemble(
        W_enc,
        weights.take(called["b_enc"], many),
        W_dec,
        weights.take(called["b_dec"], d_out),
        activation="jumprelu",
        is_transcoder=is_transcoder,
        threshold=weights.take(called["threshold"], many),
        W_skip=skip,
    )
    sae.provenance = provenance_of(
        {"format": "gemma_scope"},
        host=config.get("model_name"),
        site=config.get("hf_hook_point_in"),
        site_out=config.get("hf_hook_point_out"),
    )
    return sae


def _is_called_transcoder(source: Source) -> bool:
    """Return whether the owner, or else a name, says that it reconstructs another site."""
    release, said = source.release, source.option("transcoder")
    if said is not None:
        return bool(said)
    for name in release.names:
        if _TRANSCODERS.fullmatch(name) or (release.is_published and "transcoder" in name.lower()):
            release.say(
                f"read as a transcoder, as {name} has it. Where it is none, say it: "
                "`--set transcoder=false`, or `load_sae(path, transcoder=False)`."
            )
            return True
    return False


def _is_called_embedding(source: Source) -> bool:
    """Return whether a name says that it was trained on embeddings times sqrt(d_model)."""
    names = source.release.names
    if "embedding" not in names or any(_LAYER.match(name) for name in names):
        return False
    source.release.say(
        "read as Gemma Scope's dictionary of embeddings, whose rows were scaled by sqrt(d_model), "
        "as the folder embedding has it. Where it is none, call the folder otherwise."
    )
    return True


def write_gemma_scope(sae: PlainSAE, folder: Path, words: dict[str, Any]) -> None:
    """Write `params.npz`; for transcoders `params.safetensors` and `config.json`.

    Raises:
        SettingsError: Gemma Scope has nothing like it.
    """
    if sae.settings.activation not in ("jumprelu", "relu"):
        refuse("Gemma Scope", sae, Refused.activation)
    if sae.settings.normalise != "none":
        refuse("Gemma Scope", sae, Refused.normalise)
    if sae.is_autoencoder and sae.W_skip is not None:
        refuse("Gemma Scope", sae, Refused.skip)
    sae = with_centre(sae, torch.zeros_like(sae.centre))
    threshold = torch.zeros(sae.features) if sae.threshold is None else sae.threshold
    tensors = {"W_enc": sae.W_enc.T, "W_dec": sae.W_dec, "b_enc": sae.b_enc, "b_dec": sae.b_dec}
    tensors = {name: t.detach().contiguous() for name, t in tensors.items()}
    tensors["threshold"] = threshold.detach().contiguous()
    config: dict[str, Any] = {
        "architecture": "jump_relu",
        "model_name": words["host"],
        "hf_hook_point_in": words["hooks"][0],
        "probe_sae": words["written"],
    }
    if sae.is_autoencoder:
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
        np.savez(folder / "params.npz", **arrays)
    else:
        tensors = {name.lower(): tensor for name, tensor in tensors.items()}
        if sae.W_skip is not None:
            tensors["affine_skip_connection"] = sae.W_skip.detach().T.contiguous()
        save_file(tensors, folder / "params.safetensors")
        config |= {"hf_hook_point_out": words["hooks"][-1]}
        config["affine_connection"] = sae.W_skip is not None
    (folder / "config.json").write_text(json.dumps(config, indent=1))
