"""What a dictionary is trained on: a store, a stream or a tensor, and the part that is held out."""

from typing import Any

import torch
from torch import Tensor

from probe_sae.errors import SettingsError
from probe_sae.progress import say
from probe_sae.store import (
    SplitStream,
    Store,
    StoreStream,
    Stream,
    TensorStream,
    held_out_contexts,
)
from probe_sae.training.settings import TrainSettings


def sources(
    data: Store | Stream | Tensor, site: str | None, trainer: TrainSettings
) -> tuple[Stream, Stream, dict[str, Any]]:
    """Return the stream to train on, one of rows that training never sees, and provenance."""
    if isinstance(data, Tensor):
        count = round(len(data) * (1 - trainer.held_out))
        if not 0 < count < len(data):
            raise SettingsError(f"{len(data)} rows cannot be split into training and held-out.")
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(trainer.seed))
        seen, unseen = data[order[:count]], data[order[count:]]
        return TensorStream(seen, trainer.seed), TensorStream(unseen, trainer.seed), {}
    split = {"held_out": trainer.held_out, "seed": trainer.seed}
    if isinstance(data, SplitStream):
        seen, unseen = data.split(trainer.held_out, trainer.seed)
        return seen, unseen, data.provenance | {"split": split}
    if not isinstance(data, Store):
        return data, data, {}
    info = data.site(site)
    held = held_out_contexts(data.contexts, trainer.held_out, trainer.seed)
    if trainer.held_out and not held.any():
        held[-1:] = True
    provenance = {
        "site": info.name,
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
    training = StoreStream(data, info.name, trainer.seed, ~held)
    _say_mixing(training, trainer.batch_size)
    return training, StoreStream(data, info.name, trainer.seed, held), provenance


def _say_mixing(stream: StoreStream, batch: int) -> None:
    """Say how well batches are mixed, and what to do where it is badly."""
    companions, mixing = stream.companions(batch), stream.mixing(batch)
    advice = ""
    if companions > 1 and mixing > 1.5:
        advice = " `probe-sae store shuffle` writes a copy that is mixed perfectly."
    say(
        f"mixing: a row meets {companions:.2g} rows of its own context in its batch, by chance it "
        f"would be {companions / mixing:.2g}.{advice}"
    )
