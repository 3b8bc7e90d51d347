"""One pass over codes: what fires each feature, and how features hang together."""

from probe_sae.analysis.explainer import (
    ChatExplainer,
    Explainer,
    Explanation,
    LabelScore,
    detection_score,
    explain_features,
    fuzzing_score,
)
from probe_sae.analysis.labels import (
    BackgroundRows,
    Labels,
    RuleScore,
    SampledFirings,
    label_features,
    rule_matches,
    score_rule,
)
from probe_sae.analysis.passes import analyse
from probe_sae.analysis.result import Analysis, ImageInputs, TextInputs
from probe_sae.analysis.saved import load_analysis, save_analysis

__all__ = [
    "Analysis",
    "BackgroundRows",
    "ChatExplainer",
    "Explainer",
    "Explanation",
    "ImageInputs",
    "LabelScore",
    "Labels",
    "RuleScore",
    "SampledFirings",
    "TextInputs",
    "analyse",
    "detection_score",
    "explain_features",
    "fuzzing_score",
    "label_features",
    "load_analysis",
    "rule_matches",
    "save_analysis",
    "score_rule",
]
