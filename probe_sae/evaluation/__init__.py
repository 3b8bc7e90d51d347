"""How faithful a dictionary is, beside ablation; what its features do to the host."""

from probe_sae.evaluation.faithfulness import Evaluation, check_width, evaluate, finite, held_out
from probe_sae.evaluation.steering import Steered, steer

__all__ = [
    "Evaluation",
    "Steered",
    "check_width",
    "evaluate",
    "finite",
    "held_out",
    "steer",
]
