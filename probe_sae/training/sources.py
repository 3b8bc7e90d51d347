"""What a dictionary is trained on: a store, a stream or a tensor, and the part that is held out."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from probe_sae.errors import SettingsError, ShapeError
from probe_sae.progress import say
from probe_sae.store import (
    SitesStream,
    SplitStream,
    Store,
    StoreStream,
    Stream,
    TensorStream,
    held_out_contexts,
    stream_of,
)
from probe_sae.training.settings import TrainSettings

Data = Store | Stream | Tensor | tuple[Tensor, ...]
"""What `train` learns from, once a path is opened."""


def sources(
    data: Data, sites: Sequence[str] | None, trainer: TrainSettings
) -> tuple[Stream, Stream, dict[str, Any]]:
    """Return the stream to train on, one of rows that training never sees, and provenance.

    Args:
        data: a store, a stream, a tensor [rows, d_model], or one tensor for each of several sites.
        sites: which sites of a store; its only one by default.
        trainer: says what is held out.
    """
    if isinstance(data, (Tensor, tuple)):
        return *_of_tensors(data if isinstance(data, tuple) else (data,), trainer), {}
    split = {"held_out": trainer.held_out, "seed": trainer.seed}
    if isinstance(data, SplitStream):
        seen, unseen = data.split(trainer.held_out, trainer.seed)
        return seen, unseen, data.provenance | {"split": split}
    if not isinstance(data, Store):
        return data, data, {}
    names = [data.site(name).name for name in sites or [None]]
    held = held_out_contexts(data.contexts, trainer.held_out, trainer.seed)
    if trainer.held_out and not held.any():
        held[-1:] = True
    provenance = {
        "sites": names,
        "store": {
            "rows": data.rows,
            "contexts": data.contexts,
            "recording": data.recording,
        },
        "host": data.provenance.get("host"),
        "dataset": data.provenance.get("dataset"),
        "versions": data.provenance.get("versions"),
        "split": split,
    }
    training = stream_of(data, names, trainer.seed, ~held)
    _say_mixing(training, trainer.batch_size)
    if not trainer.held_out:
        return training, training, provenance
    return training, stream_of(data, names, trainer.seed, held), provenance


def _of_tensors(
    parts: tuple[Tensor, ...], trainer: TrainSettings
) -> tuple[TensorStream, TensorStream]:
    if any(part.ndim != 2 or len(part) != len(parts[0]) for part in parts):
        shapes = ", ".join(str(tuple(part.shape)) for part in parts)
        raise ShapeError(f"rows have shape {shapes}, expected [rows, d_model] of as many rows.")
    rows = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    widths = tuple(part.shape[1] for part in parts)
    count = round(len(rows) * (1 - trainer.held_out))
    if not 0 < count < len(rows) and trainer.held_out:
        raise SettingsError(f"{len(rows)} rows cannot be split into training and held-out.")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(trainer.seed))
    held = order[count:] if trainer.held_out else order
    seen, unseen = (
        TensorStream(rows[mine], trainer.seed, widths=widths, numbers=mine)
        for mine in (order[:count], held)
    )
    return seen, unseen


def _say_mixing(stream: StoreStream | SitesStream, batch: int) -> None:
    """Say how well batches are mixed, and what to do where it is badly."""
    companions, mixing = stream.companions(batch), stream.mixing(batch)
    if not companions:
        return  # every row is a context of its own
    advice = ""
    if companions > 1 and mixing > 1.5:
        advice = " `probe-sae store shuffle` writes a copy that is mixed perfectly."
    say(
        f"mixing: a row meets {companions:.2g} rows of its own context in its batch, by chance it "
        f"would be {companions / mixing:.2g}.{advice}"
    )
