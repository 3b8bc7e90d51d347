"""What fires each feature, and how features hang together: from codes, which are made once."""

from probe_sae.analysis.codes import Codes, open_codes
from probe_sae.analysis.encoding import encode
from probe_sae.analysis.passes import analyse
from probe_sae.analysis.result import Analysis, ImageInputs, TextInputs
from probe_sae.analysis.saved import load_analysis, save_analysis

__all__ = [
    "Analysis",
    "Codes",
    "ImageInputs",
    "TextInputs",
    "analyse",
    "encode",
    "load_analysis",
    "open_codes",
    "save_analysis",
]
