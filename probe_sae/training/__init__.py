"""Learn dictionaries from rows."""

from probe_sae.training.alarms import warn_of_scale
from probe_sae.training.beginning import train, train_several
from probe_sae.training.settings import TrainSettings, split_settings
from probe_sae.training.trackers import TrackedRun
from probe_sae.training.tracking import openers_for

__all__ = [
    "TrackedRun",
    "TrainSettings",
    "openers_for",
    "split_settings",
    "train",
    "train_several",
    "warn_of_scale",
]
