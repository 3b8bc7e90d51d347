"""How faithful a dictionary is, beside ablation."""

from probe_sae.evaluation.faithfulness import Evaluation, check_width, evaluate, finite, held_out

__all__ = ["Evaluation", "check_width", "evaluate", "finite", "held_out"]
