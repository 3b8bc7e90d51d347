"""Look inside neural networks: record, learn a dictionary, analyse, browse.

The public names are imported when they are first used, so that `import probe_sae` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probe_sae.analysis import Analysis, Codes, analyse, encode, load_analysis, open_codes
    from probe_sae.errors import ProbeSaeError
    from probe_sae.evaluation import Evaluation, Recovery, evaluate, recovery, steer
    from probe_sae.host import (
        Ablate,
        Clamp,
        Host,
        Patch,
        Splice,
        Steer,
        check,
        edit,
        load_host,
        tap,
    )
    from probe_sae.recording import (
        CaptureSettings,
        HostStream,
        Recipe,
        World,
        WorldSettings,
        capture,
        dataset_from,
        like_synthsaebench,
        load_dataset,
    )
    from probe_sae.reporting import write_report
    from probe_sae.sae import (
        KL,
        L1,
        OMP,
        SAE,
        Archetypal,
        BatchTopK,
        Crosscoder,
        FrozenDecoder,
        FrozenEncoder,
        Gated,
        HierarchicalTopK,
        JumpReLU,
        LeaveOneOut,
        Lista,
        MatchingPursuit,
        Matryoshka,
        SignedTopK,
        SparseCodes,
        TopK,
        Transcoder,
        fraction_unexplained,
        load_sae,
        make_sae,
    )
    from probe_sae.store import Store, join_stores, merge_stores, open_store, shuffle_store
    from probe_sae.training import TrainSettings, train, train_several

_HOMES = {
    "analysis": ("Analysis", "Codes", "analyse", "encode", "load_analysis", "open_codes"),
    "errors": ("ProbeSaeError",),
    "evaluation": ("Evaluation", "Recovery", "evaluate", "recovery", "steer"),
    "host": (
        "Ablate",
        "Clamp",
        "Host",
        "Patch",
        "Splice",
        "Steer",
        "check",
        "edit",
        "load_host",
        "tap",
    ),
    "recording": (
        "CaptureSettings",
        "HostStream",
        "Recipe",
        "World",
        "WorldSettings",
        "capture",
        "dataset_from",
        "like_synthsaebench",
        "load_dataset",
    ),
    "reporting": ("write_report",),
    "sae": (
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
        "SignedTopK",
        "SparseCodes",
        "TopK",
        "Transcoder",
        "fraction_unexplained",
        "load_sae",
        "make_sae",
    ),
    "store": ("Store", "join_stores", "merge_stores", "open_store", "shuffle_store"),
    "training": ("TrainSettings", "train", "train_several"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = [
    "KL",
    "L1",
    "OMP",
    "SAE",
    "Ablate",
    "Analysis",
    "Archetypal",
    "BatchTopK",
    "CaptureSettings",
    "Clamp",
    "Codes",
    "Crosscoder",
    "Evaluation",
    "FrozenDecoder",
    "FrozenEncoder",
    "Gated",
    "HierarchicalTopK",
    "Host",
    "HostStream",
    "JumpReLU",
    "LeaveOneOut",
    "Lista",
    "MatchingPursuit",
    "Matryoshka",
    "Patch",
    "ProbeSaeError",
    "Recipe",
    "Recovery",
    "SignedTopK",
    "SparseCodes",
    "Splice",
    "Steer",
    "Store",
    "TopK",
    "TrainSettings",
    "Transcoder",
    "World",
    "WorldSettings",
    "analyse",
    "capture",
    "check",
    "dataset_from",
    "edit",
    "encode",
    "evaluate",
    "fraction_unexplained",
    "join_stores",
    "like_synthsaebench",
    "load_analysis",
    "load_dataset",
    "load_host",
    "load_sae",
    "make_sae",
    "merge_stores",
    "open_codes",
    "open_store",
    "recovery",
    "shuffle_store",
    "steer",
    "tap",
    "train",
    "train_several",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"probe_sae has no attribute {name!r}")
    return getattr(importlib.import_module(f"probe_sae.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
