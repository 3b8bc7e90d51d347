"""Recorded inputs once more: held-out contexts in batches, and what the host answers to them."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.errors import SettingsError
from probe_sae.host import Host
from probe_sae.recording import Batch, Recipe, as_recorded, batches, load_dataset
from probe_sae.recording.recipe import as_recipe, recipe_names
from probe_sae.store import ContextInput, Store

TEXTS_AT_ONCE = 8
"""Texts of a batch: the logits of so many are held twice."""
THUMBNAILS_APART = 4
"""By so much the pixels of the same image may differ, of 255, in the mean."""


def recorded_recipe(store: Store, dataset: Recipe | str | Path | None) -> Recipe:
    """Return a recipe, or the one of a name or path; by default the one a store was recorded from.

    That is found by its name only among the recipes that come with the package: a store of somebody
    else's names no path to read here.

    Raises:
        DatasetError: there is no such dataset.
        SettingsError: by default, and the store's dataset is none of the package's.
    """
    if dataset is not None:
        return as_recipe(dataset)
    name = str(store.provenance.get("dataset", {}).get("name"))
    if name not in recipe_names():
        raise SettingsError(
            f"the store was recorded from dataset {name}, which does not come with the package: "
            "give it once more (--dataset)."
        )
    return load_dataset(name)


def check_recorded(store: Store, host: Host, recipe: Recipe) -> None:
    """Raise unless a store was recorded from these, as far as the first inputs tell.

    `held_batches` compares the others as it comes to them.

    Raises:
        SettingsError: it has another host's or another dataset's rows.
    """
    whose, which = (store.provenance.get(name, {}) for name in ("host", "dataset"))
    if whose.get("digest") != host.digest:
        raise SettingsError(
            f"the store was recorded from {whose.get('name')} with other weights than "
            f"{host.name} has here; its loss would mean nothing."
        )
    if "joined" in store.provenance:
        raise SettingsError(
            f"{store.folder} is of several recordings; give the one whose dataset {recipe.name} is."
        )
    if store.kind != recipe.kind:
        raise SettingsError(
            f"the store was recorded from another dataset {which.get('name')} than "
            f"{recipe.name} is here; give that one (--dataset)."
        )
    for _ in islice(_recorded_batches(host, store, recipe), 2):  # a first may be all there is
        pass


def held_batches(
    host: Host, store: Store, recipe: Recipe, held: NDArray[np.bool_], most: int
) -> Iterator[tuple[int, Batch]]:
    """Yield how many of some contexts came before, and a few more of them, `most` in all.

    Args:
        host: the one that was recorded.
        store: what was recorded.
        recipe: the dataset that was recorded.
        held: which contexts, [contexts].
        most: how many at most.

    Raises:
        SettingsError: the dataset gives other inputs than were recorded.
    """
    done = 0
    for batch in _recorded_batches(host, store, recipe):
        places = [i for i, c in enumerate(batch.contexts) if c.index < len(held) and held[c.index]]
        places = places[: most - done]
        # Images are few numbers each: they stay together. Texts have logits at every token.
        size = TEXTS_AT_ONCE if batch.keep is not None else max(1, len(places))
        for start in range(0, len(places), size):
            some = places[start : start + size]
            yield done, some_of(batch, some)
            done += len(some)
        if done >= most:
            return


def _recorded_batches(host: Host, store: Store, recipe: Recipe) -> Iterator[Batch]:
    """Yield a dataset's batches, each compared with what was recorded, as far as that goes.

    Raises:
        SettingsError: the dataset gives other inputs, or fewer.
    """
    recorded, left = store.inputs(), store.contexts
    for batch in batches(host, recipe, **as_recorded(store.provenance["settings"])):
        for context in batch.contexts[:left]:
            _check_same(recipe, context, next(recorded))
        left -= len(batch.contexts)
        yield batch
        if left <= 0:
            return
    raise SettingsError(
        f"dataset {recipe.name} ends {left:,} inputs before the {store.contexts:,} that were "
        "recorded do. Give the dataset that was recorded."
    )


def _check_same(recipe: Recipe, now: ContextInput, then: ContextInput) -> None:
    """Raise unless an input is the one that was recorded.

    Images may be resized a little differently by another version of a library. Names count where
    there is nothing else: the same data may be called otherwise.
    """
    same = (now.index, now.document, now.label) == (then.index, then.document, then.label)
    if now.tokens is not None and then.tokens is not None:
        same &= np.array_equal(now.tokens, then.tokens)
    elif now.thumbnail is not None and then.thumbnail is not None:
        same &= now.thumbnail.shape == then.thumbnail.shape and bool(
            np.abs(now.thumbnail.astype(np.int16) - then.thumbnail).mean() <= THUMBNAILS_APART
        )
    else:
        same &= now.name == then.name
    if not same:
        raise SettingsError(
            f"dataset {recipe.name} gives something else as its input {now.index} "
            f"({now.name!r}, class {now.label}) than was recorded ({then.name!r}, class "
            f"{then.label}): a loss on it would mean nothing. Give the dataset that was recorded."
        )


def some_of(batch: Batch, places: list[int]) -> Batch:
    """Return some of a batch's contexts, one several times too, without needless padding."""
    longest = slice(None)
    if batch.keep is not None:
        used = batch.inputs["attention_mask"][places].any(0).nonzero()
        longest = slice(0, int(used.max()) + 1 if len(used) else 0)

    def cut(tensor: Tensor) -> Tensor:
        return tensor[places][:, longest] if batch.keep is not None else tensor[places]

    return Batch(
        {name: cut(tensor) for name, tensor in batch.inputs.items()},
        [batch.contexts[i] for i in places],
        None if batch.keep is None else batch.keep[places][:, longest],
        None if batch.positions is None else batch.positions[places][:, longest],
        batch.labels[places],
        None if batch.documents is None else batch.documents[places][:, longest],
    )


def answers_of(batch: Batch, output: object) -> Tensor | None:
    """Return the host's logits at each target, [targets, classes]; None where there are none.

    A target is a recorded token after another position of its context, or an image of a class.
    """
    logits: Any = getattr(output, "logits", output)
    if why_no_loss(batch, output):
        return None
    if batch.keep is not None:
        return logits[:, :-1][batch.keep[:, 1:].to(logits.device)]
    return logits


def why_no_loss(batch: Batch, output: object) -> str:
    """Return why a host has no loss on a batch, for a message; nothing where it has one."""
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        return f"it gives {type(logits).__name__}, no tensor of logits"
    if batch.keep is not None:
        if logits.ndim == 3 and logits.shape[:2] == batch.keep.shape:
            return ""
        return f"it gives {list(logits.shape)}, expected logits, [texts, tokens, vocabulary]"
    if logits.ndim != 2:
        return f"it gives {list(logits.shape)}, expected logits, [images, classes]"
    if bool((batch.labels < 0).any()):
        return "not every image has a class"
    if int(batch.labels.max()) >= logits.shape[1]:
        return f"an image has class {int(batch.labels.max())}, and it knows {logits.shape[1]}"
    return ""


def targets_of(batch: Batch, logits: Tensor) -> tuple[Tensor, NDArray[np.int64]]:
    """Return the right answer and the context of each target, [targets]."""
    if batch.keep is None:
        return batch.labels.to(logits.device), np.arange(len(batch.labels))
    wanted = batch.keep[:, 1:]
    ids = batch.inputs["input_ids"][:, 1:]
    return ids[wanted.to(ids.device)].to(logits.device), wanted.nonzero()[:, 0].numpy()
