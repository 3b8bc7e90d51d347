"""How faithful a dictionary is, beside ablation; what its features do to the host."""

from probe_sae.evaluation.absorption import Absorption, absorption
from probe_sae.evaluation.comparison import Comparison, compare
from probe_sae.evaluation.faithfulness import (
    Evaluation,
    evaluate,
    finite,
)
from probe_sae.evaluation.held_rows import held_out, sites_of
from probe_sae.evaluation.matching import Matches, match
from probe_sae.evaluation.monosemanticity import (
    Monosemanticity,
    MonosemanticityMeter,
    monosemanticity,
)
from probe_sae.evaluation.recovery import Recovery, recovery
from probe_sae.evaluation.splitting import Splitting, splitting
from probe_sae.evaluation.stability import Stability, stability
from probe_sae.evaluation.steering import Steered, steer

__all__ = [
    "Absorption",
    "Comparison",
    "Evaluation",
    "Matches",
    "Monosemanticity",
    "MonosemanticityMeter",
    "Recovery",
    "Splitting",
    "Stability",
    "Steered",
    "absorption",
    "compare",
    "evaluate",
    "finite",
    "held_out",
    "match",
    "monosemanticity",
    "recovery",
    "sites_of",
    "splitting",
    "stability",
    "steer",
]
