"""Batches of contexts as a host takes them, with which of its positions are rows."""

from collections.abc import Iterator
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
from probe_sae.recording.documents import documents, pictures
from probe_sae.recording.recipe import Recipe
from probe_sae.store import ContextInput

T = TypeVar("T")
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


def batches(
    host: Host, recipe: Recipe, *, max_length: int = 256, batch_size: int = 32
) -> Iterator[Batch]:
    """Yield a recipe's contexts in batches, always the same in the same order.

    Args:
        host: which tokenises or preprocesses them.
        recipe: where they come from.
        max_length: tokens of a context at most, special ones included.
        batch_size: contexts in a batch.

    Raises:
        DatasetError: the recipe does not fit the host, cannot be read, or is empty.
    """
    if host.kind == "text":
        return _text_batches(host, recipe, max_length, batch_size)
    return _image_batches(host, recipe, batch_size)


def _text_batches(host: Host, recipe: Recipe, max_length: int, size: int) -> Iterator[Batch]:
    special = np.array(sorted(host.tokenizer.all_special_ids), dtype=np.int64)
    for group in _groups(_contexts(host, recipe, max_length), size):
        contexts = group
        longest = max(len(tokens_of(context)) for context in contexts)
        ids = np.zeros((len(contexts), longest), np.int64)
        mask = np.zeros_like(ids)
        positions = np.zeros_like(ids)
        for i, context in enumerate(contexts):
            tokens = tokens_of(context)
            ids[i, : len(tokens)], mask[i, : len(tokens)] = tokens, 1
            is_text = ~np.isin(tokens, special)
            positions[i, : len(tokens)] = context.start + np.cumsum(is_text) - 1
        keep = (mask == 1) & ~np.isin(ids, special)
        inputs = {
            "input_ids": torch.from_numpy(ids).to(host.device),
            "attention_mask": torch.from_numpy(mask).to(host.device),
        }
        labels = torch.full((len(contexts),), -1)
        yield Batch(inputs, contexts, torch.from_numpy(keep).to(host.device), positions, labels)


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


def _contexts(host: Host, recipe: Recipe, max_length: int) -> Iterator[ContextInput]:
    """Yield runs of at most `max_length` tokens; each begins with BOS where there is one."""
    tokenizer: Any = host.tokenizer
    limit = getattr(host.config, "max_position_embeddings", None) or max_length
    max_length = min(max_length, limit)
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    room = max_length - len(bos)
    if room < 1:
        raise DatasetError(f"--max-length {max_length} leaves no room for text; expected over 1.")
    index = 0
    for document in documents(recipe):
        ids = tokenizer(document.text, add_special_tokens=False, verbose=False)["input_ids"]
        for start in range(0, len(ids), room):
            tokens = np.array([*bos, *ids[start : start + room]], dtype=np.int32)
            yield ContextInput(index, document.index, document.name, start, tokens)
            index += 1


def _image_batches(host: Host, recipe: Recipe, size: int) -> Iterator[Batch]:
    for group in _groups(pictures(recipe), size):
        inputs = host.image_inputs([picture.pixels for picture in group])
        thumbnails = _thumbnails(next(iter(inputs.values())), host.processor)
        contexts = [
            ContextInput(p.index, p.index, p.name, 0, None, thumbnails[i], p.label)
            for i, p in enumerate(group)
        ]
        labels = torch.tensor([picture.label for picture in group])
        yield Batch(inputs, contexts, None, None, labels)


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
