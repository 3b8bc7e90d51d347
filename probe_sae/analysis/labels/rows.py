"""What labels are learned from: a sample of each feature's firings, and a sample of all rows.

Contexts are cut in two halves by a hash: rules are found on one and scored on the other, so that
no context is on both sides.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe_sae.errors import ShapeError
from probe_sae.shown import Shown


@dataclass(frozen=True, repr=False)
class SampledFirings(Shown):
    """A uniform sample of each feature's firings, at most some 100 of each, sorted by feature."""

    feature: NDArray[np.int64]
    """[firings]"""
    context: NDArray[np.int64]
    """[firings] index into the inputs."""
    position: NDArray[np.int64]
    """[firings] place in the context: token, special ones counted, or y * grid width + x."""
    value: NDArray[np.float32]
    """[firings] the activation."""


@dataclass(frozen=True, repr=False)
class BackgroundRows(Shown):
    """A uniform sample of all rows, and which features fire on each."""

    context: NDArray[np.int64]
    """[rows] index into the inputs."""
    position: NDArray[np.int64]
    """[rows] place in the context, as of `SampledFirings`."""
    offsets: NDArray[np.int64]
    """[rows + 1] where each row's features start in `feature`."""
    feature: NDArray[np.int64]
    """[entries] the features that fire, row after row."""

    def row_of_entry(self) -> NDArray[np.int64]:
        """Return the row of each entry of `feature`, [entries]."""
        return np.repeat(np.arange(len(self.context)), np.diff(self.offsets))


def is_scoring(context: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Tell which contexts rules are scored on; on the others they are found.

    A hash of the context's number and the seed (the finaliser of splitmix64) decides.

    Args:
        context: numbers of contexts, any shape.
        seed: another seed cuts otherwise.
    """
    mixed = context.astype(np.uint64) + np.uint64(seed * 0x9E3779B97F4A7C15 & (2**64 - 1))
    mixed += np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) & np.uint64(1)).astype(np.bool_)


def check_rows(firings: SampledFirings, background: BackgroundRows, features: int) -> None:
    """Refuse samples that cannot be right.

    Raises:
        ShapeError: columns of other lengths, firings out of order, numbers out of range.
    """
    lengths = {len(firings.feature), len(firings.context), len(firings.position)}
    if len(lengths | {len(firings.value)}) > 1:
        raise ShapeError("the columns of the firings have different lengths.")
    rows = len(background.context)
    if len(background.position) != rows or len(background.offsets) != rows + 1:
        raise ShapeError(
            f"{rows} background rows need as many positions and {rows + 1} offsets; there are "
            f"{len(background.position)} and {len(background.offsets)}."
        )
    steps = np.diff(background.offsets)
    if (
        background.offsets[0] != 0
        or (steps < 0).any()
        or background.offsets[-1] != len(background.feature)
    ):
        raise ShapeError("the offsets of the background rows must rise from 0 to its entries.")
    if (np.diff(firings.feature) < 0).any():
        raise ShapeError("firings must be sorted by feature.")
    for name, found in (("firings", firings.feature), ("background", background.feature)):
        if len(found) and (found.min() < 0 or found.max() >= features):
            raise ShapeError(
                f"the {name} names features {found.min()} to {found.max()}; there are {features}."
            )
