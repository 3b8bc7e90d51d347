"""The contexts that examples point to, copied out of the store."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.contexts import ImageInputs, TextInputs
from probe_sae.store import ContextInput, Store

Place = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.int64]]
"""(context in the store, place in its document) -> index among the context's tokens or patches."""


def kept_inputs(
    store: Store, wanted: NDArray[np.bool_]
) -> tuple[TextInputs | ImageInputs, Place, NDArray[np.int64]]:
    """Return some contexts of a store, how places are found in them, and their new numbers.

    Args:
        store: where they are.
        wanted: which, [contexts].
    """
    kept = [context for context in store.inputs() if wanted[context.index]]
    numbers = np.cumsum(wanted) - 1
    if store.kind == "image":
        return _images(store, kept), _same_place, numbers
    return _texts(store, kept, numbers)


def _same_place(_: NDArray[np.int64], pos: NDArray[np.int64]) -> NDArray[np.int64]:
    return pos


def _images(store: Store, kept: list[ContextInput]) -> ImageInputs:
    thumbnails = [context.thumbnail for context in kept if context.thumbnail is not None]
    height, width = store.provenance.get("grid", (1, 1))
    return ImageInputs(
        np.stack(thumbnails) if thumbnails else np.zeros((0, 1, 1, 1), np.uint8),
        np.array([context.label for context in kept], np.int32),
        [context.name for context in kept],
        list(store.provenance.get("classes", [])),
        (int(height), int(width)),
    )


def _texts(
    store: Store, kept: list[ContextInput], numbers: NDArray[np.int64]
) -> tuple[TextInputs, Place, NDArray[np.int64]]:
    special = [int(token) for token in store.provenance.get("special", [])]
    runs = [
        context.tokens if context.tokens is not None else np.zeros(0, np.int32) for context in kept
    ]
    tokens = np.concatenate([*runs, np.zeros(0, np.int32)]).astype(np.int32)
    offsets = np.cumsum([0, *map(len, runs)], dtype=np.int64)
    names: dict[int, str] = {context.document: context.name for context in kept}
    documents = {document: i for i, document in enumerate(names)}
    start = np.array([context.start for context in kept], np.int32)
    inputs = TextInputs(
        tokens,
        offsets,
        np.array([documents[context.document] for context in kept], np.int32),
        start,
        list(names.values()),
        store.vocabulary(),
        special,
    )
    # Places count recorded tokens; special ones stand between them.
    recorded = np.flatnonzero(~np.isin(tokens, special))
    first = np.searchsorted(recorded, offsets[:-1])

    def place(context: NDArray[np.int64], pos: NDArray[np.int64]) -> NDArray[np.int64]:
        number = numbers[context]
        return recorded[first[number] + pos - start[number]] - offsets[number]

    return inputs, place, numbers
