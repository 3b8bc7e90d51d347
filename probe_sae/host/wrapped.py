"""Get the plain module, tokenizer and preprocessing out of what other libraries wrap a model in.

Nothing of these libraries is imported: a wrapper is told by where its class comes from.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from probe_sae.errors import HostNotFound

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


@dataclass(frozen=True)
class Unwrapped:
    """What was in a wrapper."""

    model: nn.Module
    tokenizer: Any
    processor: Any
    wrappers: tuple[str, ...]
    """Names of the classes that were taken off, outermost first."""


@dataclass(frozen=True)
class Preprocessing:
    """A transform of pictures (PIL) as a host takes it: of [channels, height, width] uint8."""

    transform: Callable[[Any], Tensor]
    crop_size: tuple[int, ...]
    """Height and width of what the model takes."""

    def __call__(self, image: Tensor) -> Tensor:
        """Return what the model takes, [3, height, width]."""
        from torchvision.transforms.functional import to_pil_image

        return self.transform(to_pil_image(image).convert("RGB"))


def unwrapped(given: Any, name: str) -> Unwrapped:
    """Return the plain module in what may be wrapped, several times over.

    Knows torch.compile, DataParallel and its kin, PEFT, transformers' pipelines and nnsight, whose
    model is loaded if it was not yet. Adapters of PEFT stay in place, and active.

    Raises:
        HostNotFound: there is no module in it, or none that runs as the whole does.
    """
    inner, wrappers = given, list[str]()
    tokenizer: Any = None
    processor: Any = None
    while (found := _inside(inner, name)) is not None:
        wrappers.append(type(inner).__name__)
        tokenizer = tokenizer or getattr(inner, "tokenizer", None)
        processor = processor or getattr(inner, "image_processor", None)
        inner = found
    if not isinstance(inner, nn.Module):
        raise HostNotFound(
            f"{name} is a {type(inner).__name__}; expected an nn.Module, or one that is wrapped by "
            "nnsight, a transformers pipeline, PEFT, torch.compile or DataParallel."
        )
    if is_transformer_lens(inner):
        tokenizer = tokenizer or getattr(inner, "tokenizer", None)
    return Unwrapped(inner, tokenizer, processor or preprocessing_of(inner), tuple(wrappers))


def is_transformer_lens(model: Any) -> bool:
    """Tell whether a model is one of TransformerLens' own, old (HookedTransformer) or new."""
    return "transformer_lens" in _libraries(model)


def config_of(model: nn.Module) -> Any:
    """Return what tells a model's sizes: its configuration, or for some libraries the model.

    None where it has none.
    """
    if is_transformer_lens(model):
        return getattr(model, "cfg", None)
    if {"timm", "open_clip"} & _libraries(model):
        return model
    return getattr(model, "config", None)


def preprocessing_of(model: nn.Module) -> Preprocessing | None:
    """Return timm's or open_clip's preprocessing of a model of theirs; None for any other."""
    if "timm" in _libraries(model) and hasattr(model, "pretrained_cfg"):
        from timm.data import create_transform, resolve_model_data_config  # pyright: ignore

        data: dict[str, Any] = resolve_model_data_config(model)
        transform: Any = create_transform(**data, is_training=False)
        return Preprocessing(transform, tuple(data["input_size"][-2:]))
    visual: Any = getattr(model, "visual", model)
    settings: Any = getattr(visual, "preprocess_cfg", None)
    if "open_clip" in _libraries(model) and isinstance(settings, dict):
        from open_clip.transform import PreprocessCfg, image_transform_v2  # pyright: ignore

        wanted: Any = PreprocessCfg(**settings)
        size: Any = wanted.size
        sizes = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
        return Preprocessing(image_transform_v2(wanted, is_train=False), sizes)
    return None


def _inside(given: Any, name: str) -> Any:
    """Return what a wrapper is around; None where it is none."""
    libraries = _libraries(given)
    if isinstance(given, _PARALLEL):
        return given.module
    if isinstance(given, nn.Module) and hasattr(given, "_orig_mod"):
        return getattr(given, "_orig_mod")  # noqa: B009  (a module's attributes are untyped)
    if "nnsight" in libraries and not isinstance(given, nn.Module):
        if getattr(given, "dispatched", True) is False:
            given.dispatch()
        return getattr(given, "_module", None)
    if "peft" in libraries and hasattr(given, "get_base_model"):
        if getattr(getattr(given, "active_peft_config", None), "is_prompt_learning", False):
            raise HostNotFound(
                f"{name} puts virtual tokens before the text (PEFT's prompt learning), so that "
                "rows would belong to other tokens; only adapters of weights (LoRA) can be taken."
            )
        return getattr(given, "get_base_model")()  # noqa: B009
    if "transformers" in libraries and not isinstance(given, nn.Module):
        return getattr(given, "model", None)
    return None


def _libraries(given: Any) -> set[str]:
    """Return the packages that an object's class and its parents come from."""
    return {cls.__module__.partition(".")[0] for cls in type(given).__mro__}
