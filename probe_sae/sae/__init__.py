"""Dictionaries: architectures, sparse kernels, checkpoint, metrics of a reconstruction."""

from probe_sae.sae.checkpoint import load_sae, save_sae
from probe_sae.sae.dictionary import SAE, Step
from probe_sae.sae.reconstruction import DEFINITIONS, ReconstructionMeter, fraction_unexplained
from probe_sae.sae.settings import ARCHITECTURES, BatchTopK, TopK, settings_for
from probe_sae.sae.sparse import SparseCodes

__all__ = [
    "ARCHITECTURES",
    "DEFINITIONS",
    "SAE",
    "BatchTopK",
    "ReconstructionMeter",
    "SparseCodes",
    "Step",
    "TopK",
    "fraction_unexplained",
    "load_sae",
    "save_sae",
    "settings_for",
]
