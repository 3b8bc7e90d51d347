"""Labels without a language model: rules found on half of the contexts, scored on the other."""

from probe_sae.analysis.labels.labelling import Labels, label_features
from probe_sae.analysis.labels.rows import BackgroundRows, SampledFirings
from probe_sae.analysis.labels.rules import Rule, rule_matches
from probe_sae.analysis.labels.scores import RuleScore, score_rule

__all__ = [
    "BackgroundRows",
    "Labels",
    "Rule",
    "RuleScore",
    "SampledFirings",
    "label_features",
    "rule_matches",
    "score_rule",
]
