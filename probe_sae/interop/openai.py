"""OpenAI's sparse_autoencoder: a state dict whose TopK brings rows to mean 0 and deviation 1."""

from pathlib import Path
from typing import Any

import torch

from probe_sae.errors import FormatError
from probe_sae.interop.refusing import Refused, refuse
from probe_sae.interop.source import Source, assemble, provenance_of
from probe_sae.sae import PlainSAE, with_centre

WEIGHTS = "autoencoder.pt"


def is_openai(source: Source) -> bool:
    """Return whether a file is a state dict of OpenAI's."""
    return "pre_bias" in source.weights and "latent_bias" in source.weights


def read_openai(source: Source) -> PlainSAE:
    """Return the dictionary in a state dict of OpenAI's.

    Raises:
        FormatError: it is damaged, or of an activation that is not read.
    """
    weights = source.weights
    W_enc = weights.take("encoder.weight", None, None)
    many, d_in = W_enc.shape
    tied = "decoder.linear.weight"
    if tied in weights:
        W_dec = weights.take(tied, many, d_in)
    else:
        W_dec = weights.take("decoder.weight", d_in, many).T
    kind, state = weights.tensors.get("activation", "ReLU"), {}
    found: Any = weights.tensors.get("activation_state_dict")
    if isinstance(found, dict):
        state = found
    if kind not in ("ReLU", "TopK") or state.get("postact_fn", "ReLU") != "ReLU":
        raise FormatError(f"{source.path} has features of {kind} {state}, which are not read.")
    is_topk = kind == "TopK"
    sae = assemble(
        W_enc,
        weights.take("latent_bias", many),
        W_dec,
        weights.take("pre_bias", d_in),
        activation="topk" if is_topk else "relu",
        k=source.k(state.get("k")) if is_topk else 0,
        normalise="layer_norm" if is_topk else "none",
        centre=weights.take("pre_bias", d_in),
    )
    sae.provenance = provenance_of({"format": "openai"})
    return sae


def write_openai(sae: PlainSAE, folder: Path, words: dict[str, Any]) -> None:
    """Write a state dict that OpenAI's `Autoencoder.from_state_dict` takes.

    Raises:
        SettingsError: OpenAI's has nothing like it.
    """
    kind = sae.settings.activation
    if not sae.is_autoencoder:
        refuse("OpenAI's sparse_autoencoder", sae, Refused.transcoder)
    if kind not in ("relu", "topk"):
        refuse("OpenAI's sparse_autoencoder", sae, Refused.activation)
    if sae.W_skip is not None:
        refuse("OpenAI's sparse_autoencoder", sae, Refused.skip)
    if kind == "relu" and sae.settings.normalise != "none":
        refuse("OpenAI's sparse_autoencoder", sae, Refused.normalise)
    if kind == "topk" and sae.settings.normalise != "layer_norm":
        refuse("OpenAI's sparse_autoencoder", sae, Refused.must_normalise)
    sae = with_centre(sae, sae.b_dec)
    state: dict[str, Any] = {
        "pre_bias": sae.b_dec.detach(),
        "encoder.weight": sae.W_enc.detach(),
        "latent_bias": sae.b_enc.detach(),
        "decoder.weight": sae.W_dec.detach().T.contiguous(),
        "stats_last_nonzero": torch.zeros(sae.features, dtype=torch.int64),
        "latents_activation_frequency": torch.ones(sae.features),
        "latents_mean_square": torch.zeros(sae.features),
        "activation": "TopK" if kind == "topk" else "ReLU",
    }
    if kind == "topk":
        state["activation_state_dict"] = {"k": sae.settings.k, "postact_fn": "ReLU"}
    torch.save(state, folder / WEIGHTS)
