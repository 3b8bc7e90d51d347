"""Which feature of one analysis is which of another: decoder directions matched one to one.

The largest cosine first, each feature once, so that two features that are nearest to each other are
always a pair. The matching with the largest sum of cosines (Hungarian) breaks such pairs to gain
elsewhere: on a demo dictionary of 2,048 features and one of 1,024 it left 537 pairs at a cosine of
0.7 or more, and this one 547. Costs `2 * len(a) * len(b) * d` multiplications.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from probe_sae.analysis.result import Analysis
from probe_sae.errors import FormatError, SettingsError
from probe_sae.evaluation.matching import CANDIDATES, greedy_pairs, nearest


@dataclass(frozen=True)
class Side:
    """What each feature of one dictionary has in the other; dead features have nothing."""

    pair: NDArray[np.int64]
    """[features] counterpart in the one-to-one matching, -1 for none."""
    pair_cosine: NDArray[np.float32]
    """[features] its cosine, NaN for none."""
    best: NDArray[np.int64]
    """[features] nearest feature of the other, -1 for none; it may be nearest to several."""
    best_cosine: NDArray[np.float32]
    """[features] its cosine, NaN for none."""


@dataclass(frozen=True)
class Counterparts:
    """Two dictionaries' features, matched one to one."""

    a: Side
    b: Side
    either_sign: bool
    """Whether a direction and its opposite count as the same: where activations can be negative."""


def counterparts(a: Analysis, b: Analysis) -> Counterparts:
    """Match the features that fire in two analyses of the same site by their decoder directions.

    Raises:
        SettingsError: they are of different sites, hosts, kinds or widths, or of several
            dictionaries each.
        FormatError: one was written without directions.
    """
    ours, theirs = _comparable(a, b)
    alive_a, alive_b = (np.flatnonzero(one.columns.firings > 0) for one in (a, b))
    sides = _nothing(a.count), _nothing(b.count)
    either_sign = any(map(_is_signed, (a, b)))
    if not len(alive_a) or not len(alive_b):
        return Counterparts(*sides, either_sign)
    x, y = (
        torch.from_numpy(some[alive].astype(np.float32))
        for some, alive in ((ours, alive_a), (theirs, alive_b))
    )
    there = nearest(x, y, CANDIDATES, either_sign=either_sign)
    back = nearest(y, x, CANDIDATES, either_sign=either_sign)
    of_a, of_b, cosine = greedy_pairs(there, back)
    for side, alive, others, own, other, near in (
        (sides[0], alive_a, alive_b, of_a, of_b, there),
        (sides[1], alive_b, alive_a, of_b, of_a, back),
    ):
        side.pair[alive[own]] = others[other]
        side.pair_cosine[alive[own]] = np.clip(cosine, -1, 1)
        side.best[alive] = others[near.index[:, 0]]
        side.best_cosine[alive] = np.clip(near.cosine[:, 0], -1, 1)
    return Counterparts(*sides, either_sign)


def _nothing(count: int) -> Side:
    none = np.full(count, -1, np.int64)
    unknown = np.full(count, np.nan, np.float32)
    return Side(none, unknown, none.copy(), unknown.copy())


def _comparable(a: Analysis, b: Analysis) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    for name, ours, theirs in (
        ("kinds", a.info.get("kind"), b.info.get("kind")),
        ("sites", a.info.get("site"), b.info.get("site")),
        ("hosts", _host(a), _host(b)),
    ):
        if ours != theirs:
            raise SettingsError(
                f"the analyses are of different {name}, {ours!r} and {theirs!r}: their directions "
                "lie in different spaces. Compare two dictionaries of one site of one host."
            )
    for analysis in (a, b):
        if len(analysis.info.get("parts") or ()) > 1:
            raise SettingsError(
                "one of the analyses is of several dictionaries together; compare analyses of a "
                "single one each."
            )
    if a.directions is None or b.directions is None:
        which = "first" if a.directions is None else "second"
        raise FormatError(
            f"the {which} analysis was written without decoder directions, which comparing needs; "
            "analyse again."
        )
    if a.directions.shape[1] != b.directions.shape[1]:
        raise SettingsError(
            f"the dictionaries' directions are {a.directions.shape[1]} and "
            f"{b.directions.shape[1]} wide; compare two dictionaries of the same site."
        )
    return a.directions, b.directions


def _host(analysis: Analysis) -> Any:
    host = analysis.info.get("host")
    return host.get("digest") or host.get("name") if isinstance(host, Mapping) else host


def _is_signed(analysis: Analysis) -> bool:
    """Return whether activations can be negative; see `Settings.is_signed`."""
    sae = analysis.info.get("sae")
    known: Any = sae if isinstance(sae, Mapping) else {}
    settings = known.get("settings")
    activation = settings.get("activation") if isinstance(settings, Mapping) else None
    return "signed_topk" in (known.get("arch"), activation)
