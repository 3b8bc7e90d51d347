"""What fires each feature, and how features hang together: from codes, which are made once."""

from probe_sae.analysis.codes import Codes, open_codes
from probe_sae.analysis.contexts import ImageInputs, TextInputs
from probe_sae.analysis.effect_results import Effects, HostEffect
from probe_sae.analysis.encoding import encode
from probe_sae.analysis.explainer import (
    ChatExplainer,
    Explainer,
    Explanation,
    LabelScore,
    detection_score,
    explain_features,
    fuzzing_score,
)
from probe_sae.analysis.factors import FactorEffects, factor_effects
from probe_sae.analysis.figures import write_figure
from probe_sae.analysis.host_effects import ablation_effects, steering_effects
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
from probe_sae.analysis.probe_scores import Probes
from probe_sae.analysis.probes import probe
from probe_sae.analysis.responding import Contrast, Responses, contrast, responses
from probe_sae.analysis.result import Analysis
from probe_sae.analysis.saved import load_analysis, save_analysis
from probe_sae.analysis.varied import Varied, vary, vary_tensors
from probe_sae.analysis.varied_images import vary_images

__all__ = [
    "Analysis",
    "BackgroundRows",
    "ChatExplainer",
    "Codes",
    "Contrast",
    "Effects",
    "Explainer",
    "Explanation",
    "FactorEffects",
    "HostEffect",
    "ImageInputs",
    "LabelScore",
    "Labels",
    "Probes",
    "Responses",
    "RuleScore",
    "SampledFirings",
    "TextInputs",
    "Varied",
    "ablation_effects",
    "analyse",
    "contrast",
    "detection_score",
    "encode",
    "explain_features",
    "factor_effects",
    "fuzzing_score",
    "label_features",
    "load_analysis",
    "open_codes",
    "probe",
    "responses",
    "rule_matches",
    "save_analysis",
    "score_rule",
    "steering_effects",
    "vary",
    "vary_images",
    "vary_tensors",
    "write_figure",
]
