"""Which feature of one dictionary is which of another: directions matched one to one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from probe_sae.errors import ShapeError
from probe_sae.sae import SAE
from probe_sae.shown import Shown

if TYPE_CHECKING:
    import pandas as pd

MOST_EXACT = 8192
"""Above so many features the best matching takes too long, and a greedy one is taken."""
CANDIDATES = 16
"""Nearest counterparts of each feature that a greedy matching chooses among."""
_ROWS = 1024


@dataclass(frozen=True, repr=False)
class Matches(Shown):
    """Pairs of features, each feature in at most one."""

    a: NDArray[np.int64]
    """[pairs] features of the first dictionary, in order."""
    b: NDArray[np.int64]
    """[pairs] their counterparts."""
    cosine: NDArray[np.float64]
    """[pairs]"""
    possible: int
    """Pairs that there could be: features of the smaller dictionary."""
    method: str
    """hungarian, or greedy."""

    @property
    def mean_cosine(self) -> float:
        """Sum of the pairs' cosines over the pairs that there could be."""
        return float(self.cosine.sum()) / self.possible

    def table(self) -> "pd.DataFrame":
        """Return the pairs as a table."""
        import pandas as pd

        return pd.DataFrame({"a": self.a, "b": self.b, "cosine": self.cosine})


@dataclass(frozen=True)
class Nearest:
    """For each row of one matrix the nearest of another, nearest first."""

    cosine: NDArray[np.float32]
    """[rows, candidates]"""
    index: NDArray[np.int64]
    """[rows, candidates]"""


def match(a: Tensor, b: Tensor, *, either_sign: bool = False, greedy: bool = False) -> Matches:
    """Return the pairs of directions whose cosines have the largest sum.

    Exact up to 8,192 directions (Hungarian method). Above, greedy: the pairs of each direction with
    its 16 nearest, from the largest cosine down, each direction once; what is left over is in no
    pair. Every pair of mutual nearest neighbours is in it, and its sum is at least half the best.

    Args:
        a: directions, [features, d].
        b: others, [other features, d].
        either_sign: compare lines: a direction and its opposite are the same.
        greedy: also where an exact matching would be possible.

    Raises:
        ShapeError: they are of different lengths, or there are none.
    """
    _check(a, b)
    possible = min(len(a), len(b))
    if greedy or max(len(a), len(b)) > MOST_EXACT:
        there = nearest(a, b, CANDIDATES, either_sign=either_sign)
        back = nearest(b, a, CANDIDATES, either_sign=either_sign)
        rows, columns, cosine = greedy_pairs(there, back)
        return Matches(rows, columns, cosine, possible, "greedy")
    from scipy.optimize import linear_sum_assignment  # slow to import

    cosines = (normalize(a.double(), dim=1) @ normalize(b.double(), dim=1).T).cpu().numpy()
    cosines = np.abs(cosines) if either_sign else cosines
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    return Matches(rows, columns, cosines[rows, columns], possible, "hungarian")


@torch.no_grad()
def nearest(a: Tensor, b: Tensor, count: int = 1, *, either_sign: bool = False) -> Nearest:
    """Return for each direction of `a` the nearest of `b`, some rows at a time.

    Args:
        a: directions, [features, d].
        b: others, [other features, d].
        count: how many.
        either_sign: compare lines, as for `match`.

    Raises:
        ShapeError: they are of different lengths, or there are none.
    """
    _check(a, b)
    others = normalize(b.float(), dim=1)
    values: list[Tensor] = []
    indices: list[Tensor] = []
    for some in normalize(a.float(), dim=1).split(_ROWS):
        cosines = some @ others.T
        best = (cosines.abs() if either_sign else cosines).topk(min(count, len(b)), 1)
        values.append(best.values.cpu())
        indices.append(best.indices.cpu())
    return Nearest(torch.cat(values).numpy(), torch.cat(indices).numpy())


def random_like(directions: Tensor, seed: int) -> Tensor:
    """Return random directions in place of others, for what chance gives.

    Drawn by numpy: torch's numbers of the same seed are those that an untrained dictionary has.
    """
    drawn = np.random.default_rng([seed, 5]).standard_normal(tuple(directions.shape))
    return torch.from_numpy(drawn).to(directions)


def are_signed(*saes: SAE) -> bool:
    """Return whether a feature and its opposite are the same: where activations can be negative."""
    return any(sae.settings.is_signed for sae in saes)


def encoder_of(sae: SAE) -> Tensor | None:
    """Return what each feature reads of raw rows, [features, d_model]; None for a deep encoder."""
    weights = getattr(sae, "W_enc", None)
    if sae.settings.arch == "matching_pursuit":
        weights = sae.linear_decoder()
    is_deep = bool(getattr(sae.settings, "hidden", ()))
    if is_deep or not isinstance(weights, Tensor):
        return None
    return weights.detach() * sae.input_scale


def greedy_pairs(
    there: Nearest, back: Nearest
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return features of a, of b, and their cosines, [pairs] each, sorted by features of a.

    From the largest cosine down, each feature once.

    Args:
        there: for each feature of a its nearest of b.
        back: for each feature of b its nearest of a.
    """
    count_a, count_b = len(there.index), len(back.index)
    rows = np.concatenate([np.repeat(np.arange(count_a), there.index.shape[1]), back.index.ravel()])
    columns = np.concatenate(
        [there.index.ravel(), np.repeat(np.arange(count_b), back.index.shape[1])]
    )
    cosines = np.concatenate([there.cosine.ravel(), back.cosine.ravel()])
    is_free_a, is_free_b = np.ones(count_a, np.bool_), np.ones(count_b, np.bool_)
    chosen: list[int] = []
    order = np.argsort(-cosines, kind="stable")
    for place, i, j in zip(
        order.tolist(), rows[order].tolist(), columns[order].tolist(), strict=True
    ):
        if is_free_a[i] and is_free_b[j]:
            is_free_a[i] = is_free_b[j] = False
            chosen.append(place)
    picked = np.array(sorted(chosen, key=lambda place: int(rows[place])), np.int64)
    return rows[picked], columns[picked], cosines[picked].astype(np.float64)


def _check(a: Tensor, b: Tensor) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not len(a) or not len(b):
        raise ShapeError(
            f"directions are {tuple(a.shape)} and {tuple(b.shape)}; expected [features, d_model] "
            "of the same d_model. Are both dictionaries of the same site?"
        )
