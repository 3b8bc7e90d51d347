"""A block's firings sorted by feature, for loops over features that run beside each other."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis import tally_loops
from probe_sae.analysis.codes import Block
from probe_sae.sae.kernels.threads import side_by_side

PIECES = 64
"""Pieces of about equal work that the features are cut into."""


@dataclass(frozen=True)
class ByFeature:
    """The same firings as those of `block`, by feature and then by row."""

    block: Block
    starts: NDArray[np.int64]
    """[features + 1] where the firings of each feature start."""
    row: NDArray[np.int32]
    """[firings] row within the block."""
    at: NDArray[np.int32]
    """[firings] place in `block.feature`."""
    value: NDArray[np.float32]
    """[firings] magnitude."""

    @classmethod
    def of(cls, block: Block, features: int) -> "ByFeature":
        """Sort a block."""
        count = len(block.feature)
        made = cls(
            block,
            np.empty(features + 1, np.int64),
            np.empty(count, np.int32),
            np.empty(count, np.int32),
            np.empty(count, np.float32),
        )
        given = block.starts, block.feature, block.value
        tally_loops.sort_by_feature(*given, made.starts, made.row, made.at, made.value)
        return made

    def in_pieces(self, work: Callable[[int, int], None]) -> None:
        """Call `work` with first feature and end of each piece, on as many threads as torch has."""
        in_pieces(self.starts, work)


def in_pieces(starts: NDArray[np.int64], work: Callable[[int, int], None]) -> None:
    """Call `work` with first feature and end of pieces of about equally many firings.

    Args:
        starts: where the firings of each feature start, [features + 1].
        work: what to do; must not depend on the order of calls.
    """
    features = len(starts) - 1
    load = starts + np.arange(features + 1)
    wanted = load[-1] * np.arange(1, PIECES) // PIECES
    edges = np.unique([0, *np.searchsorted(load, wanted).tolist(), features]).tolist()
    bounds = dict(pairwise(edges))
    side_by_side(lambda low: work(low, bounds[low]), bounds)
