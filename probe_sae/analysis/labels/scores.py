"""How well a rule tells where a feature fires, on contexts that it was not found on.

Sensitivity is the share of the feature's sampled firings where the rule holds, specificity the
share of background rows without a firing where it does not, balanced accuracy their mean: 0.5 is
chance. The rows without a firing are random, so most are easy to tell apart; `hard_accuracy` takes
only those that share the token, or the token before, with a firing (images: the patch's place, or
the class).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.contexts import ImageInputs, TextInputs
from probe_sae.analysis.labels.evidence import Evidence, evidence_of
from probe_sae.analysis.labels.intervals import mean_of, share_of
from probe_sae.analysis.labels.rows import BackgroundRows, SampledFirings
from probe_sae.analysis.labels.rules import Rule, matches
from probe_sae.errors import SettingsError
from probe_sae.shown import Shown

FEWEST = 10
"""Firings, and hard negatives, under which nothing is scored."""


@dataclass(frozen=True, repr=False)
class RuleScore(Shown):
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
        return unscored(len(firings), len(firings) + len(quiet))
    sensitivity = share_of(hit, evidence.context[firings])
    specificity = share_of(~false, evidence.context[quiet])
    mean = mean_of(sensitivity, specificity)
    hard = are_akin(evidence, firings, quiet)
    return RuleScore(
        *mean,
        sensitivity.share,
        specificity.share,
        _precision(float(evidence.density[feature]), sensitivity.share, specificity.share),
        (sensitivity.share + float(1 - false[hard].mean())) / 2
        if np.count_nonzero(hard) >= FEWEST
        else float("nan"),
        len(firings),
        len(firings) + len(quiet),
    )


def unscored(firings: int, rows: int) -> RuleScore:
    """Return the score of a rule on too few firings or rows."""
    no = float("nan")
    return RuleScore(no, no, no, no, no, no, no, firings, rows)


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


def _precision(density: float, sensitivity: float, specificity: float) -> float:
    right, wrong = density * sensitivity, (1 - density) * (1 - specificity)
    return right / (right + wrong) if right + wrong > 0 else float("nan")
