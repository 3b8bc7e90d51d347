"""The samples of one dictionary, side by side: what is known of each row, and who fires there."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.labels.columns import Columns
from probe_sae.analysis.labels.rows import (
    BackgroundRows,
    SampledFirings,
    check_rows,
    is_scoring,
)
from probe_sae.analysis.labels.rules import columns_of
from probe_sae.analysis.result import ImageInputs, TextInputs
from probe_sae.errors import ShapeError


@dataclass(frozen=True)
class Evidence:
    """Rows of both samples as places of one set of columns: the background first, then firings."""

    columns: Columns
    context: NDArray[np.int64]
    """[places]"""
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
    context = np.concatenate([background.context, firings.context]).astype(np.int64)
    position = np.concatenate([background.position, firings.position]).astype(np.int64)
    rows = len(background.context)
    by_feature = np.argsort(background.feature, kind="stable")
    fired_rows = background.row_of_entry()[by_feature]
    fired_feature = background.feature[by_feature]
    starts, places = _both_samples(firings, background, fired_feature, fired_rows, features)
    is_grid = isinstance(inputs, ImageInputs) and inputs.grid != (1, 1)
    akin = ("patch",) if is_grid else ("class",)
    return Evidence(
        columns_of(inputs, context, position),
        context,
        is_scoring(context, seed),
        rows,
        starts,
        places,
        np.searchsorted(fired_feature, np.arange(features + 1)),
        fired_rows,
        density,
        ("token", "token before") if isinstance(inputs, TextInputs) else akin,
    )


def _both_samples(
    firings: SampledFirings,
    background: BackgroundRows,
    fired_feature: NDArray[np.int64],
    fired_rows: NDArray[np.int64],
    features: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where each feature's firings start, and their places, each firing once.

    Firings on background rows are a uniform sample too: of common features they are the most.
    """
    rows = len(background.context)
    context = np.concatenate([background.context[fired_rows], firings.context])
    position = np.concatenate([background.position[fired_rows], firings.position])
    feature = np.concatenate([fired_feature, firings.feature])
    place = np.concatenate([fired_rows, rows + np.arange(len(firings.feature))])
    order = np.lexsort((place, position, context, feature))
    keys = np.stack([feature, context, position])[:, order]
    is_new = np.ones(len(order), np.bool_)
    is_new[1:] = (keys[:, 1:] != keys[:, :-1]).any(0)
    kept = order[is_new]
    return np.searchsorted(feature[kept], np.arange(features + 1)), place[kept]
