"""What dictionaries trained with different seeds have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from probe_sae.errors import SettingsError
from probe_sae.evaluation.comparison import SHARED, Comparison, compare
from probe_sae.evaluation.intervals import Interval
from probe_sae.evaluation.matching import are_signed, nearest
from probe_sae.interop import as_sae
from probe_sae.sae import SAE
from probe_sae.shown import Shown
from probe_sae.store import Store

if TYPE_CHECKING:
    import pandas as pd

ENERGY = 0.9
"""Share of the unstable directions' squared length that their subspace holds."""


@dataclass(frozen=True, repr=False)
class Stability(Shown):
    """How far several trainings agree. Ranges are over pairs of seeds: the reseed intervals."""

    pairs: dict[tuple[int, int], Comparison]
    """Numbers of two dictionaries -> how they compare."""
    pw_mcc: float
    """Mean over pairs; see `Comparison`."""
    pw_mcc_range: Interval
    """Least and largest of a pair."""
    pw_mcc_at_chance: float
    mean_max_cosine: float
    """Mean over pairs, both ways."""
    shared: float
    """Mean over pairs of the share that decoder and encoder agree on; see `Comparison`."""
    shared_range: Interval
    threshold: float
    """Cosine from which on a feature is found again."""
    best: NDArray[np.float64]
    """[dictionaries, features] mean over the others of the largest cosine with one of theirs."""
    found_again: NDArray[np.float64]
    """[dictionaries, features] share of the others that have it: P(best match >= threshold)."""
    unstable: tuple[int, ...]
    """Features of each dictionary that fewer than half of the others have."""
    subspace_ranks: tuple[int, ...]
    """Dimensions of the subspace that holds 90 % of the unstable directions' squared length."""
    principal_angles: dict[tuple[int, int], NDArray[np.float64]]
    """Between these subspaces of two dictionaries, in degrees, smallest first: [lower rank]."""
    subspace_overlap: float
    """Mean squared cosine of the angles: 1 means that unstable features share a subspace although
    they are not the same. Source: "Unstable features, reproducible subspaces" 2026. NaN where a
    dictionary has no unstable features."""
    subspace_overlap_at_chance: float
    """The same of random subspaces of these ranks: larger rank / d_model."""

    def table(self) -> "pd.DataFrame":
        """Return a line for each feature of each dictionary."""
        import pandas as pd

        dictionaries, features = self.best.shape
        return pd.DataFrame(
            {
                "dictionary": np.repeat(np.arange(dictionaries), features),
                "feature": np.tile(np.arange(features), dictionaries),
                "best": self.best.ravel(),
                "found_again": self.found_again.ravel(),
            }
        )


@torch.no_grad()
def stability(
    saes: Sequence[SAE | str | Path],
    store: Store | str | Path | None = None,
    *,
    threshold: float = SHARED,
    resamples: int = 1000,
    seed: int = 0,
) -> Stability:
    """Compare dictionaries of the same size that differ in their seed, each with each.

    Args:
        saes: at least two, or their folders; three or more give a range.
        store: with it, activations are compared too, as by `compare`.
        threshold: cosine from which on a feature is found again.
        resamples: for the intervals of the pairs.
        seed: of resamples and of chance.

    Raises:
        SettingsError: there are fewer than two, or their sizes differ.
        ShapeError: they take rows of different widths.
    """
    if not -1 <= threshold <= 1:
        raise SettingsError(f"threshold is {threshold}; a cosine lies between -1 and 1.")
    saes = [as_sae(sae) for sae in saes]
    sizes = {sae.features for sae in saes}
    if len(saes) < 2 or len(sizes) != 1:
        raise SettingsError(
            f"stability compares two or more dictionaries of one size; got {len(saes)} of "
            f"{sorted(sizes)} features. `compare` takes two of different sizes."
        )
    pairs = {
        (i, j): compare(saes[i], saes[j], store, resamples=resamples, seed=seed)
        for i, j in combinations(range(len(saes)), 2)
    }
    lines, directions = are_signed(*saes), [sae.directions() for sae in saes]
    best, found_again = _again(directions, lines, threshold)
    mccs, shares = ([getattr(p, name) for p in pairs.values()] for name in ("pw_mcc", "shared"))
    unstable = [torch.from_numpy(row < 0.5) for row in found_again]
    spaces = _subspaces([d[which] for d, which in zip(directions, unstable, strict=True)])
    return Stability(
        pairs=pairs,
        pw_mcc=float(np.mean(mccs)),
        pw_mcc_range=(min(mccs), max(mccs)),
        pw_mcc_at_chance=float(np.mean([p.pw_mcc_at_chance for p in pairs.values()])),
        mean_max_cosine=float(np.mean([p.mean_max_cosine for p in pairs.values()])),
        shared=float(np.mean(shares)),
        shared_range=(min(shares), max(shares)),
        threshold=threshold,
        best=best,
        found_again=found_again,
        unstable=tuple(int(which.sum()) for which in unstable),
        subspace_ranks=spaces.ranks,
        principal_angles=spaces.angles,
        subspace_overlap=spaces.overlap,
        subspace_overlap_at_chance=spaces.at_chance,
    )


@dataclass(frozen=True)
class _Subspaces:
    ranks: tuple[int, ...]
    angles: dict[tuple[int, int], NDArray[np.float64]]
    overlap: float
    at_chance: float


def _subspaces(directions: list[Tensor]) -> _Subspaces:
    """Return how the subspaces of some directions lie to each other."""
    bases = [_basis(each) for each in directions]
    ranks = tuple(basis.shape[1] for basis in bases)
    pairs = [(i, j) for i, j in combinations(range(len(bases)), 2) if ranks[i] and ranks[j]]
    angles = {(i, j): _angles(bases[i], bases[j]) for i, j in pairs}
    if not pairs:
        return _Subspaces(ranks, angles, float("nan"), float("nan"))
    overlaps = [float(np.square(np.cos(np.deg2rad(each))).mean()) for each in angles.values()]
    chances = [max(ranks[i], ranks[j]) / directions[0].shape[1] for i, j in pairs]
    return _Subspaces(ranks, angles, float(np.mean(overlaps)), float(np.mean(chances)))


def _again(
    directions: list[Tensor], lines: bool, threshold: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean largest cosine and share found again, [dictionaries, features] both."""
    best: list[NDArray[np.float64]] = []
    again: list[NDArray[np.float64]] = []
    for i, mine in enumerate(directions):
        others = [d for j, d in enumerate(directions) if j != i]
        cosines = np.stack([nearest(mine, o, either_sign=lines).cosine[:, 0] for o in others])
        best.append(cosines.mean(0, dtype=np.float64))
        again.append((cosines >= threshold).mean(0))
    return np.stack(best), np.stack(again)


def _basis(directions: Tensor) -> Tensor:
    """Return an orthonormal basis of what holds most of some directions, [d_model, rank]."""
    if not len(directions):
        return directions.new_zeros(directions.shape[1], 0).double()
    unit = normalize(directions.double(), dim=1)
    values, vectors = torch.linalg.eigh(unit.T @ unit)
    values, vectors = values.flip(0), vectors.flip(1)
    shares = values.cumsum(0) / values.sum()
    rank = int((shares < ENERGY).sum()) + 1
    return vectors[:, :rank]


def _angles(a: Tensor, b: Tensor) -> NDArray[np.float64]:
    """Return the principal angles of two subspaces in degrees, smallest first.

    Source: Bjorck and Golub 1973.
    """
    cosines = torch.linalg.svdvals(a.T @ b).clamp(0, 1)
    return torch.rad2deg(cosines.acos()).cpu().numpy()
