"""Inputs to rows: recipes, batches, capture."""

from probe_sae.recording.batches import Batch, batches
from probe_sae.recording.recipe import Recipe, load_dataset, recipe_names
from probe_sae.recording.recorder import CaptureSettings, capture
from probe_sae.recording.rows import RowGatherer, channels_last

__all__ = [
    "Batch",
    "CaptureSettings",
    "Recipe",
    "RowGatherer",
    "batches",
    "capture",
    "channels_last",
    "load_dataset",
    "recipe_names",
]
