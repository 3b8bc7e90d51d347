"""What fires each feature, how features hang together; probes, controlled inputs, effects."""

from probe_sae.analysis.effect_results import Effects, HostEffect
from probe_sae.analysis.factors import FactorEffects, factor_effects
from probe_sae.analysis.host_effects import ablation_effects, steering_effects
from probe_sae.analysis.passes import analyse
from probe_sae.analysis.probe_scores import Probes
from probe_sae.analysis.probes import probe
from probe_sae.analysis.responding import Contrast, Responses, contrast, responses
from probe_sae.analysis.result import Analysis, ImageInputs, TextInputs
from probe_sae.analysis.saved import load_analysis, save_analysis
from probe_sae.analysis.varied import Varied, vary, vary_tensors
from probe_sae.analysis.varied_images import vary_images

__all__ = [
    "Analysis",
    "Contrast",
    "Effects",
    "FactorEffects",
    "HostEffect",
    "ImageInputs",
    "Probes",
    "Responses",
    "TextInputs",
    "Varied",
    "ablation_effects",
    "analyse",
    "contrast",
    "factor_effects",
    "load_analysis",
    "probe",
    "responses",
    "save_analysis",
    "steering_effects",
    "vary",
    "vary_images",
    "vary_tensors",
]
