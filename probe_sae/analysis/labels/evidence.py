"""The samples of one dictionary, side by side: what is known of each row, and who fires there."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.contexts import ImageInputs, TextInputs
from probe_sae.analysis.labels.columns import Columns
from probe_sae.analysis.labels.rows import (
    BackgroundRows,
    SampledFirings,
    check_rows,
    is_scoring,
)
from probe_sae.analysis.labels.rules import columns_of
from probe_sae.errors import ShapeError


@dataclass(frozen=True)
class Evidence:
    """Rows of both samples as places of one set of columns: the background first, then firings."""

    columns: Columns
    context: NDArray[np.int64]
    """[places] of the background's rows as they come, then of every place where something fires."""
    is_scoring: NDArray[np.bool_]
    """[places] whether the place's context is of the half that rules are scored on."""
    background: int
    """Number of background rows."""
    starts: NDArray[np.int64]
    """[features + 1] where each feature's firings start in `places`."""
    places: NDArray[np.int64]
    """[firings] the place of each firing of either sample, feature after feature."""
    fired_starts: NDArray[np.int64]
    """[features + 1] where each feature's rows start in `fired_rows`."""
    fired_rows: NDArray[np.int64]
    """[entries] background rows on which each feature fires, feature after feature."""
    density: NDArray[np.float64]
    """[features] share of all rows on which each fires."""
    akin: tuple[str, ...]
    """Coded columns that make a row like another: those of hard negatives."""

    @property
    def features(self) -> int:
        """Number of features."""
        return len(self.density)

    def firings(self, feature: int, scoring: bool) -> NDArray[np.int64]:
        """Return the places of a feature's firings in one half of the contexts."""
        places = self.places[self.starts[feature] : self.starts[feature + 1]]
        return places[self.is_scoring[places] == scoring]

    def fired(self, feature: int) -> NDArray[np.int64]:
        """Return the background rows on which a feature fires."""
        return self.fired_rows[self.fired_starts[feature] : self.fired_starts[feature + 1]]


def evidence_of(
    firings: SampledFirings,
    background: BackgroundRows,
    inputs: TextInputs | ImageInputs,
    density: NDArray[np.float64],
    seed: int,
) -> Evidence:
    """Return samples side by side with what is known of their rows.

    Raises:
        ShapeError: the samples cannot be right, or lie outside the inputs.
    """
    features = len(density)
    check_rows(firings, background, features)
    if not (np.isfinite(density).all() and (density >= 0).all() and (density <= 1).all()):
        raise ShapeError("densities must be shares from 0 to 1.")
    rows = len(background.context)
    row_key, key = _keys(background, firings)
    _, first, number = np.unique(key, return_index=True, return_inverse=True)
    context = np.concatenate([background.context, firings.context[first]]).astype(np.int64)
    position = np.concatenate([background.position, firings.position[first]]).astype(np.int64)
    by_feature = np.argsort(background.feature, kind="stable")
    fired_rows = background.row_of_entry()[by_feature]
    fired_feature = background.feature[by_feature]
    sampled = _rows_where_known(row_key, key, rows + number)
    both = _unique_pairs(
        np.concatenate([fired_feature, firings.feature]), np.concatenate([fired_rows, sampled])
    )
    return Evidence(
        columns_of(inputs, context, position),
        context,
        is_scoring(context, seed),
        rows,
        np.searchsorted(both.feature, np.arange(features + 1)),
        both.place,
        np.searchsorted(fired_feature, np.arange(features + 1)),
        fired_rows,
        density,
        _akin(inputs),
    )


def _akin(inputs: TextInputs | ImageInputs) -> tuple[str, ...]:
    if isinstance(inputs, TextInputs):
        return "token", "token before"
    return ("class",) if inputs.grid == (1, 1) else ("patch",)


class _Pairs(NamedTuple):
    feature: NDArray[np.int64]
    place: NDArray[np.int64]


def _unique_pairs(feature: NDArray[np.int64], place: NDArray[np.int64]) -> _Pairs:
    """Return each firing once, sorted by feature.

    Firings on background rows are a uniform sample too: of common features they are the most.
    """
    count = int(place.max(initial=0)) + 1
    return _Pairs(*np.divmod(np.unique(feature * count + place), count))


def _keys(
    background: BackgroundRows, firings: SampledFirings
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return a number for each context and position, of the background's rows and of firings."""
    positions = [background.position.max(initial=0), firings.position.max(initial=0)]
    apart = int(max(positions)) + 1
    return (
        background.context * apart + background.position,
        firings.context * apart + firings.position,
    )


def _rows_where_known(
    row_key: NDArray[np.int64], key: NDArray[np.int64], place: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the background row that is the same place, where there is one, else `place`."""
    if not len(row_key):
        return place
    order = np.argsort(row_key, kind="stable")
    near = order[np.searchsorted(row_key[order], key).clip(max=len(order) - 1)]
    return np.where(row_key[near] == key, near, place)
