"""Learn a dictionary from rows."""

from probe_sae.training.loop import train
from probe_sae.training.settings import TrainSettings, split_settings

__all__ = ["TrainSettings", "split_settings", "train"]
