"""EleutherAI/sparsify: `cfg.json` and `sae.safetensors` of each hookpoint.

Rows of W_dec are directions; a transcoder does not subtract b_dec. Read in sparsify 1.3.3.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from probe_sae.errors import FormatError
from probe_sae.interop.refusing import Refused, refuse
from probe_sae.interop.source import Source, assemble, provenance_of
from probe_sae.interop.values import whole
from probe_sae.sae import PlainSAE, with_centre

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"


def is_sparsify(source: Source) -> bool:
    """Return whether a folder is one of sparsify's hookpoints."""
    return source.has(CONFIG, WEIGHTS)


def read_sparsify(source: Source) -> PlainSAE:
    """Return the dictionary in a folder of sparsify.

    Raises:
        FormatError: it is damaged, or chooses its firings in a way that is not read.
    """
    config, weights = source.config(CONFIG), source.read(WEIGHTS)
    if config.get("signed"):
        raise FormatError(f"{source.path} is signed: its firings may be negative; not read.")
    d_in = whole(config.get("d_in"), f"{source.path}: d_in")
    many = config.get("num_latents") or d_in * whole(
        config.get("expansion_factor"), f"{source.path}: num_latents or expansion_factor"
    )
    many, activation = whole(many, f"{source.path}: num_latents"), config.get("activation", "topk")
    if activation not in ("topk", "groupmax"):
        raise FormatError(f"{source.path}: activation is {activation!r}; known: topk, groupmax.")
    b_dec = weights.take("b_dec", d_in)
    is_transcoder = bool(config.get("transcode"))
    sae = assemble(
        weights.take("encoder.weight", many, d_in),
        weights.take("encoder.bias", many),
        weights.take("W_dec", many, d_in),
        b_dec,
        activation=activation,
        k=source.k(config.get("k")),
        is_transcoder=is_transcoder,
        centre=None if is_transcoder else b_dec,
        W_skip=weights.take("W_skip", d_in, d_in) if "W_skip" in weights else None,
    )
    run = source.folder.parent / "config.json"
    host = Source(run, {}).config().get("model") if run.is_file() else None
    sae.provenance = provenance_of({"format": "sparsify"}, host=host, site=source.folder.name)
    return sae


def write_sparsify(sae: PlainSAE, folder: Path, words: dict[str, Any]) -> None:
    """Write a dictionary as sparsify does.

    Raises:
        SettingsError: sparsify has nothing like it.
    """
    settings = sae.settings
    if settings.activation not in ("topk", "groupmax"):
        refuse("sparsify", sae, Refused.activation)
    if settings.normalise != "none":
        refuse("sparsify", sae, Refused.normalise)
    if sae.d_model != sae.d_out:
        refuse("sparsify", sae, Refused.widths)
    sae = with_centre(sae, sae.b_dec if sae.is_autoencoder else torch.zeros_like(sae.centre))
    tensors = {"encoder.weight": sae.W_enc, "encoder.bias": sae.b_enc, "W_dec": sae.W_dec}
    tensors["b_dec"] = sae.b_dec
    if sae.W_skip is not None:
        tensors["W_skip"] = sae.W_skip
    save_file({name: t.detach().contiguous() for name, t in tensors.items()}, folder / WEIGHTS)
    config = {
        "activation": settings.activation,
        "expansion_factor": max(1, sae.features // sae.d_model),
        "normalize_decoder": False,
        "num_latents": sae.features,
        "k": settings.k,
        "multi_topk": False,
        "skip_connection": sae.W_skip is not None,
        "transcode": not sae.is_autoencoder,
        "d_in": sae.d_model,
        "probe_sae": words["written"],
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=1))
