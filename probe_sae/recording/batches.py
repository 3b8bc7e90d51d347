"""Batches of contexts as a host takes them, with which of its positions are rows."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from probe_sae.errors import DatasetError
from probe_sae.host import Host
from probe_sae.recording.contexts import TextContext, text_contexts
from probe_sae.recording.documents import Picture, pictures
from probe_sae.recording.recipe import Recipe
from probe_sae.store import ContextInput

T = TypeVar("T")
Arrange = Callable[[Iterator[tuple[int, Any]]], Iterator[tuple[int, Any]]]
"""Takes numbered contexts in the recipe's order and gives those that are wanted, in its own."""
THUMBNAIL = 112
"""Longest side of a stored thumbnail, in pixels."""


@dataclass(frozen=True)
class Batch:
    """Some contexts, ready for the host."""

    inputs: dict[str, Tensor]
    contexts: list[ContextInput]
    keep: Tensor | None
    """Text: which positions are rows, [batch, tokens] bool: no padding, no special tokens."""
    positions: NDArray[np.int64] | None
    """Text: place in its document of each position, [batch, tokens]."""
    labels: Tensor
    """[batch] classes of images, -1 where unknown."""
    documents: NDArray[np.int64] | None = None
    """Packed text: the document of each position, [batch, tokens]."""


def batches(
    host: Host,
    recipe: Recipe,
    *,
    max_length: int = 256,
    batch_size: int = 32,
    stride: int | None = None,
    pack: bool = False,
    arrange: Arrange | None = None,
) -> Iterator[Batch]:
    """Yield a recipe's contexts in batches, always the same in the same order.

    Text is padded on the right, so that no position moves.

    Args:
        host: which tokenises or preprocesses them.
        recipe: where they come from.
        max_length: tokens of a context at most, special ones included.
        batch_size: contexts in a batch.
        stride: tokens from one context's beginning to the next's; see `text_contexts`.
        pack: fill contexts with several documents.
        arrange: chooses among the contexts and puts them in another order.

    Raises:
        DatasetError: the recipe does not fit the host, cannot be read, or is empty.
        SettingsError: the stride is out of range.
    """
    check_kind(host, recipe)
    if recipe.kind == "text":
        contexts = text_contexts(host, recipe, max_length=max_length, stride=stride, pack=pack)
        texts = ((context.input.index, context) for context in contexts)
        return (
            _text_batch(host, group) for group in _groups(_arranged(texts, arrange), batch_size)
        )
    images = ((picture.index, picture) for picture in pictures(recipe))
    return (_image_batch(host, group) for group in _groups(_arranged(images, arrange), batch_size))


def check_kind(host: Host, recipe: Recipe) -> None:
    """Check that a host takes what a recipe gives.

    Raises:
        DatasetError: it lacks what prepares such inputs.
    """
    if recipe.kind in host.kinds:
        return
    needs = "tokenizer" if recipe.kind == "text" else "processor"
    raise DatasetError(
        f"dataset {recipe.name} holds {recipe.kind}s, but {host.name} has no {needs} for them: "
        f"give one, load_host(…, {needs}=…)."
    )


def _arranged(items: Iterator[tuple[int, T]], arrange: Arrange | None) -> Iterator[T]:
    return (item for _, item in (items if arrange is None else arrange(items)))


def as_recorded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `batches` that a store's provenance holds."""
    names = ("max_length", "batch_size", "stride", "pack")
    return {name: settings[name] for name in names if name in settings}


def _text_batch(host: Host, group: list[TextContext]) -> Batch:
    longest = max(len(context.is_row) for context in group)
    shape = (len(group), longest)
    pad = host.tokenizer.pad_token_id
    ids = np.full(shape, 0 if pad is None else pad, np.int64)
    mask, positions, documents = (np.zeros(shape, np.int64) for _ in range(3))
    keep = np.zeros(shape, np.bool_)
    for i, context in enumerate(group):
        tokens = tokens_of(context.input)
        place = (i, slice(0, len(tokens)))
        ids[place], mask[place], keep[place] = tokens, 1, context.is_row
        positions[place] = context.positions
        documents[place] = (
            context.input.document if context.documents is None else context.documents
        )
    inputs = {
        "input_ids": torch.from_numpy(ids).to(host.device),
        "attention_mask": torch.from_numpy(mask).to(host.device),
    }
    is_packed = any(context.documents is not None for context in group)
    return Batch(
        inputs,
        [context.input for context in group],
        torch.from_numpy(keep),
        positions,
        torch.full((len(group),), -1),
        documents if is_packed else None,
    )


def _groups(items: Iterator[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items, the last perhaps shorter."""
    while group := list(islice(items, size)):
        yield group


def tokens_of(context: ContextInput) -> NDArray[np.int32]:
    """Return the tokens of a text context.

    Raises:
        DatasetError: it is an image.
    """
    if context.tokens is None:
        raise DatasetError(f"{context.name} is an image, not text.")
    return context.tokens


def _image_batch(host: Host, group: list[Picture]) -> Batch:
    inputs = host.image_inputs([picture.pixels for picture in group])
    thumbnails = _thumbnails(next(iter(inputs.values())), host.processor)
    contexts = [
        ContextInput(p.index, p.index, p.name, 0, None, thumbnails[i], p.label)
        for i, p in enumerate(group)
    ]
    labels = torch.tensor([picture.label for picture in group])
    return Batch(inputs, contexts, None, None, labels)


def _thumbnails(pixel_values: Tensor, processor: Any) -> NDArray[np.uint8]:
    """Return what the host sees as uint8 images, so that heat maps lie where they belong.

    Args:
        pixel_values: [batch, channels, height, width], normalised.
        processor: where mean and standard deviation of the normalisation are known from.
    """
    pixels = pixel_values.detach().float().cpu()
    mean, std = _normalisation(processor)
    if mean is not None and std is not None and len(mean) == pixels.shape[1]:
        pixels = pixels * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    longest = max(pixels.shape[2:])
    if longest > THUMBNAIL:
        size = [max(1, round(side * THUMBNAIL / longest)) for side in pixels.shape[2:]]
        pixels = interpolate(pixels, size=size, mode="area")
    return (pixels.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def _normalisation(processor: Any) -> tuple[list[float] | None, list[float] | None]:
    if processor is None:
        return None, None
    if hasattr(processor, "image_mean"):
        if not getattr(processor, "do_normalize", True):
            return None, None
        return processor.image_mean, processor.image_std
    return getattr(processor, "mean", None), getattr(processor, "std", None)
