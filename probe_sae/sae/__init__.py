"""Dictionaries: architectures, sparse kernels, checkpoint, metrics of a reconstruction."""

from probe_sae.sae.architectures import (
    ARCHITECTURES,
    KL,
    L1,
    Archetypal,
    BatchTopK,
    Crosscoder,
    FrozenDecoder,
    FrozenEncoder,
    Gated,
    HierarchicalTopK,
    JumpReLU,
    MatchingPursuit,
    Matryoshka,
    SignedTopK,
    TopK,
    Transcoder,
    architecture,
    make_sae,
    settings_for,
)
from probe_sae.sae.architectures.plain import Plain, PlainSAE
from probe_sae.sae.checkpoint import load_sae, save_sae
from probe_sae.sae.dictionary import SAE, Step
from probe_sae.sae.hub import fetch_folder
from probe_sae.sae.plain_form import as_plain, with_centre
from probe_sae.sae.pretrained import push_folder
from probe_sae.sae.reconstruction import DEFINITIONS, ReconstructionMeter, fraction_unexplained
from probe_sae.sae.refine import OMP, LeaveOneOut, Lista
from probe_sae.sae.settings import Settings, names_of
from probe_sae.sae.sparse import SparseCodes

__all__ = [
    "ARCHITECTURES",
    "DEFINITIONS",
    "KL",
    "L1",
    "OMP",
    "SAE",
    "Archetypal",
    "BatchTopK",
    "Crosscoder",
    "FrozenDecoder",
    "FrozenEncoder",
    "Gated",
    "HierarchicalTopK",
    "JumpReLU",
    "LeaveOneOut",
    "Lista",
    "MatchingPursuit",
    "Matryoshka",
    "Plain",
    "PlainSAE",
    "ReconstructionMeter",
    "Settings",
    "SignedTopK",
    "SparseCodes",
    "Step",
    "TopK",
    "Transcoder",
    "architecture",
    "as_plain",
    "fetch_folder",
    "fraction_unexplained",
    "load_sae",
    "make_sae",
    "names_of",
    "push_folder",
    "save_sae",
    "settings_for",
    "with_centre",
]
