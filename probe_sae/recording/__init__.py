"""Inputs to rows: recipes, batches, capture."""

from probe_sae.recording.batches import Batch, as_recorded, batches
from probe_sae.recording.contexts import frame_of
from probe_sae.recording.recipe import Recipe, dataset_from, load_dataset, recipe_names
from probe_sae.recording.recorder import CaptureSettings, capture
from probe_sae.recording.rows import RowGatherer
from probe_sae.recording.streaming import HostStream
from probe_sae.recording.synthetic import Firings, World, WorldSettings, like_synthsaebench

__all__ = [
    "Batch",
    "CaptureSettings",
    "Firings",
    "HostStream",
    "Recipe",
    "RowGatherer",
    "World",
    "WorldSettings",
    "as_recorded",
    "batches",
    "capture",
    "dataset_from",
    "frame_of",
    "like_synthsaebench",
    "load_dataset",
    "recipe_names",
]
