"""Tiny random models, so that a hook map can be proven without a download."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from probe_sae.errors import EnvironmentProblem, FormatError
from probe_sae.host.config_number import config_entry
from probe_sae.host.hook_map import HookMap, TinyModel
from probe_sae.host.host import Host
from probe_sae.host.libraries import BUNDLED, optional, torchvision, transformers

TOKENS = 9
INPUTS = 2


def tiny_host(hook_map: HookMap, tiny: TinyModel, attention: str | None = None) -> Host:
    """Return a tiny random model of a hook map's family.

    Args:
        hook_map: the family's.
        tiny: one of its models.
        attention: transformers' `attn_implementation`.

    Raises:
        FormatError: the libraries here have no such model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _built(tiny, hook_map.family, attention)
        _shake(model)
    return Host(model, tiny.model, hook_map=hook_map)


def _built(tiny: TinyModel, family: str, attention: str | None) -> nn.Module:
    library, _, name = tiny.model.partition(":")
    try:
        if library in OPTIONAL:
            return OPTIONAL[library](name, tiny.config)
        if library == "torchvision":
            models = torchvision().models
            if name in models.list_models():
                return models.get_model(name, weights=None, **tiny.config)
            return _class(models, name, nn.Module)(**tiny.config)
        hugging_face = transformers()
        cls = _class(hugging_face, name, hugging_face.PreTrainedModel)
        config = cls.config_class(**tiny.config)
        if attention:
            config._attn_implementation = attention
        return cls(config)
    except (AttributeError, TypeError, ValueError, ImportError) as problem:
        raise FormatError(f"hook map {family}: cannot make {tiny.model}: {problem}") from problem


def _of_timm(name: str, config: Mapping[str, Any]) -> nn.Module:
    return optional("timm").create_model(name, pretrained=False, **config)


def _of_open_clip(name: str, config: Mapping[str, Any]) -> nn.Module:
    return _class(optional("open_clip"), name, nn.Module)(**config)


def _of_transformer_lens(name: str, config: Mapping[str, Any]) -> nn.Module:
    """Return a HookedTransformer, or a bridge to a GPT-2 that reads what the bundled one reads."""
    library = optional("transformer_lens")
    if name == "HookedTransformer":
        try:
            made = library.HookedTransformerConfig(**config, device="cpu")
        except (AttributeError, ImportError) as problem:
            raise EnvironmentProblem("HookedTransformer ended with TransformerLens 3.") from problem
        return library.HookedTransformer(made, move_to_device=False)
    hugging_face = transformers()
    folder = str(BUNDLED / "code-lm")
    model = hugging_face.GPT2LMHeadModel(hugging_face.GPT2Config(**config))
    tokenizer = hugging_face.AutoTokenizer.from_pretrained(folder)
    bridge = optional("transformer_lens.model_bridge").TransformerBridge
    return bridge.boot_transformers(folder, hf_model=model, tokenizer=tokenizer, device="cpu")


OPTIONAL = {
    "timm": _of_timm,
    "open_clip": _of_open_clip,
    "transformer_lens": _of_transformer_lens,
}
"""Libraries that probe_sae does without -> how a model of theirs is made."""


def _class(library: Any, name: str, parent: type) -> Any:
    cls = getattr(library, name)
    if not (isinstance(cls, type) and issubclass(cls, parent)):
        raise AttributeError(f"{name} is no {parent.__name__}")
    return cls


@torch.no_grad()
def _shake(model: nn.Module) -> None:
    """Move every weight a little: at their first values, scales of 0 or 1 hide what is wrong."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point():
            noise = 0.1 * torch.randn_like(tensor)
            tensor.add_(noise.abs() if name.endswith("running_var") else noise)


def example_inputs(host: Host, tiny: TinyModel | None = None) -> dict[str, Tensor]:
    """Return random inputs that a host takes, two of each.

    Args:
        host: for its config and what its towers take.
        tiny: names and shapes of the inputs, where they cannot be told from the kind.

    Raises:
        FormatError: nobody knows what the host takes.
    """
    generator = torch.Generator().manual_seed(0)
    if tiny is not None and tiny.inputs:
        return {
            name: _random(name, shape, host.config, generator)
            for name, shape in tiny.inputs.items()
        }
    shapes: dict[str, tuple[int, ...]] = {}
    kinds = [(tower.kind, tower.name) for tower in host.mapped.towers]
    if not kinds and (host.tokenizer is not None or hasattr(host.config, "vocab_size")):
        kinds = [("text", "")]
    elif not kinds and host.processor is not None:
        kinds = [("image", "")]
    for kind, tower in kinds:
        shapes |= _of_kind(kind, tower, host)
    if not shapes:
        raise FormatError(
            f"{host.name} has no hook map, tokenizer or processor, so nobody knows what it takes: "
            "give inputs, ps.check(host, inputs)."
        )
    made = {name: _random(name, shape, host.config, generator) for name, shape in shapes.items()}
    return {
        name: tensor.to(host.device, host.dtype if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in made.items()
    }


def _of_kind(kind: str, tower: str, host: Host) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of what a tower takes."""
    config = host.config
    if kind == "text":
        is_second = tower == "decoder" and getattr(config, "is_encoder_decoder", False)
        tokens = _first(config, "context_length") or TOKENS
        return {"decoder_input_ids" if is_second else "input_ids": (INPUTS, tokens)}
    if kind == "image":
        size = _first(config, "image_size", "vision_config.image_size")
        if not hasattr(config, "model_type") and hasattr(host.processor, "crop_size"):
            size = host.processor.crop_size[-1]
        height, width = size if isinstance(size, (list, tuple)) else (size or 224, size or 224)
        channels = _first(config, "num_channels", "vision_config.num_channels") or 3
        if not hasattr(config, "model_type"):
            return {host.first_input: (INPUTS, 3, height, width)}
        return {"pixel_values": (INPUTS, channels, height, width)}
    if hasattr(config, "num_mel_bins"):
        return {"input_features": (INPUTS, config.num_mel_bins, 2 * config.max_source_positions)}
    return {"input_values": (INPUTS, 4000)}


def _first(config: Any, *names: str) -> Any:
    found = (config_entry(config, name) for name in names)
    return next((value for value in found if value is not None), None)


def _random(name: str, shape: tuple[int, ...], config: Any, generator: torch.Generator) -> Tensor:
    if not name.endswith("_ids"):
        return torch.randn(shape, generator=generator)
    words = _first(config, "vocab_size", "text_config.vocab_size", "d_vocab") or 2
    return torch.randint(min(3, words - 1), words, shape, generator=generator)


def shapes_of(inputs: Mapping[str, Tensor]) -> str:
    """Return what inputs look like, for a message."""
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in inputs.items())
