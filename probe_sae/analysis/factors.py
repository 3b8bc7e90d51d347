"""Which features respond to a factor, how strongly, in which direction, and by chance how often."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.permutations import (
    Design,
    benjamini_hochberg,
    between_levels,
    permutation_p,
    standard_ranks,
)
from probe_sae.analysis.shapes import Shape, shape_of
from probe_sae.errors import SettingsError, ShapeError
from probe_sae.shown import Tabled

RESPONDS = 0.05
"""False discovery rate at which a feature counts as one that responds."""
_FEATURES_AT_ONCE = 256


@dataclass(frozen=True, repr=False)
class FactorEffects(Tabled):
    """What a factor does to features; only those that fire on two inputs or more are tested.

    Values of each feature have the mean of their group (template, image) taken from them, so that
    levels are compared within groups. With one group, the measures are the usual ones.
    """

    feature: NDArray[np.int64]
    """[tested] number in the dictionary."""
    eta_squared: NDArray[np.float64]
    """SS_levels / (SS_levels + SS_noise): share of the variance within groups that levels explain;
    with several groups the partial eta squared of the additive model. NaN where there is one input
    for each level, and no noise is known."""
    omega_squared: NDArray[np.float64]
    """(SS_levels - df MS_noise) / (SS_levels + (inputs - df) MS_noise): the same without what noise
    alone would explain; it may be negative."""
    rho: NDArray[np.float64]
    """Spearman's correlation of values with levels, positive for rising; NaN without an order."""
    d: NDArray[np.float64]
    """Cohen's d between the level of the highest mean and that of the lowest: their difference over
    the pooled standard deviation; infinite where there is a difference and no noise."""
    p: NDArray[np.float64]
    """Share of deals of the levels, within groups, that do as much; see `permutation_p`."""
    q: NDArray[np.float64]
    """False discovery rate (Benjamini and Hochberg) over the features tested."""
    means: NDArray[np.float64]
    """[tested, levels] mean activation."""
    shapes: tuple[Shape, ...]
    """Of ordered levels, for features whose q is small; else `none`, or `differs`."""
    levels: tuple[Any, ...]
    lowest_p: float
    """What p cannot fall below with so few inputs, about."""

    @property
    def responding(self) -> NDArray[np.int64]:
        """Numbers of the features that respond, strongest first."""
        order = self._order()
        return self.feature[order[self.q[order] <= RESPONDS]]

    def table(self) -> Any:
        """Return one line a feature as a pandas DataFrame, the strongest that respond first."""
        import pandas as pd

        columns: dict[str, Any] = {
            "feature": self.feature,
            "shape": [shape.name for shape in self.shapes],
            "eta_squared": self.eta_squared,
            "omega_squared": self.omega_squared,
            "rho": self.rho,
            "monotone": [shape.monotone for shape in self.shapes],
            "d": self.d,
            "highest": [self.levels[i] for i in np.nanargmax(self.means, 1)],
            "highest_mean": np.nanmax(self.means, 1),
            "lowest": [self.levels[i] for i in np.nanargmin(self.means, 1)],
            "lowest_mean": np.nanmin(self.means, 1),
            "p": self.p,
            "q": self.q,
        }
        return pd.DataFrame(columns).iloc[self._order()].reset_index(drop=True)

    def _order(self) -> NDArray[np.int64]:
        """Return the places of the features: those that respond first, then by size of effect."""
        size = np.where(np.isnan(self.omega_squared), np.abs(self.rho), self.omega_squared)
        size = np.nan_to_num(size, nan=-1.0)
        if not len(size):
            return np.zeros(0, np.int64)
        span = np.nanmax(self.means, 1) - np.nanmin(self.means, 1)
        return np.lexsort((-span, -size, self.q > RESPONDS))


def factor_effects(
    values: Any,
    level: NDArray[np.int64],
    group: NDArray[np.int64] | None = None,
    *,
    levels: tuple[Any, ...],
    is_ordered: bool,
    permutations: int = 1000,
    seed: int = 0,
) -> FactorEffects:
    """Return the effect of a factor on each feature.

    Args:
        values: dense or SciPy sparse, [inputs, features].
        level: index into `levels` of each input, [inputs].
        group: which inputs share their surroundings, [inputs]; all by default.
        levels: names of the levels, in order where they have one.
        is_ordered: whether they have.
        permutations: deals of the levels in a round; features that may respond get up to 50 rounds.
        seed: of the deals.

    Raises:
        ShapeError: values, levels and groups are not of one length.
        SettingsError: fewer than two levels occur, or fewer than one permutation is wanted.

    Sources: eta and omega squared, Olejnik and Algina 2003; d, Cohen 1988.
    """
    group = np.zeros(len(level), np.int64) if group is None else group
    if not len(level) == len(group) == values.shape[0]:
        raise ShapeError(
            f"{values.shape[0]} inputs have {len(level)} levels and {len(group)} groups; expected "
            "one each."
        )
    if len(np.unique(level)) < 2 or permutations < 1:
        raise SettingsError("expected inputs of at least two levels, and at least 1 permutation.")
    known = np.unique(group, return_inverse=True)[1].astype(np.int64)
    design = Design(np.asarray(level, np.int64), known, len(levels), is_ordered)
    tested = _firing_often(values)
    parts: list[_Measured] = []
    for numbers, block in _blocks(values, tested):
        parts.append(_measured(numbers, block, design, permutations, len(tested), seed))
    return _together(parts, design, levels)


@dataclass(frozen=True)
class _Measured:
    """The effects on some features, before those of all are compared."""

    feature: NDArray[np.int64]
    columns: NDArray[np.float64]
    """[5, features] eta squared, omega squared, rho, d, p."""
    means: NDArray[np.float64]


def _firing_often(values: Any) -> NDArray[np.int64]:
    """Return the features that are not 0 on two inputs or more: no deal of levels changes that."""
    fires = np.asarray((values != 0).sum(0)).ravel()
    return np.flatnonzero(fires >= 2)


def _blocks(
    values: Any, tested: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Yield the tested features' values, dense, some features at a time."""
    columns = values if isinstance(values, np.ndarray) else values.tocsc()
    for start in range(0, len(tested), _FEATURES_AT_ONCE):
        numbers = tested[start : start + _FEATURES_AT_ONCE]
        some = columns[:, numbers]
        dense = some if isinstance(some, np.ndarray) else some.toarray()
        yield numbers, np.asarray(dense, np.float64)


def _measured(
    numbers: NDArray[np.int64],
    values: NDArray[np.float64],
    design: Design,
    permutations: int,
    tests: int,
    seed: int,
) -> _Measured:
    within = values - level_means(values, design.group, design.groups)[design.group]
    between = between_levels(within, design.level, design.levels)
    whole = (within**2).sum(0)
    eta = np.full(len(numbers), np.nan)
    omega, rho = eta.copy(), eta.copy()
    varies = whole > 1e-24 * np.maximum(1e-300, (values**2).sum(0))
    if design.noise_freedom > 0:
        freedom = len(np.unique(design.level)) - 1
        noise = np.maximum(0, whole - between) / design.noise_freedom
        bottom = between + (len(values) - freedom) * noise
        eta[varies] = (between / np.where(varies, whole, 1))[varies]
        omega[varies] = ((between - freedom * noise) / np.where(varies, bottom, 1))[varies]
    ranks = None
    if design.is_ordered:  # values that are equal but for rounding share a rank
        largest = np.maximum(1e-300, np.abs(values).max(0))
        ranks = standard_ranks(np.round(within / largest, 10))
    if ranks is not None:
        rho = standard_ranks(design.level[:, None])[:, 0] @ ranks
    p = permutation_p(within, ranks, design, permutations=permutations, tests=tests, seed=seed)
    means = level_means(values, design.level, design.levels)
    d = cohens_d(within, design.level, means)
    return _Measured(numbers, np.stack([eta, omega, rho, d, np.where(varies, p, 1)]), means)


def level_means(
    values: NDArray[np.float64], level: NDArray[np.int64], levels: int
) -> NDArray[np.float64]:
    """Return the mean of each level, [levels, features]; NaN for one without inputs."""
    sums = np.zeros((levels, values.shape[1]))
    np.add.at(sums, level, values)
    sizes = np.bincount(level, minlength=levels).astype(np.float64)
    return sums / np.where(sizes > 0, sizes, np.nan)[:, None]


def cohens_d(
    values: NDArray[np.float64], level: NDArray[np.int64], means: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return Cohen's d of each feature between its highest and its lowest level, [features].

    (mean_a - mean_b) / sqrt(((n_a - 1) var_a + (n_b - 1) var_b) / (n_a + n_b - 2)).

    Args:
        values: [inputs, features].
        level: [inputs].
        means: [levels, features], by which the two levels are chosen.
    """
    levels = len(means)
    sizes = np.bincount(level, minlength=levels)
    own = level_means(values, level, levels)
    squares = np.zeros((levels, values.shape[1]))
    np.add.at(squares, level, (values - own[level]) ** 2)
    each = np.arange(values.shape[1])
    high, low = np.nanargmax(means, 0), np.nanargmin(means, 0)
    freedom = sizes[high] + sizes[low] - 2
    step = own[high, each] - own[low, each]
    with np.errstate(divide="ignore", invalid="ignore"):
        pooled = np.sqrt((squares[high, each] + squares[low, each]) / freedom)
        d = np.where(pooled > 1e-12 * np.abs(step), step / pooled, np.inf)
    return np.where(freedom > 0, np.where(step == 0, 0.0, d), np.nan)


def _together(parts: list[_Measured], design: Design, levels: tuple[Any, ...]) -> FactorEffects:
    feature = np.concatenate([np.zeros(0, np.int64), *(part.feature for part in parts)])
    columns = np.concatenate([np.zeros((5, 0)), *(part.columns for part in parts)], 1)
    means = np.concatenate([np.zeros((0, design.levels)), *(part.means.T for part in parts)])
    eta, omega, rho, d, p = columns
    q = benjamini_hochberg(p)
    shapes = tuple(
        _shape(mean, value, design.is_ordered) for mean, value in zip(means, q, strict=True)
    )
    return FactorEffects(feature, eta, omega, rho, d, p, q, means, shapes, levels, design.lowest_p)


def _shape(means: NDArray[np.float64], q: float, is_ordered: bool) -> Shape:
    if q > RESPONDS:
        return Shape("none", float("nan"))
    if not is_ordered:
        return Shape("differs", float("nan"))
    return shape_of(means[~np.isnan(means)])
