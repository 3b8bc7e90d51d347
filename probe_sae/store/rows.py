"""What flows between the rooms: rows with their places, and the contexts they come from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class ContextInput:
    """One context: a run of a document's tokens, or one image."""

    index: int
    """Its number in the recording, counted from 0."""
    document: int
    """Number of its document or image in the recipe's order."""
    name: str
    """Name of the document or image."""
    start: int = 0
    """Position in the document of its first token that is not special."""
    tokens: NDArray[np.int32] | None = None
    """Text: all token ids as the host saw them, special ones included, padding not."""
    thumbnail: NDArray[np.uint8] | None = None
    """Images: [height, width, channels]."""
    label: int = -1
    """Class of the image, -1 where unknown."""


@dataclass(frozen=True)
class RecordedRows:
    """Rows of several sites on one row axis, whole contexts only."""

    sites: Mapping[str, Tensor]
    """Site name -> [rows, width]."""
    columns: Mapping[str, NDArray[Any]]
    """`doc`, `context`, `pos`, for text `token`: [rows] each."""
    contexts: list[ContextInput] = field(default_factory=list[ContextInput])
    """The contexts that begin in these rows."""

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.columns["context"])


@dataclass(frozen=True)
class RowBlock:
    """Some rows of a store with their columns."""

    start: int
    stop: int
    columns: dict[str, NDArray[Any]]
    """`doc`, `context`, `pos`, for text `token`, for images `y` and `x`: [rows] each."""


class Stream(Protocol):
    """Batches of rows for training: what a store gives, and what a tensor or a host can give."""

    widths: tuple[int, ...]
    """Length of a row at each site that it holds; mostly of one."""

    def epoch(self, number: int, batch: int, start: int = 0) -> Iterator[Tensor]:
        """Yield [batch, width] tensors: each row once, in an order of this epoch's own.

        In any floating dtype, on the CPU; who trains on them widens them. The first `start`
        batches, which an earlier run has seen, are left out.
        """
        ...

    def sample(self, count: int) -> Tensor:
        """Return up to `count` rows, [rows, width] float32, spread over the stream."""
        ...


@runtime_checkable
class SplitStream(Stream, Protocol):
    """A stream that can keep contexts from training."""

    provenance: dict[str, Any]
    """Where its rows come from: site, host, dataset."""

    def split(self, share: float, seed: int) -> tuple[Stream, Stream]:
        """Return a stream without the held-out contexts, and one of them; see `is_held_out`."""
        ...
