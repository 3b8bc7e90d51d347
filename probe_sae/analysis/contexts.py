"""The inputs that an analysis keeps: contexts of text, and images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe_sae.shown import Shown


@dataclass(frozen=True, repr=False)
class TextInputs(Shown):
    """The contexts that examples point to; special tokens included, as the host saw them."""

    tokens: NDArray[np.int32]
    """[all tokens] token ids, contexts one after the other."""
    offsets: NDArray[np.int64]
    """[contexts + 1]"""
    document: NDArray[np.int32]
    """[contexts] index into `documents`."""
    start: NDArray[np.int32]
    """[contexts] position in the document of the context's first token."""
    documents: list[str]
    """Names of the documents."""
    pieces: list[bytes]
    """What each token id stands for, as bytes; a token may be part of a character."""
    special: list[int]
    """Ids of the special tokens, which were not recorded."""

    def piece(self, token: int) -> str:
        """Return the text of one token; bytes that are no whole character show as U+FFFD."""
        return (
            self.pieces[token].decode("utf-8", "replace") if 0 <= token < len(self.pieces) else "?"
        )


@dataclass(frozen=True, repr=False)
class ImageInputs(Shown):
    """The images that examples point to."""

    thumbnails: NDArray[np.uint8]
    """[contexts, height, width, channels] channels 1 or 3."""
    label: NDArray[np.int32]
    """[contexts] class, -1 where unknown."""
    names: list[str]
    """[contexts] where each image came from."""
    classes: list[str]
    """Names of the classes."""
    grid: tuple[int, int]
    """Rows and columns of the patch grid; (1, 1) for one row an image."""


def visible(text: str) -> str:
    """Return a token's text with its line ends and outer spaces shown as signs."""
    inner = text.strip(" ")
    left = len(text) - len(text.lstrip(" "))
    right = len(text) - len(inner) - left if inner else 0
    return ("␣" * left + inner + "␣" * right).replace("\n", "↵").replace("\t", "→")
