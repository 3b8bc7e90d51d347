"""How faithful a dictionary is, beside ablation; what its features do to the host."""

from probe_sae.evaluation.faithfulness import (
    Evaluation,
    evaluate,
    finite,
)
from probe_sae.evaluation.held_rows import held_out, sites_of
from probe_sae.evaluation.recovery import Recovery, recovery
from probe_sae.evaluation.steering import Steered, steer

__all__ = [
    "Evaluation",
    "Recovery",
    "Steered",
    "evaluate",
    "finite",
    "held_out",
    "recovery",
    "sites_of",
    "steer",
]
