"""One pass over codes: what fires each feature, and how features hang together."""

from probe_sae.analysis.passes import analyse
from probe_sae.analysis.probe_scores import Probes
from probe_sae.analysis.probes import probe
from probe_sae.analysis.result import Analysis, ImageInputs, TextInputs
from probe_sae.analysis.saved import load_analysis, save_analysis

__all__ = [
    "Analysis",
    "ImageInputs",
    "Probes",
    "TextInputs",
    "analyse",
    "load_analysis",
    "probe",
    "save_analysis",
]
