"""Learn dictionaries from rows."""

from probe_sae.training.alarms import warn_of_scale
from probe_sae.training.loop import train, train_several
from probe_sae.training.settings import TrainSettings, split_settings

__all__ = ["TrainSettings", "split_settings", "train", "train_several", "warn_of_scale"]
