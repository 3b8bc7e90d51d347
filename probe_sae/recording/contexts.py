"""Documents to contexts: runs of tokens that a host reads at once, framed as it was trained."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.errors import DatasetError, SettingsError
from probe_sae.host import Host
from probe_sae.recording.documents import documents
from probe_sae.recording.recipe import Recipe
from probe_sae.store import ContextInput

_ENDLESS = 10**9
"""Tokenizers without a limit say a larger number."""


@dataclass(frozen=True)
class TextContext:
    """A context, and which of its tokens are rows."""

    input: ContextInput
    is_row: NDArray[np.bool_]
    """[tokens]: not special, and not recorded with an earlier context."""
    positions: NDArray[np.int64]
    """[tokens] place in the document; of a packed context, in the context."""
    documents: NDArray[np.int64] | None = None
    """[tokens], where several documents share the context."""


@dataclass(frozen=True)
class Frame:
    """The special tokens around a context."""

    before: list[int]
    after: list[int]
    special: NDArray[np.int64]
    """Ids of all special tokens."""


_OF_TOKENIZERS = ("__call__", "all_special_ids", "bos_token_id", "pad_token_id", "decode")
"""What is asked of a tokenizer."""


def text_contexts(
    host: Host, recipe: Recipe, *, max_length: int, stride: int | None, pack: bool
) -> Iterator[TextContext]:
    """Yield a recipe's contexts, always the same in the same order.

    Args:
        host: whose tokenizer and longest context count.
        recipe: where the documents come from.
        max_length: tokens of a context at most, special ones included.
        stride: tokens from one context's beginning to the next's; a token that two contexts hold is
            a row of the one that shows more of what is before it. By default they do not overlap.
        pack: fill contexts with one document after the other, a separator between them.

    Raises:
        SettingsError: the stride is longer than a context, or goes with packing.
        DatasetError: no room for text, or no text.
    """
    frame = frame_of(host.tokenizer)
    room = longest_context(host, max_length) - len(frame.before) - len(frame.after)
    if room < 1:
        raise DatasetError(f"--max-length {max_length} leaves no room for text; expected over 1.")
    if stride is not None and (pack or not 1 <= stride <= room):
        raise SettingsError(
            f"stride is {stride}; expected 1 to {room} tokens, and no packing beside it."
        )
    if pack:
        return _packed(host, recipe, frame, room)
    return _windows(host, recipe, frame, room, stride or room)


def longest_context(host: Host, max_length: int) -> int:
    """Return the longest context that the host can take, at most `max_length`."""
    text = getattr(host.config, "text_config", host.config)
    positions = getattr(text, "max_position_embeddings", getattr(text, "n_ctx", None))
    limits = [
        positions - host.position_offset if isinstance(positions, int) else None,
        getattr(host.tokenizer, "model_max_length", None),
    ]
    known = [int(x) for x in limits if isinstance(x, (int, float)) and 0 < x < _ENDLESS]
    return min([max_length, *known])


def frame_of(tokenizer: Any) -> Frame:
    """Return what the tokenizer puts around a text; BOS where it puts nothing but has one.

    Raises:
        SettingsError: it is none like transformers'.
    """
    lacks = [name for name in _OF_TOKENIZERS if not hasattr(tokenizer, name)]
    if lacks:
        raise SettingsError(
            f"the host's tokenizer, a {type(tokenizer).__name__}, has no {lacks[0]}; expected one "
            "of transformers', as AutoTokenizer and PreTrainedTokenizerFast give."
        )
    plain = tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"]
    framed = tokenizer("a", add_special_tokens=True, verbose=False)["input_ids"]
    before: list[int] = []
    after: list[int] = []
    for start in range(len(framed) - len(plain) + 1):
        if plain and framed[start : start + len(plain)] == plain:
            before, after = framed[:start], framed[start + len(plain) :]
            break
    if not before and not after and tokenizer.bos_token_id is not None:
        before = [tokenizer.bos_token_id]
    return Frame(before, after, np.array(sorted(tokenizer.all_special_ids), np.int64))


def _windows(
    host: Host, recipe: Recipe, frame: Frame, room: int, stride: int
) -> Iterator[TextContext]:
    """Yield contexts of one document each."""
    index = 0
    for document in documents(recipe):
        ids = _ids(host, document.text)
        start = 0
        while start == 0 or start + room - stride < len(ids):
            part = ids[start : start + room]
            if not part:
                break
            tokens = np.array([*frame.before, *part, *frame.after], np.int32)
            is_text = ~np.isin(tokens, frame.special)
            positions = start + np.cumsum(is_text) - 1
            old = 0 if start == 0 else room - stride
            is_row = is_text.copy()
            is_row[: len(frame.before) + old] = False
            context = ContextInput(index, document.index, document.name, start, tokens)
            yield TextContext(context, is_row, positions)
            index += 1
            start += stride


def _packed(host: Host, recipe: Recipe, frame: Frame, room: int) -> Iterator[TextContext]:
    """Yield contexts that are full, each of as many documents as it takes."""
    separator = host.tokenizer.eos_token_id
    if separator is None:
        separator = next(iter([*frame.after, *frame.before]), None)
    ids: list[int] = []
    owners: list[int] = []
    names: dict[int, str] = {}
    index = 0

    def context(count: int) -> TextContext:
        around = frame.before, frame.after
        tokens = np.array([*around[0], *ids[:count], *around[1]], np.int32)
        owner = np.array(
            [owners[0]] * len(around[0]) + owners[:count] + [owners[0]] * len(around[1])
        )
        is_text = ~np.isin(tokens, frame.special)
        first, rest = owners[0], len(set(owners[:count])) - 1
        name = names[first] + (f" and {rest} more" if rest else "")
        made = ContextInput(index, first, name, 0, tokens)
        return TextContext(made, is_text, np.cumsum(is_text) - 1, owner)

    for document in documents(recipe):
        own = _ids(host, document.text)
        if ids and separator is not None:
            ids.append(separator)
            owners.append(owners[-1])
        ids += own
        owners += [document.index] * len(own)
        names = {owner: names[owner] for owner in dict.fromkeys(owners) if owner in names}
        names[document.index] = document.name
        while len(ids) >= room:
            yield context(room)
            index += 1
            del ids[:room], owners[:room]
    if ids:
        yield context(len(ids))


def _ids(host: Host, text: str) -> list[int]:
    return list(host.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
