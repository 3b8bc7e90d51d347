"""Published dictionaries in layouts of their own: Llama Scope, Goodfire, Qwen Scope, and more."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probe_sae.errors import FormatError
from probe_sae.interop.reading import Weights
from probe_sae.interop.source import Source, assemble, provenance_of, repeated
from probe_sae.interop.values import number, positive
from probe_sae.sae import PlainSAE

_MOST_LOGARITHM = 700.0
"""Its exponential is too large for a weight, but not for Python, which would raise."""


def is_llama_scope(source: Source) -> bool:
    """Return whether a folder is Llama Scope's: `hyperparams.json` and `checkpoints/`."""
    return source.has("hyperparams.json", "checkpoints/final.safetensors")


def read_llama_scope(source: Source) -> PlainSAE:
    """Return a dictionary of Llama Scope, whose rows had a mean length of sqrt(d_model).

    Raises:
        FormatError: it is damaged.
    """
    config = source.config("hyperparams.json")
    weights = source.read("checkpoints/final.safetensors")
    linear = _linear(weights)
    lengths: Any = config.get("dataset_average_activation_norm")
    length = lengths.get("in") if isinstance(lengths, dict) else lengths
    length = positive(length, f"{source.path}: dataset_average_activation_norm.in")
    threshold = number(config.get("jump_relu_threshold"), f"{source.path}: jump_relu_threshold")
    scale = linear[0].shape[1] ** 0.5 / length
    # the published threshold is of unscaled pre-activations: SAELens multiplies it with the scale
    limits = repeated(threshold * scale, len(linear[0]))
    sae = _jumping(linear, scale, limits)
    sae.provenance = provenance_of({"format": "llama_scope"}, site=config.get("hook_point_in"))
    return sae


def is_llama_scope_2(source: Source) -> bool:
    """Return whether a file has a logarithm of thresholds, as later dictionaries of OpenMoss."""
    return "log_jumprelu_threshold" in source.weights


def read_llama_scope_2(source: Source) -> PlainSAE:
    """Return a later dictionary of OpenMoss.

    Raises:
        FormatError: it is damaged, or does not say how its rows were scaled.
    """
    weights, config = source.weights, source.config()
    linear = _linear(weights)
    hook = config.get("hook_point_in")
    length = weights.number(f"dataset_average_activation_norm.{hook}")
    if config.get("norm_activation") in ("dataset-wise", None) and length is None:
        raise FormatError(
            f"{source.path} does not say how long the rows were that it was trained on "
            "(dataset_average_activation_norm); its codes cannot be known."
        )
    scale = 1.0
    if length is not None:
        length = positive(length, f"{source.path}: dataset_average_activation_norm")
        scale = linear[0].shape[1] ** 0.5 / length
    limits = weights.take("log_jumprelu_threshold", len(linear[0])).exp()
    sae = _jumping(linear, scale, limits)
    sae.provenance = provenance_of({"format": "llama_scope_2"}, site=hook)
    return sae


def is_goodfire(source: Source) -> bool:
    """Return whether a file is one of Goodfire's."""
    return "encoder_linear.weight" in source.weights


def read_goodfire(source: Source) -> PlainSAE:
    """Return a dictionary of Goodfire: ReLU, nothing subtracted.

    Raises:
        FormatError: it is damaged.
    """
    sae = assemble(*_linear(source.weights, "encoder_linear", "decoder_linear"))
    sae.provenance = provenance_of({"format": "goodfire"})
    return sae


def is_qwen_scope(source: Source) -> bool:
    """Return whether a file of torch has the four names that a layer of Qwen Scope has."""
    names = ("W_enc", "W_dec", "b_enc", "b_dec")
    is_torch = source.file is not None and source.file.suffix in (".pt", ".pth")
    return is_torch and set(source.weights.tensors) == set(names)


def read_qwen_scope(source: Source) -> PlainSAE:
    """Return a layer of Qwen Scope: TopK, k in the repository's name, nothing subtracted.

    Raises:
        FormatError: it is damaged, or nothing says what k is.
    """
    weights = source.weights
    W_enc = weights.take("W_enc", None, None)
    many, d_in = W_enc.shape
    sae = assemble(
        W_enc,
        weights.take("b_enc", many),
        weights.take("W_dec", d_in, many).T,
        weights.take("b_dec", d_in),
        activation="topk",
        k=source.k(),
    )
    sae.provenance = provenance_of({"format": "qwen_scope"})
    return sae


def is_circuit_tracer(source: Source) -> bool:
    """Return whether a safetensors file has a transcoder's names, encoder rows first."""
    names = {"W_enc", "W_dec", "b_enc", "b_dec"}
    there = set(source.weights.tensors)
    return _is_safetensors(source.file) and names <= there <= names | {"W_skip"}


def _is_safetensors(file: Path | None) -> bool:
    return file is not None and file.suffix == ".safetensors"


def read_circuit_tracer(source: Source) -> PlainSAE:
    """Return a ReLU transcoder of circuit-tracer.

    There are files whose W_dec is [features, d], and others; where the sizes differ, they tell.

    Raises:
        FormatError: it is damaged, or as many features as dimensions leave it open.
    """
    weights = source.weights
    W_enc = weights.take("W_enc", None, None)
    many, d_in = W_enc.shape
    b_enc, b_dec = weights.take("b_enc", many), weights.take("b_dec", None)
    d_out = len(b_dec)
    if many == d_out:
        raise FormatError(
            f"{source.path} has as many features as dimensions, {many}: whether W_dec is "
            "[features, d] or [d, features] cannot be told."
        )
    is_rows = weights.tensors["W_dec"].shape[0] == many
    W_dec = weights.take("W_dec", many, d_out) if is_rows else weights.take("W_dec", d_out, many).T
    skip = weights.take("W_skip", d_out, d_in) if "W_skip" in weights else None
    sae = assemble(W_enc, b_enc, W_dec, b_dec, is_transcoder=True, W_skip=skip)
    sae.provenance = provenance_of({"format": "circuit_tracer"})
    return sae


def is_overcomplete(source: Source) -> bool:
    """Return whether a file is a state dict of overcomplete's."""
    return "dictionary._weights" in source.weights


def read_overcomplete(source: Source) -> PlainSAE:
    """Return a dictionary of overcomplete with a linear encoder; its directions have length 1.

    Raises:
        FormatError: it is damaged, normalises its batches, or nothing says what chooses firings.
    """
    weights, first = source.weights, "encoder.final_block.0"
    directions = weights.take("dictionary._weights", None, None)
    many, d_in = directions.shape
    extra = [name for name in weights.tensors if name.startswith("encoder.") and first not in name]
    if extra or f"{first}.weight" not in weights:
        raise FormatError(f"{source.path} has more than a linear encoder ({extra}); not read.")
    activation = source.option("activation")
    if activation not in ("relu", "topk"):
        raise FormatError(
            f"{source.path} does not say what chooses its firings; say it: "
            "`--set activation=relu`, or `--set activation=topk --set k=32`."
        )
    multiplier = min(weights.number("dictionary.multiplier") or 0.0, _MOST_LOGARITHM)
    lengths = directions.norm(dim=1, keepdim=True).clamp_min(1e-12)
    sae = assemble(
        weights.take(f"{first}.weight", many, d_in),
        weights.take(f"{first}.bias", many),
        directions / lengths * 2.718281828459045**multiplier,
        torch.zeros(d_in),
        activation=activation,
        k=source.k() if activation == "topk" else 0,
    )
    sae.provenance = provenance_of({"format": "overcomplete"})
    return sae


def _linear(
    weights: Weights, encoder: str = "encoder", decoder: str = "decoder"
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return W_enc, b_enc, W_dec, b_dec of two linear layers, [out, in] each."""
    W_enc = weights.take(f"{encoder}.weight", None, None)
    many, d_in = W_enc.shape
    return (
        W_enc,
        weights.take(f"{encoder}.bias", many),
        weights.take(f"{decoder}.weight", d_in, many).T,
        weights.take(f"{decoder}.bias", d_in),
    )


def _jumping(
    linear: tuple[Tensor, Tensor, Tensor, Tensor], scale: float, threshold: Tensor
) -> PlainSAE:
    """Return a JumpReLU dictionary for raw rows, of weights for rows times a scale."""
    W_enc, b_enc, W_dec, b_dec = linear
    return assemble(
        W_enc * scale,
        b_enc,
        W_dec / scale,
        b_dec / scale,
        activation="jumprelu",
        threshold=threshold,
    )
