"""Two dictionaries of the same rows: what they share, and which explains more."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.errors import ShapeError
from probe_sae.evaluation.formulas import figures
from probe_sae.evaluation.held_rows import check_same_sites, held_out, mean_of, rows_of, sites_of
from probe_sae.evaluation.intervals import Interval, interval_of_mean, percentiles, resamples_of
from probe_sae.evaluation.matching import (
    Matches,
    are_signed,
    encoder_of,
    match,
    nearest,
    random_like,
)
from probe_sae.evaluation.row_sums import RowSums, blocks_of
from probe_sae.interop import as_sae
from probe_sae.progress import say
from probe_sae.sae import SAE
from probe_sae.shown import Shown
from probe_sae.store import Store, as_store

if TYPE_CHECKING:
    import pandas as pd

SHARED = 0.7
"""Cosine from which on a matched feature counts as shared."""
_CODES_AT_ONCE = 1 << 24


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """What two dictionaries have in common."""

    matches: Matches
    """Their decoders' directions, matched one to one."""
    pw_mcc: float
    """Sum of the matched cosines over the features of the smaller one: 1 is the same dictionary.
    Source: "Feature consistency" 2025 (PW-MCC), but a direction and its opposite are different here
    where activations cannot be negative."""
    pw_mcc_interval: Interval
    """95 %, bootstrap over pairs."""
    pw_mcc_at_chance: float
    """The same of `a` and random directions, matched greedily."""
    mean_max_cosine: tuple[float, float]
    """Mean over features of a of the largest cosine with one of b, and the reverse."""
    shared: float
    """Share of the smaller one's features that are matched to the same counterpart by decoder and
    by encoder, with cosines of at least 0.7 both; NaN for deep encoders.
    Source: Paulo and Belrose 2025, "Sparse autoencoders trained on the same data"."""
    encoder_cosine: NDArray[np.float64] | None
    """[pairs] of the encoders of the features that `matches` has."""
    correlation: NDArray[np.float64] | None = None
    """[pairs] of the activations, with a store; NaN where one never fires."""
    fraction_unexplained: tuple[float, float] | None = None
    """Of a and b on the same rows, with a store."""
    difference: float | None = None
    """Fraction unexplained of a less that of b: below 0, a explains more."""
    difference_interval: Interval | None = None
    """95 %, paired bootstrap over contexts."""

    def table(self) -> "pd.DataFrame":
        """Return the pairs as a table."""
        table = self.matches.table()
        if self.encoder_cosine is not None:
            table["encoder_cosine"] = self.encoder_cosine
        if self.correlation is not None:
            table["correlation"] = self.correlation
        return table


@torch.no_grad()
def compare(
    a: SAE | str | Path,
    b: SAE | str | Path,
    store: Store | str | Path | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare two dictionaries, also of different sizes and architectures.

    Args:
        a: one, or its folder.
        b: another of rows of the same width.
        store: with it, activations and reconstructions are compared on rows that neither was
            trained on.
        resamples: for the intervals.
        seed: of resamples and of chance.

    Raises:
        ShapeError: they take rows of different widths.
        SettingsError: they were trained on different sites.
    """
    a, b = as_sae(a), as_sae(b)
    if a.widths != b.widths or a.d_out != b.d_out:
        raise ShapeError(
            f"the dictionaries take rows of {a.widths} and {b.widths}; compare dictionaries of the "
            "same sites."
        )
    check_same_sites(a, b)
    lines, ours, theirs = are_signed(a, b), a.directions(), b.directions()
    matches = match(ours, theirs, either_sign=lines)
    encoder_cosine, shared = _encoders(a, b, matches, lines)
    padded = np.zeros(matches.possible)
    padded[: len(matches.cosine)] = matches.cosine
    drawn = random_like(theirs, seed)
    found = Comparison(
        matches,
        pw_mcc=matches.mean_cosine,
        pw_mcc_interval=interval_of_mean(padded, resamples=resamples, seed=seed),
        pw_mcc_at_chance=match(ours, drawn, either_sign=lines, greedy=True).mean_cosine,
        mean_max_cosine=(
            float(nearest(ours, theirs, either_sign=lines).cosine.mean()),
            float(nearest(theirs, ours, either_sign=lines).cosine.mean()),
        ),
        shared=shared,
        encoder_cosine=encoder_cosine,
    )
    if store is None:
        return found
    return _on_rows(found, a, b, as_store(store), (resamples, seed))


def _encoders(
    a: SAE, b: SAE, matches: Matches, lines: bool
) -> tuple[NDArray[np.float64] | None, float]:
    """Return the cosines of matched features' encoders, and the share that both matchings share."""
    ours, theirs = encoder_of(a), encoder_of(b)
    if ours is None or theirs is None:
        return None, float("nan")
    by_encoder = match(ours, theirs, either_sign=lines)
    counterpart = np.full(len(ours), -1)
    counterpart[by_encoder.a] = by_encoder.b
    pairs = (ours[torch.from_numpy(matches.a)], theirs[torch.from_numpy(matches.b)])
    cosine = torch.cosine_similarity(pairs[0].double(), pairs[1].double(), dim=1).cpu().numpy()
    cosine = np.abs(cosine) if lines else cosine
    agree = counterpart[matches.a] == matches.b
    both = agree & (matches.cosine >= SHARED) & (cosine >= SHARED)
    return cosine, float(both.sum()) / matches.possible


def unseen_by_both(a: SAE, b: SAE, store: Store) -> NDArray[np.bool_]:
    """Mark the contexts that neither was trained on, [contexts]; those of `a` if there are none."""
    mine, theirs = held_out(a, store), held_out(b, store)
    if not (mine & theirs).any():
        say("no context is held out from both trainings; those held out from the first are taken.")
        return mine
    return mine & theirs


def _on_rows(
    found: Comparison, a: SAE, b: SAE, store: Store, resampling: tuple[int, int]
) -> Comparison:
    """Return the comparison with what rows tell."""
    sites, held = sites_of(a, store), unseen_by_both(a, b, store)
    sites_of(b, store)
    resamples, seed = resampling
    blocks = blocks_of(held, seed)
    centre = a.split(mean_of(store, sites)[None])[1][0]
    sums = [RowSums(0, centre, blocks.count) for _ in range(2)]
    together = _Correlation(found.matches)
    at_once = max(1, _CODES_AT_ONCE // max(a.features, b.features))
    for rows, context in rows_of(store, sites, held, what="compare"):
        block = torch.from_numpy(blocks.of_context[context])
        for some, at in zip(rows.split(at_once), block.split(at_once), strict=True):
            x, target = a.split(some)
            codes = [sae.encode(x) for sae in (a, b)]
            for sae, mine, each in zip((a, b), codes, sums, strict=True):
                each.add(target, sae.reconstruct(x, mine), block=at)
            together.add(*codes)
    ours, theirs = (float(figures(each.totals())["fraction_unexplained"]) for each in sums)
    interval = None
    if blocks.count > 1 and resamples:
        weights = resamples_of(blocks.count, resamples, seed)
        drawn = [figures(each.totals(weights))["fraction_unexplained"] for each in sums]
        interval = percentiles(drawn[0] - drawn[1])
    return replace(
        found,
        correlation=together.values(),
        fraction_unexplained=(ours, theirs),
        difference=ours - theirs,
        difference_interval=interval,
    )


class _Correlation:
    """Pearson's correlation of the activations of matched features, from sums in float64."""

    def __init__(self, matches: Matches) -> None:
        self._a, self._b = torch.from_numpy(matches.a), torch.from_numpy(matches.b)
        self._sums = torch.zeros(5, len(matches.a), dtype=torch.float64)
        self._rows = 0

    def add(self, a: Tensor, b: Tensor) -> None:
        """Take in dense codes of the same rows."""
        x, y = a.cpu()[:, self._a].double(), b.cpu()[:, self._b].double()
        parts = (x, y, x.square(), y.square(), x * y)
        self._sums += torch.stack([part.sum(0) for part in parts])
        self._rows += len(x)

    def values(self) -> NDArray[np.float64]:
        """Return the correlation of each pair; NaN where one of them does not vary."""
        x, y, xx, yy, xy = self._sums.numpy()
        spread = (xx - x * x / self._rows) * (yy - y * y / self._rows)
        shared = xy - x * y / self._rows
        is_known = spread > 0
        return np.where(is_known, shared / np.sqrt(np.where(is_known, spread, 1)), np.nan)
