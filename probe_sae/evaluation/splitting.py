"""Which features of a small dictionary split into which of a larger one."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from probe_sae.errors import SettingsError, ShapeError
from probe_sae.evaluation.comparison import unseen_by_both
from probe_sae.evaluation.held_rows import check_same_sites, rows_of, sites_of
from probe_sae.evaluation.intervals import Interval, interval_of_mean
from probe_sae.evaluation.matching import random_like
from probe_sae.interop import as_sae
from probe_sae.sae import SAE
from probe_sae.shown import Shown
from probe_sae.store import Store, as_store

if TYPE_CHECKING:
    import pandas as pd

_ROWS = 1024
_PAIRS_AT_ONCE = 4096
_CODES_AT_ONCE = 1 << 24


@dataclass(frozen=True, repr=False)
class Splitting(Shown):
    """A graph from features of a small dictionary to features of a larger one.

    An edge from i to j: their directions have a cosine over `cosine_over`, and, with a store, i
    fires on at least `share_over` of the rows on which j fires. Source of such graphs: Bricken et
    al. 2023, "Towards monosemanticity", feature splitting.
    """

    small: NDArray[np.int64]
    """[edges]"""
    large: NDArray[np.int64]
    """[edges]"""
    cosine: NDArray[np.float64]
    """[edges]"""
    given: NDArray[np.float64] | None
    """[edges] P(i fires | j fires), with a store."""
    alone: NDArray[np.float64] | None
    """[edges] P(i fires): what `given` would be if the two had nothing to do with each other."""
    cosine_over: float
    share_over: float
    split: float
    """Share of small features with two or more edges."""
    split_interval: Interval
    """95 %, bootstrap over features."""
    persist: float
    """Share of small features with one edge."""
    persist_interval: Interval
    lost: float
    """Share of small features without any."""
    new: float
    """Share of large features without any."""
    new_interval: Interval
    split_at_chance: float
    """`split` with random directions in place of the large dictionary's, by cosine alone."""

    def table(self) -> "pd.DataFrame":
        """Return the edges as a table."""
        import pandas as pd

        columns = {"small": self.small, "large": self.large, "cosine": self.cosine}
        if self.given is not None and self.alone is not None:
            columns |= {"given": self.given, "alone": self.alone}
        return pd.DataFrame(columns)


@torch.no_grad()
def splitting(
    small: SAE | str | Path,
    large: SAE | str | Path,
    store: Store | str | Path | None = None,
    *,
    cosine: float = 0.5,
    share: float = 0.3,
    resamples: int = 1000,
    seed: int = 0,
) -> Splitting:
    """Find what became of the features of a small dictionary in a larger one.

    Args:
        small: the one with fewer features, or its folder.
        large: the one with more, of the same rows.
        store: with it, features must also fire together, on rows that neither was trained on.
        cosine: over which directions are akin.
        share: P(small fires | large fires) from which on they fire together.
        resamples: for the intervals.
        seed: of resamples and of chance.

    Raises:
        SettingsError: the first dictionary is larger, or a threshold is out of range.
        ShapeError: they take rows of different widths.
    """
    small, large = as_sae(small), as_sae(large)
    store = None if store is None else as_store(store)
    if not (0 < cosine < 1 and 0 <= share <= 1):
        raise SettingsError(f"cosine is {cosine} and share {share}; expected both from 0 to 1.")
    _check_pair(small, large)
    ours, theirs = small.directions(), large.directions()
    i, j, cosines = _akin(ours, theirs, cosine)
    given = alone = None
    if store is not None:
        given, alone = _together(small, large, store, i, j)
        kept = given >= share
        i, j, cosines, given, alone = i[kept], j[kept], cosines[kept], given[kept], alone[kept]
    chance = np.bincount(_akin(ours, random_like(theirs, seed), cosine)[0], minlength=len(ours))
    edges = np.bincount(i, minlength=small.features)
    is_new = (np.bincount(j, minlength=large.features) == 0).astype(np.float64)
    splits, persists = ((edges >= 2).astype(np.float64), (edges == 1).astype(np.float64))

    def interval(values: NDArray[np.float64]) -> Interval:
        return interval_of_mean(values, resamples=resamples, seed=seed)

    return Splitting(
        small=i,
        large=j,
        cosine=cosines,
        given=given,
        alone=alone,
        cosine_over=cosine,
        share_over=share,
        split=float(splits.mean()),
        split_interval=interval(splits),
        persist=float(persists.mean()),
        persist_interval=interval(persists),
        lost=float((edges == 0).mean()),
        new=float(is_new.mean()),
        new_interval=interval(is_new),
        split_at_chance=float((chance >= 2).mean()),
    )


def _check_pair(small: SAE, large: SAE) -> None:
    """Refuse dictionaries the wrong way round, or of other rows than each other's."""
    if small.features > large.features:
        raise SettingsError(
            f"the small dictionary has {small.features} features, the large one {large.features}; "
            "give them the other way round."
        )
    if small.widths != large.widths:
        raise ShapeError(f"they take rows of {small.widths} and {large.widths}; expected the same.")
    check_same_sites(small, large)


def _akin(
    small: Tensor, large: Tensor, cosine: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return features of both whose cosine is over a threshold, and it, [pairs] each."""
    others = normalize(large.float(), dim=1)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, len(small), _ROWS):
        cosines = normalize(small[start : start + _ROWS].float(), dim=1) @ others.T
        i, j = (cosines > cosine).nonzero(as_tuple=True)
        parts.append((i + start, j, cosines[i, j].double()))
    i, j, cosines = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    return i.numpy(), j.numpy(), cosines.numpy()


def _together(
    small: SAE, large: SAE, store: Store, i: NDArray[np.int64], j: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return P(i fires | j fires) and P(i fires) of pairs of features, [pairs] both."""
    sites, held = sites_of(small, store), unseen_by_both(small, large, store)
    sites_of(large, store)
    both = torch.zeros(len(i), dtype=torch.int64)
    fired = [torch.zeros(sae.features, dtype=torch.int64) for sae in (small, large)]
    at_once, count = max(1, _CODES_AT_ONCE // large.features), 0
    first, second = torch.from_numpy(i), torch.from_numpy(j)
    for rows, _ in rows_of(store, sites, held, what="compare"):
        for some in rows.split(at_once):
            x, _ = small.split(some)
            ours, theirs = (sae.fires(sae.encode(x)).cpu() for sae in (small, large))
            for total, fires in zip(fired, (ours, theirs), strict=True):
                total += fires.sum(0)
            for start in range(0, len(i), _PAIRS_AT_ONCE):
                part = slice(start, start + _PAIRS_AT_ONCE)
                both[part] += (ours[:, first[part]] & theirs[:, second[part]]).sum(0)
            count += len(some)
    given = both.double() / fired[1][second].clamp_min(1)
    return given.numpy(), (fired[0][first].double() / max(1, count)).numpy()
