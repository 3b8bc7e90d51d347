"""Absorption: a feature that should fire is silent, because a narrower one says it too.

A feature for "starts with S" that is silent on "short", whose own feature has taken on its
direction. Source: Chanin et al. 2024, "A is for absorption", as SAEBench computes it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from probe_sae.errors import SettingsError, ShapeError
from probe_sae.evaluation.baselines import untrained
from probe_sae.evaluation.intervals import Interval, percentiles, resamples_of
from probe_sae.sae import SAE
from probe_sae.shown import Shown

if TYPE_CHECKING:
    import pandas as pd

SILENT = 1e-8
"""A main feature is silent below this activation."""
FULL_COSINE, PART_COSINE = 0.025, 0.1
"""Cosine of direction and probe from which on a feature can absorb: fully, in part."""
SHARE = 0.4
"""Share of the row's projection on the probe that must come from what absorbs."""
ABSORBERS = 3
"""Features that can absorb a row in part."""
SPLIT_GAIN = 0.03
"""Gain in F1 from which on one more feature is a main one."""
MOST_MAIN = 10
Array = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class Absorption(Shown):
    """How much of a concept is said by features that are not its own."""

    full: float
    """Share of rows on which all main features are silent while another with a cosine of at least
    0.025 to the probe gives at least 0.4 of the row's projection on it."""
    full_interval: Interval
    """95 %, bootstrap over groups of the test half."""
    fraction: float
    """Mean over rows of the share of the projection that up to 3 other features (cosine at least
    0.1) give of what they and the main ones give; 0 where the main ones give all, or the others
    less than 0.4."""
    fraction_interval: Interval
    untrained: tuple[float, float]
    """`full` and `fraction` of the dictionary before training; NaN without baselines."""
    main: tuple[int, ...]
    """The concept's own features: those that a probe of few features gains by."""
    absorbers: NDArray[np.int64]
    """[rows] the feature that absorbs each row of the test half fully, -1 where none does."""
    probe: Tensor
    """[d_model] direction of the concept, of length 1."""
    probe_f1: float
    """Of the probe on rows, on the test half: below about 0.9 there is no such direction."""
    main_f1: float
    """Of a probe on the main features alone."""
    rows: int
    """Rows of the concept in the test half that the probe finds: those measured."""

    def table(self) -> "pd.DataFrame":
        """Return how many rows each feature absorbs fully."""
        import pandas as pd

        features, counts = np.unique(self.absorbers[self.absorbers >= 0], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return pd.DataFrame({"feature": features[order], "rows": counts[order]})


@torch.no_grad()
def absorption(
    sae: SAE,
    x: Tensor,
    labels: Tensor | NDArray[np.bool_],
    *,
    groups: Tensor | NDArray[np.int64] | None = None,
    baselines: bool = True,
    resamples: int = 1000,
    seed: int = 0,
) -> Absorption:
    """Measure absorption of one concept.

    Half of the rows find the probe and the main features, the other half are measured. Unlike
    SAEBench, projections are of rows less the dictionary's bias, which no feature has to say.

    Args:
        sae: the dictionary.
        x: raw rows, [rows, d_model].
        labels: which rows have the concept, [rows].
        groups: what each row is of, such as its token, [rows]: a group is in one half only, and
            intervals draw groups. Each row for itself by default.
        baselines: measure the dictionary before training too.
        resamples: for the intervals.
        seed: of the halves, resamples and baseline.

    Raises:
        ShapeError: labels or groups are not of these rows.
        SettingsError: a half has too few rows with or without the concept, or the dictionary does
            not reconstruct what it reads.
    """
    if not sae.is_autoencoder:
        raise SettingsError("a transcoder's features do not add up to the rows it reads.")
    has, which = _of_rows(len(x), labels, groups)
    halves = _halves(has, which, seed)
    probe = _probe(x, has, halves)
    codes = sae.encode(x).cpu()
    main, main_f1 = _main_features(codes.numpy(), sae, has, halves)
    chosen = np.flatnonzero(~halves & has & probe.finds)
    if not len(chosen):
        raise SettingsError("the probe finds no row of the concept: there is no such direction.")
    picked = torch.from_numpy(chosen)
    measured = _measured(sae, x[picked], codes[picked], main, probe.direction)
    before = (float("nan"), float("nan"))
    if baselines:
        fresh = untrained(sae, x[torch.from_numpy(np.flatnonzero(halves))][:4096], 1_000_003 + seed)
        again = absorption(fresh, x, has, groups=which, baselines=False, resamples=0, seed=seed)
        before = (again.full, again.fraction)
    full = (measured.absorber >= 0).astype(np.float64)
    intervals = _intervals(np.stack([full, measured.fraction]), which[chosen], resamples, seed)
    return Absorption(
        full=float(full.mean()),
        full_interval=intervals[0],
        fraction=float(measured.fraction.mean()),
        fraction_interval=intervals[1],
        untrained=before,
        main=tuple(main),
        absorbers=measured.absorber,
        probe=probe.direction,
        probe_f1=probe.f1,
        main_f1=main_f1,
        rows=len(chosen),
    )


@dataclass(frozen=True)
class _Probe:
    direction: Tensor
    finds: NDArray[np.bool_]
    f1: float


@dataclass(frozen=True)
class _Measured:
    absorber: NDArray[np.int64]
    fraction: Array


def _of_rows(
    rows: int, labels: Tensor | NDArray[np.bool_], groups: Tensor | NDArray[np.int64] | None
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return which rows have the concept and the number of each one's group, [rows] both."""
    has = np.asarray(labels).astype(np.bool_)
    which = np.arange(rows) if groups is None else np.unique(groups, return_inverse=True)[1]
    if has.shape != (rows,) or which.shape != (rows,):
        raise ShapeError(
            f"labels are {has.shape} and groups {which.shape} for {rows} rows; one each."
        )
    return has, which


def _measured(sae: SAE, x: Tensor, codes: Tensor, main: list[int], probe: Tensor) -> _Measured:
    """Return what absorbs each row, [rows], by the definitions of `Absorption`."""
    directions = sae.directions().double().cpu()
    cosine = normalize(directions, dim=1) @ probe
    gives = codes.double() * (directions @ probe)  # [rows, features]
    bias = sae.decode(torch.zeros(1, sae.features, device=sae.input_scale.device)).cpu()
    wanted = (x.cpu().double() - bias.double()) @ probe
    positive = wanted.clamp_min(1e-12)
    is_main = torch.zeros(sae.features, dtype=torch.bool)
    is_main[main] = True
    silent = (codes[:, is_main].abs() < SILENT).all(1)
    top, which = gives.masked_fill(is_main, float("-inf")).max(1)
    # The one that gives most of all must be akin to the probe; another behind it does not count.
    fully = silent & (wanted > 0) & (cosine[which] >= FULL_COSINE) & (top / positive >= SHARE)
    may = gives.masked_fill(is_main | (cosine < PART_COSINE), 0.0).clamp_min(0)
    others = may.topk(min(ABSORBERS, sae.features), 1).values.sum(1)
    own = gives[:, is_main].sum(1)
    taken = torch.minimum(others, wanted - own).clamp_min(0)
    share = torch.where(own <= 0, 1.0, taken / (taken + own).clamp_min(1e-12))
    nothing = (wanted <= 0) | (own >= wanted) | (others / positive < SHARE)
    fraction = torch.where(nothing, 0.0, share)
    return _Measured(torch.where(fully, which, -1).numpy(), fraction.numpy())


def _halves(has: NDArray[np.bool_], groups: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Mark the rows to learn from, [rows]: about half of the groups.

    Raises:
        SettingsError: a half has fewer than 2 rows with or without the concept.
    """
    order = np.random.default_rng([seed, 4]).permutation(int(groups.max()) + 1)
    is_first = (np.argsort(order) % 2 == 0)[groups]
    for half in (is_first, ~is_first):
        if min(has[half].sum(), (~has[half]).sum()) < 2:
            raise SettingsError(
                f"{int(has.sum())} of {len(has)} rows have the concept: too few with or without it "
                "in one of the halves. Give more rows of both kinds, or smaller groups."
            )
    return is_first


def _probe(x: Tensor, has: NDArray[np.bool_], first: NDArray[np.bool_]) -> _Probe:
    """Return a logistic regression's direction in raw units, learned on the first half."""
    rows = x.double().cpu().numpy()
    mean = rows[first].mean(0)
    scale = max(float(rows[first].std(0).mean()), 1e-12)
    rows = (rows - mean) / scale
    model: Any = _classifier().fit(rows[first], has[first])
    finds = model.predict(rows)
    direction = normalize(torch.from_numpy(model.coef_[0]).double(), dim=0)
    return _Probe(direction, finds, _f1(has[~first], finds[~first]))


def _main_features(
    codes: NDArray[np.float32], sae: SAE, has: NDArray[np.bool_], first: NDArray[np.bool_]
) -> tuple[list[int], float]:
    """Return the concept's own features and their F1: one more as long as it gains enough.

    Features in the order of how much more they say on rows of the concept.
    """
    lengths = sae.directions().norm(dim=1).cpu().numpy()
    with_it, without = codes[first & has].mean(0), codes[first & ~has].mean(0)
    order = np.argsort(-(with_it - without) * lengths, kind="stable")
    best, kept = 0.0, 1
    for count in range(1, min(MOST_MAIN, codes.shape[1]) + 1):
        some = codes[:, order[:count]].astype(np.float64)
        some /= max(float(some[first].std()), 1e-12)
        finds = _classifier().fit(some[first], has[first]).predict(some)
        gained = _f1(has[first], finds[first])
        if count > 1 and gained - best < SPLIT_GAIN:
            break
        best, kept = gained, count
    some = codes[:, order[:kept]].astype(np.float64)
    some /= max(float(some[first].std()), 1e-12)
    finds = _classifier().fit(some[first], has[first]).predict(some)
    return order[:kept].tolist(), _f1(has[~first], finds[~first])


def _classifier() -> Any:
    from sklearn.linear_model import LogisticRegression  # slow to import

    return LogisticRegression(C=100.0, max_iter=1000, class_weight="balanced")


def _f1(has: NDArray[np.bool_], finds: NDArray[np.bool_]) -> float:
    """Return 2 * both / (has + finds); 0 where there is neither."""
    return 2 * float((has & finds).sum()) / max(1.0, float(has.sum() + finds.sum()))


def _intervals(
    values: Array, groups: NDArray[np.int64], resamples: int, seed: int
) -> list[Interval]:
    """Return the interval of the mean of each line of values, [lines, rows], by groups."""
    _, which = np.unique(groups, return_inverse=True)
    count = int(which.max()) + 1
    if count < 2 or not resamples:
        return [(float("nan"), float("nan"))] * len(values)
    weights = resamples_of(count, resamples, seed)
    sums = np.zeros((len(values) + 1, count))
    for line, column in zip(sums, [*values, np.ones(len(which))], strict=True):
        np.add.at(line, which, column)
    drawn = sums @ weights.T
    return [percentiles(line / np.maximum(drawn[-1], 1)) for line in drawn[:-1]]
