"""Dictionaries of images themselves: reconstructions, and features drawn as images."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from probe_sae.sae import SAE
from probe_sae.shown import Shown
from probe_sae.store import ContextInput, Store

SHOWN = 20
"""Images whose reconstructions are kept."""
MOST_VALUES = 1 << 24
"""Features times pixels that are drawn at most."""
BINS = 50


@dataclass(frozen=True, repr=False)
class Pixels(Shown):
    """What can be drawn where a row is an image's pixels."""

    originals: NDArray[np.uint8]
    """[shown, height, width, channels]"""
    reconstructions: NDArray[np.uint8]
    """[shown, height, width, channels]"""
    labels: NDArray[np.int32]
    """[shown] class, -1 where unknown."""
    codes: NDArray[np.float32]
    """[shown, features] activations of these images."""
    directions: NDArray[np.float32]
    """[features, height, width, channels] what an activation of 1 adds to an image."""
    histogram: NDArray[np.int64]
    """[bins] all activations of the rows shown and of up to 2,048 others, bins of equal width."""
    histogram_top: NDArray[np.float32]
    """[1] upper edge of the last bin; the first begins at 0."""


@torch.no_grad()
def pixels_of(
    sae: SAE, store: Store, sites: list[str], contexts: NDArray[np.bool_]
) -> Pixels | None:
    """Return what can be drawn of a dictionary of pixels; None where its rows are something else.

    Args:
        sae: the dictionary.
        store: recorded from the host `pixels`.
        sites: which the dictionary was trained on.
        contexts: which images count, [contexts].
    """
    is_pixels = store.provenance.get("host", {}).get("name") == "pixels"
    if not is_pixels or store.is_shuffled or len(sites) != 1:
        return None
    chosen = np.flatnonzero(contexts)
    shape = _shape(next(iter(store.inputs())), sae.d_model)
    if shape is None or not len(chosen) or sae.features * sae.d_model > MOST_VALUES:
        return None
    labels = np.array([context.label for context in store.inputs()], np.int32)
    shown = _of_every_class(labels, chosen)
    rows = store[sites[0]][shown].float()
    codes = sae.encode(rows)
    more = sae.encode(store[sites[0]][chosen[:2048]].float())
    values = torch.cat([codes, more]).abs().numpy()
    counts, edges = np.histogram(values, BINS, (0.0, float(values.max()) or 1.0))
    return Pixels(
        _images(rows.numpy(), shape),
        _images(sae.reconstruct(rows, codes).numpy(), shape),
        labels[shown],
        codes.numpy().astype(np.float32),
        _upright(sae.directions().numpy().astype(np.float32), shape),
        counts.astype(np.int64),
        edges[-1:].astype(np.float32),
    )


def _shape(context: ContextInput, width: int) -> tuple[int, int, int] | None:
    """Return height, width and channels of the images; None where rows are not all their pixels."""
    if context.thumbnail is None or context.thumbnail.size != width:
        return None
    height, across, channels = context.thumbnail.shape
    return height, across, channels


def _of_every_class(labels: NDArray[np.int32], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return some of the chosen images, as many of each class, classes in order."""
    classes = np.unique(labels[chosen])
    each = max(1, SHOWN // len(classes))
    found = [chosen[labels[chosen] == label][:each] for label in classes]
    return np.concatenate(found)[:SHOWN]


def _images(rows: NDArray[np.float32], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    upright = _upright(rows, shape)
    return (upright.clip(0, 1) * 255).round().astype(np.uint8)


def _upright(rows: NDArray[np.float32], shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Return rows, channel by channel, as [rows, height, width, channels]."""
    height, width, channels = shape
    return np.ascontiguousarray(rows.reshape(-1, channels, height, width).transpose(0, 2, 3, 1))
