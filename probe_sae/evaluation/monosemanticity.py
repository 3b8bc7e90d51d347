"""Monosemanticity score: how alike the images are that fire a feature, in exact linear form."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from probe_sae.errors import SettingsError, ShapeError
from probe_sae.evaluation.held_rows import held_out, rows_of, sites_of
from probe_sae.evaluation.intervals import Interval, interval_of_mean
from probe_sae.interop import as_sae
from probe_sae.sae import SAE, SparseCodes
from probe_sae.shown import Shown
from probe_sae.store import Store, as_store

if TYPE_CHECKING:
    import pandas as pd

_BATCH = 4096


@dataclass(frozen=True, repr=False)
class Monosemanticity(Shown):
    """How alike the inputs are that fire a feature, by embeddings from another model.

    MS = sum over pairs n < m of a_n a_m s_nm / sum over pairs of a_n a_m, with s the cosine of the
    embeddings and a the activations, each feature's brought to 0..1 by its least and largest.
    Source: Pach et al. 2025, "Sparse autoencoders learn monosemantic features in vision-language
    models". The embeddings decide what alike means: another model gives another score.
    """

    scores: NDArray[np.float64]
    """[features]; NaN where no two inputs fire it."""
    mean: float
    """Over the features that have a score."""
    interval: Interval
    """95 %, bootstrap over features."""
    at_chance: float
    """What every feature is expected to score if embeddings are dealt to inputs at random: the mean
    cosine of two inputs, exactly."""
    inputs: int

    def table(self) -> "pd.DataFrame":
        """Return the score of each feature."""
        import pandas as pd

        return pd.DataFrame({"feature": np.arange(len(self.scores)), "score": self.scores})


class MonosemanticityMeter:
    """Gather the sums of the score over batches of any size, in float64.

    With unit embeddings e, sum over pairs of a_n a_m <e_n, e_m> is
    (||sum a e||^2 - sum a^2) / 2, and that of a_n a_m is ((sum a)^2 - sum a^2) / 2. The score does
    not change with the unit of a, and to take its least value m off changes the sums by what is
    known at the end: sum (a - m) e = sum a e - m sum e. So one pass is enough.
    """

    def __init__(self, features: int, width: int) -> None:
        """Begin with nothing seen.

        Args:
            features: size of the dictionary.
            width: length of an embedding.
        """
        self._along = np.zeros((features, width))
        self._sum, self._square = np.zeros(features), np.zeros(features)
        self._least = np.full(features, np.inf)
        self._largest = np.full(features, -np.inf)
        self._every = np.zeros(width)
        self.inputs = 0

    def add(self, codes: Tensor | SparseCodes, embeddings: Tensor) -> None:
        """Take in a batch.

        Args:
            codes: [inputs, features], or sparse ones with no feature twice in a row.
            embeddings: of the same inputs, [inputs, width], of any length but 0.

        Raises:
            ShapeError: they are not of the same inputs, or an embedding is 0 or not finite.
        """
        from scipy import sparse as matrices  # slow to import

        features, width = self._along.shape
        given = codes.values if isinstance(codes, SparseCodes) else codes
        if len(given) != len(embeddings) or embeddings.ndim != 2 or embeddings.shape[1] != width:
            raise ShapeError(
                f"codes are of {len(given)} inputs, embeddings are {tuple(embeddings.shape)}; "
                f"expected [{len(given)}, {width}]."
            )
        lengths = embeddings.double().norm(dim=1)
        if not bool(torch.isfinite(lengths).all()) or bool((lengths == 0).any()):
            raise ShapeError("an embedding is 0 or not finite: it is like nothing. Leave it out.")
        unit = normalize(embeddings.double(), dim=1).cpu().numpy()
        values, rows, columns = _entries(codes)
        shape = (len(given), features)
        matrix = matrices.csr_array((values, (rows, columns)), shape=shape)
        self._along += matrix.T @ unit
        self._sum += np.bincount(columns, values, features)
        self._square += np.bincount(columns, values * values, features)
        counts = np.bincount(columns, minlength=features)
        least, largest = np.where(counts < len(given), 0.0, np.inf), self._largest
        np.minimum.at(least, columns, values)
        np.maximum.at(largest, columns, values)
        self._largest = np.where(counts < len(given), np.maximum(largest, 0.0), largest)
        self._least = np.minimum(self._least, least)
        self._every += unit.sum(0)
        self.inputs += len(given)

    def scores(self) -> NDArray[np.float64]:
        """Return the score of each feature, [features]; NaN where no two inputs fire it."""
        least, count = np.where(np.isfinite(self._least), self._least, 0.0), self.inputs
        along = self._along - least[:, None] * self._every
        total = self._sum - count * least
        square = self._square - 2 * least * self._sum + count * least**2
        pairs = total**2 - square
        # Of one input that fires alone the difference is rounding.
        is_known = (pairs > 1e-12 * total**2) & (self._largest > self._least)
        alike = np.square(along).sum(1) - square
        return np.where(is_known, alike / np.where(is_known, pairs, 1.0), np.nan)

    def at_chance(self) -> float:
        """Return the mean cosine of two different inputs; NaN for fewer than two."""
        pairs = self.inputs**2 - self.inputs
        return (float(self._every @ self._every) - self.inputs) / pairs if pairs else float("nan")


@torch.no_grad()
def monosemanticity(
    codes: Tensor | SparseCodes | tuple[SAE | str | Path, Store | str | Path],
    embeddings: Tensor,
    *,
    features: int | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Monosemanticity:
    """Score how alike the inputs are that fire each feature; costs one pass, not pairs of inputs.

    Args:
        codes: of inputs, [inputs, features]; sparse ones need `features`. Or a dictionary and a
            store: then an input is a held-out image, and a feature's activation on it the largest
            of its rows.
        embeddings: of the same inputs, [inputs, width]; with a store, of all its contexts.
        features: size of the dictionary, for sparse codes.
        resamples: for the interval.
        seed: of resamples.

    Raises:
        ShapeError: embeddings are not of these inputs.
        SettingsError: the size is missing, or the store is shuffled.
    """
    if isinstance(codes, tuple) and not isinstance(codes, SparseCodes):
        sae, store = codes
        meter = _of_store(as_sae(sae), as_store(store), embeddings)
    else:
        if isinstance(codes, SparseCodes) and features is None:
            raise SettingsError("sparse codes do not say how many features there are: give it.")
        size = features if isinstance(codes, SparseCodes) else codes.shape[1]
        meter = MonosemanticityMeter(int(size or 0), embeddings.shape[1])
        meter.add(codes, embeddings)
    scores = meter.scores()
    known = scores[np.isfinite(scores)]
    return Monosemanticity(
        scores,
        float(known.mean()) if len(known) else float("nan"),
        interval_of_mean(known, resamples=resamples, seed=seed),
        meter.at_chance(),
        meter.inputs,
    )


def _of_store(sae: SAE, store: Store, embeddings: Tensor) -> MonosemanticityMeter:
    """Return the sums over a store's held-out contexts, each by its strongest rows."""
    if store.is_shuffled:
        raise SettingsError(
            f"{store.folder} is shuffled: the rows of an image are not together. Take the store "
            "that it was made from."
        )
    if len(embeddings) != store.contexts:
        raise ShapeError(
            f"embeddings are of {len(embeddings)} inputs, the store has {store.contexts} contexts."
        )
    meter = MonosemanticityMeter(sae.features, embeddings.shape[1])
    for rows, context in rows_of(store, sites_of(sae, store), held_out(sae, store)):
        numbers, first = np.unique(context, return_index=True)
        strongest = torch.zeros(len(numbers), sae.features)
        ends = np.append(first[1:], len(rows))
        for place, (start, end) in enumerate(zip(first.tolist(), ends.tolist(), strict=True)):
            codes = sae.encode(sae.split(rows[start:end])[0])
            strongest[place] = codes.amax(0)
        meter.add(strongest, embeddings[torch.from_numpy(numbers)])
    return meter


def _entries(
    codes: Tensor | SparseCodes,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return values, inputs and features of the entries that are not 0, [entries] each."""
    if isinstance(codes, SparseCodes):
        mask = codes.values != 0
        rows = mask.nonzero()[:, 0]
        values, columns = codes.values[mask], codes.indices[mask]
    else:
        rows, columns = codes.nonzero(as_tuple=True)
        values = codes[rows, columns]
    return values.double().cpu().numpy(), rows.cpu().numpy(), columns.cpu().numpy()
