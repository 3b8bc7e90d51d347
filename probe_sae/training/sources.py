"""What a dictionary is trained on: a store, a stream or a tensor, and the part that is held out."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probe_sae.errors import SettingsError, ShapeError
from probe_sae.progress import say
from probe_sae.sae import Plain, Settings
from probe_sae.shown import as_text
from probe_sae.store import (
    SiteRows,
    SitesStream,
    SplitStream,
    Store,
    StoreStream,
    Stream,
    TensorStream,
    held_out_contexts,
    stream_of,
)
from probe_sae.training.alarms import name_bad_rows
from probe_sae.training.settings import TrainSettings

_KNOWN_ROWS = 1024
Data = Store | Stream | Tensor | tuple[Tensor, ...]
"""What `train` learns from, once a path is opened."""


def check_given(data: Any, settings: Any, trainer: Any) -> None:
    """Look whether what a user gave `train` is of the kinds that it takes.

    Raises:
        SettingsError: it is not.
    """
    parts = data if isinstance(data, tuple) else (data,)
    is_rows = all(isinstance(part, Tensor) for part in parts)
    is_source = isinstance(data, (str, Path, Store, SplitStream)) or hasattr(data, "epoch")
    if not is_rows and not is_source:
        hint = ""
        if isinstance(data, SiteRows):
            hint = " Give the store itself, and the site by name: train(store, ..., site=NAME)."
        elif isinstance(data, np.ndarray):
            hint = " Give torch.from_numpy(rows)."
        raise SettingsError(
            f"rows to learn from are a {type(data).__name__}; expected a store or its path, a "
            f"stream, or tensors of shape [rows, width].{hint}"
        )
    if not isinstance(settings, Sequence) or isinstance(settings, str) or not settings:
        raise SettingsError(f"settings are {settings!r}; expected a list of at least one.")
    for each in settings:
        if isinstance(each, Plain):
            raise SettingsError(
                "a dictionary of another library is for use and exchange, and is not trained "
                "further. Choose an architecture: `probe-sae list archs`."
            )
        if not isinstance(each, Settings):
            raise SettingsError(
                f"settings are {each!r}; expected those of an architecture, such as "
                "TopK(features=4096, k=32)."
            )
    if not isinstance(trainer, TrainSettings):
        raise SettingsError(f"the trainer's settings are {trainer!r}; expected TrainSettings(...).")


def sources(
    data: Data, sites: Sequence[str] | None, trainer: TrainSettings
) -> tuple[Stream, Stream, dict[str, Any]]:
    """Return the stream to train on, one of rows that training never sees, and provenance.

    Args:
        data: a store, a stream, a tensor [rows, d_model], or one tensor for each of several sites.
        sites: which sites of a store; its only one by default.
        trainer: says what is held out.

    Raises:
        SettingsError: sites are named of tensors, or a tensor's rows are no rows of numbers.
    """
    if isinstance(data, (Tensor, tuple)):
        if sites:
            raise SettingsError(f"a site is named ({', '.join(sites)}), but tensors have none.")
        parts = data if isinstance(data, tuple) else (data,)
        return *_of_tensors(parts, trainer), {"tensors": [_known_by(part) for part in parts]}
    split = {"held_out": trainer.held_out, "seed": trainer.seed}
    if isinstance(data, SplitStream):
        seen, unseen = data.split(trainer.held_out, trainer.seed)
        return seen, unseen, data.provenance | {"split": split}
    if not isinstance(data, Store):
        return data, data, {}
    names = data.find_sites(sites) if sites else [data.site().name]
    held = held_out_contexts(data.contexts, trainer.held_out, trainer.seed)
    if trainer.held_out and not held.any():
        held[-1:] = True
    provenance = {
        "sites": names,
        "store": {
            "rows": data.rows,
            "contexts": data.contexts,
            "recording": data.recording,
            "manifest": data.manifest["sha256"][:16],
        },
        "host": data.provenance.get("host"),
        "dataset": data.provenance.get("dataset"),
        "versions": data.provenance.get("versions"),
        "split": split,
    }
    training = stream_of(data, names, trainer.seed, ~held)
    _say_mixing(training, min(trainer.batch_size, training.rows))
    if not trainer.held_out:
        return training, training, provenance
    return training, stream_of(data, names, trainer.seed, held), provenance


def _known_by(rows: Tensor) -> dict[str, Any]:
    """Return what tells rows from others: their shape, and a hash of some 1,024 of them."""
    some = rows[:: max(1, len(rows) // _KNOWN_ROWS)].detach().cpu().contiguous()
    digest = hashlib.sha256(some.view(torch.uint8).numpy().data).hexdigest()
    return {"shape": list(rows.shape), "sha256": digest}


def _of_tensors(
    parts: tuple[Tensor, ...], trainer: TrainSettings
) -> tuple[TensorStream, TensorStream]:
    if any(part.ndim != 2 or len(part) != len(parts[0]) for part in parts):
        shapes = ", ".join(str(tuple(part.shape)) for part in parts)
        raise ShapeError(f"rows have shape {shapes}, expected [rows, d_model] of as many rows.")
    for rows in parts:
        if rows.is_complex() or not rows.shape[1]:
            kind = str(rows.dtype).removeprefix("torch.")
            raise ShapeError(f"rows are {kind} {tuple(rows.shape)}; expected real numbers.")
        if message := name_bad_rows(rows, 0, None, "of the tensor"):
            raise SettingsError(message)
    rows = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    widths = tuple(part.shape[1] for part in parts)
    count = round(len(rows) * (1 - trainer.held_out))
    if not 0 < count < len(rows) and trainer.held_out:
        raise SettingsError(f"{len(rows)} rows cannot be split into training and held-out.")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(trainer.seed))
    held = order[count:] if trainer.held_out else order
    seen, unseen = (
        TensorStream(rows, trainer.seed, widths=widths, numbers=mine)
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
    met, by_chance = (as_text(float(f"{n:.2g}")) for n in (companions, companions / mixing))
    say(
        f"mixing: a row meets {met} rows of its own context in its batch, by chance it would be "
        f"{by_chance}.{advice}"
    )
