"""How well a rule tells where a feature fires, on contexts that it was not found on.

Sensitivity is the share of the feature's sampled firings where the rule holds, specificity the
share of background rows without a firing where it does not, balanced accuracy their mean: 0.5 is
chance. The rows without a firing are random, so most are easy to tell apart; `hard_accuracy` takes
only those that share the token, or the token before, with a firing (images: the patch's place, or
the class).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.labels.evidence import Evidence, evidence_of
from probe_sae.analysis.labels.rows import BackgroundRows, SampledFirings
from probe_sae.analysis.labels.rules import Rule, matches
from probe_sae.analysis.result import ImageInputs, TextInputs
from probe_sae.errors import SettingsError

FEWEST = 10
"""Firings, and hard negatives, under which nothing is scored."""
_Z = 1.959963984540054
"""Standard normal quantile of a 95 % interval."""


class Share(NamedTuple):
    """A share of rows with its 95 % interval."""

    share: float
    low: float
    high: float


@dataclass(frozen=True)
class RuleScore:
    """How well a rule tells where one feature fires; NaN where there are too few rows to say."""

    balanced_accuracy: float
    """(sensitivity + specificity) / 2."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    """Upper end."""
    sensitivity: float
    """Share of the firings where the rule holds."""
    specificity: float
    """Share of the rows without a firing where it does not hold."""
    precision: float
    """Share of firings among all rows where the rule holds, at the feature's own density d:
    d * sensitivity / (d * sensitivity + (1 - d) * (1 - specificity))."""
    hard_accuracy: float
    """Balanced accuracy with hard negatives in place of random ones."""
    firings_scored: int
    """Firings that were scored."""
    rows_scored: int
    """Firings and rows without one that were scored."""


def score_rule(
    rule: Rule,
    feature: int,
    firings: SampledFirings,
    background: BackgroundRows,
    inputs: TextInputs | ImageInputs,
    density: NDArray[np.float64],
    *,
    seed: int = 0,
) -> RuleScore:
    """Score a rule of your own for a feature, on the rows on which `label_features` scores.

    Args:
        rule: for example `{"kind": "values", "column": "token", "values": ["import"]}`.
        feature: which feature the rule is to describe.
        firings: a sample of each feature's firings.
        background: a sample of all rows.
        inputs: the contexts of both.
        density: share of all rows on which each feature fires, [features].
        seed: of the cut in halves.

    Raises:
        SettingsError: the rule is none, or there is no such feature.
        ShapeError: the samples cannot be right.
    """
    if not 0 <= feature < len(density):
        raise SettingsError(f"no feature {feature}; there are {len(density)}.")
    return scored(rule, feature, evidence_of(firings, background, inputs, density, seed))


def scored(rule: Rule, feature: int, evidence: Evidence) -> RuleScore:
    """Return the score of a rule for a feature on the scoring half of the contexts."""
    firings = evidence.firings(feature, scoring=True)
    quiet = quiet_rows(feature, evidence)
    hit, false = (matches(rule, evidence.columns, rows) for rows in (firings, quiet))
    if len(firings) < FEWEST or len(quiet) < FEWEST:
        nothing = float("nan")
        return RuleScore(*[nothing] * 7, len(firings), len(firings) + len(quiet))
    sensitivity = share_of(hit, evidence.context[firings])
    specificity = share_of(~false, evidence.context[quiet])
    mean = (sensitivity.share + specificity.share) / 2
    below = np.hypot(sensitivity.share - sensitivity.low, specificity.share - specificity.low) / 2
    above = np.hypot(sensitivity.high - sensitivity.share, specificity.high - specificity.share) / 2
    hard = are_akin(evidence, firings, quiet)
    return RuleScore(
        mean,
        max(0.0, float(mean - below)),
        min(1.0, float(mean + above)),
        sensitivity.share,
        specificity.share,
        _precision(float(evidence.density[feature]), sensitivity.share, specificity.share),
        (sensitivity.share + float(1 - false[hard].mean())) / 2
        if np.count_nonzero(hard) >= FEWEST
        else float("nan"),
        len(firings),
        len(firings) + len(quiet),
    )


def quiet_rows(feature: int, evidence: Evidence) -> NDArray[np.int64]:
    """Return the background rows of the scoring half on which a feature does not fire."""
    chosen = evidence.is_scoring[: evidence.background].copy()
    chosen[evidence.fired(feature)] = False
    return np.flatnonzero(chosen)


def are_akin(
    evidence: Evidence, firings: NDArray[np.int64], rows: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Tell which rows share the token, or the token before, with some firing, [rows]."""
    akin = np.zeros(len(rows), np.bool_)
    for name in evidence.akin:
        column = evidence.columns.coded[name]
        marks = np.zeros(column.count + 1, np.bool_)
        marks[column.codes[firings]] = True
        marks[-1] = False  # what -1, no value, points to
        akin |= marks[column.codes[rows]]
    return akin


def share_of(hits: NDArray[np.bool_], context: NDArray[np.int64]) -> Share:
    """Return the share of hits with a 95 % interval that allows for rows of one context being alike.

    Wilson's interval on the effective number of rows, p (1 - p) / v, where v is the variance of the
    share over contexts; where all rows agree, the number of contexts.

    Args:
        hits: [rows].
        context: the context of each row, [rows].

    Source: Rao and Scott 1992 (effective sample size); Wilson 1927. The interval of a mean of two
    shares is that of Zou and Donner 2008 (MOVER).
    """
    rows, p = len(hits), float(hits.mean())
    _, group = np.unique(context, return_inverse=True)
    size = np.bincount(group)
    contexts = len(size)
    residual = np.bincount(group, hits, contexts) - p * size
    variance = float(residual @ residual) / rows**2 * contexts / max(1, contexts - 1)
    effective = p * (1 - p) / variance if variance > 0 else contexts
    return _wilson(p, min(float(effective), rows))


def _wilson(p: float, n: float) -> Share:
    centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    reach = _Z / (1 + _Z**2 / n) * np.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    return Share(p, max(0.0, float(centre - reach)), min(1.0, float(centre + reach)))


def _precision(density: float, sensitivity: float, specificity: float) -> float:
    right, wrong = density * sensitivity, (1 - density) * (1 - specificity)
    return right / (right + wrong) if right + wrong > 0 else float("nan")
