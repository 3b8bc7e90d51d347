"""What is known of each token in its context: neighbours, word, line, quotes, brackets, position.

The patterns suit prose and most programming languages; no parser knows better here, because
contexts begin anywhere.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.contexts import TextInputs
from probe_sae.analysis.labels.columns import Coded, Columns, Value, Window, coded_by_hash
from probe_sae.analysis.labels.tokens import AFFIXES, Tokens, last_word, text_hash, tokens_of

NEAR = (3, 8)
"""How far back `within` columns look."""
LONGEST_WORD = 12
"""Tokens that a word may have; a longer one begins again."""
THRESHOLDS = {
    "position": (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
    "place in the line": (1.0, 2.0, 3.0, 5.0, 8.0, 16.0),
    "indentation": (1.0, 5.0, 9.0, 13.0),
    "brackets open": (1.0, 2.0, 3.0),
}
_PAIR = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class _Text:
    """All tokens of the inputs, one after the other, with what is known of each."""

    token: NDArray[np.int64]
    """[tokens] index into `known`."""
    known: Tokens
    start: NDArray[np.int64]
    """[tokens] where the token's context starts."""
    context: NDArray[np.int64]
    """[tokens]"""
    special: NDArray[np.bool_]
    """[tokens]"""
    line: NDArray[np.int64]
    """[tokens] where the token's line starts."""


def text_columns(
    inputs: TextInputs, context: NDArray[np.int64], position: NDArray[np.int64]
) -> Columns:
    """Return what is known of some tokens; the cost is that of all tokens of the inputs.

    Args:
        inputs: the contexts.
        context: which context each place is in, [places].
        position: which of its tokens, [places].
    """
    text = _read(inputs)
    at = inputs.offsets[context] + position
    flags, numbers = _states(text)
    flags |= {name: mark[text.token] for name, mark in text.known.kinds.items()}
    return Columns(
        _coded(text, at),
        {f"within {n}": Window(_window(text, at, n), "token") for n in NEAR},
        {name: mark[at] for name, mark in flags.items()},
        {name: number[at].astype(np.float32) for name, number in numbers.items()},
        THRESHOLDS,
    )


def _read(inputs: TextInputs) -> _Text:
    used, token = np.unique(inputs.tokens.astype(np.int64), return_inverse=True)
    lengths = np.diff(inputs.offsets)
    start = np.repeat(inputs.offsets[:-1], lengths)
    special = np.isin(inputs.tokens, inputs.special)
    known = tokens_of(inputs, used)
    index = np.arange(len(token))
    breaks = known.has_line_end[token] | special
    after = np.maximum.accumulate(np.where(breaks, index + 1, 0)) if len(token) else index
    line = np.maximum(np.concatenate([[0], after])[:-1], start)
    return _Text(token, known, start, np.repeat(np.arange(len(lengths)), lengths), special, line)


def _coded(text: _Text, at: NDArray[np.int64]) -> dict[str, Coded]:
    known, token = text.known, text.token

    def by_token(hashes: NDArray[np.uint64], texts: list[str], most: int = 8) -> Coded:
        own = hashes[token[at]]
        return coded_by_hash(own, text_hash, lambda p: texts[token[at[p]]], own != 0, most)

    columns = {
        "token": by_token(known.folded_hash, known.folded),
        "exact token": by_token(known.exact_hash, known.exact),
    }
    for n in AFFIXES:
        starts, ends = [t[:n] for t in known.folded], [t[-n:] for t in known.folded]
        columns[f"beginning of {n}"] = by_token(known.starts[n], starts, 4)
        columns[f"end of {n}"] = by_token(known.ends[n], ends, 4)
    return columns | _neighbours(text, at) | _words(text, at)


def _neighbours(text: _Text, at: NDArray[np.int64]) -> dict[str, Coded]:
    """Return the columns of the tokens beside, and of the pair of the token and the one before."""
    known, token, folds = text.known, text.token, text.known.folded
    before, after = at - 1, at + 1
    has_before = before >= text.start[at]
    has_after = after < len(token)
    has_after[has_after] = text.start[after[has_after]] == text.start[at[has_after]]
    before, after = np.where(has_before, before, at), np.where(has_after, after, at)

    def fold_at(places: NDArray[np.int64], has: NDArray[np.bool_]) -> Coded:
        hashes = known.folded_hash[token[places]]
        return coded_by_hash(hashes, text_hash, lambda p: folds[token[places[p]]], has)

    def pair_at(place: int) -> Value:
        return [folds[token[before[place]]], folds[token[at[place]]]]

    with np.errstate(over="ignore"):
        pairs = known.folded_hash[token[before]] * np.uint64(_PAIR) + known.folded_hash[token[at]]
    return {
        "token before": fold_at(before, has_before),
        "token after": fold_at(after, has_after),
        "pair": coded_by_hash(pairs, _pair_hash, pair_at, has_before, 4),
    }


def _pair_hash(pair: list[str]) -> int:
    return (text_hash(pair[0]) * _PAIR + text_hash(pair[1])) & (2**64 - 1)


def _words(text: _Text, at: NDArray[np.int64]) -> dict[str, Coded]:
    """Return the columns of the word so far and of the line's first token."""
    known, token = text.known, text.token
    depth, hashes = _words_so_far(text)

    def word_at(place: int) -> Value:
        last = at[place]
        run = "".join(known.exact[t] for t in token[last - depth[last] : last + 1])
        return last_word(run)

    first = _first_of_line(text)[at]
    has_first = first >= 0
    heads = np.where(has_first, first, at)
    return {
        "word so far": coded_by_hash(hashes[at], text_hash, word_at, known.ends_word[token[at]]),
        "line's first token": coded_by_hash(
            known.folded_hash[token[heads]],
            text_hash,
            lambda p: known.folded[token[heads[p]]],
            has_first,
        ),
    }


def _words_so_far(text: _Text) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Return how many tokens each token's word had before it, and the hash of the word so far."""
    goes_on = _continues(text)
    index = np.arange(len(goes_on))
    origin = np.maximum.accumulate(np.where(goes_on, -1, index)) if len(index) else index
    depth = (index - origin) % LONGEST_WORD
    hashes = text.known.word_hash[text.token].copy()
    factor = text.known.word_factor[text.token]
    with np.errstate(over="ignore"):
        for step in range(1, LONGEST_WORD):
            places = np.flatnonzero(depth == step)
            hashes[places] += hashes[places - 1] * factor[places]
    return depth, hashes


def _continues(text: _Text) -> NDArray[np.bool_]:
    """Tell which tokens are word characters throughout and follow one in the same context."""
    known, token = text.known, text.token
    goes_on = known.is_word[token] & ~text.special
    goes_on[1:] &= known.ends_word[token[:-1]] & ~text.special[:-1]
    return goes_on & (text.start != np.arange(len(token)))


def _first_of_line(text: _Text) -> NDArray[np.int64]:
    """Return the place of the first token of the line that is no space, -1 before it is seen."""
    if not len(text.token):
        return np.zeros(0, np.int64)
    index = np.arange(len(text.token))
    seen = ~text.known.is_space[text.token] & ~text.special
    upcoming = np.minimum.accumulate(np.where(seen, index, len(index))[::-1])[::-1]
    first = upcoming[text.line]
    return np.where(first <= index, first, -1)


def _window(text: _Text, at: NDArray[np.int64], n: int) -> NDArray[np.int32]:
    """Return the codes of the `n` tokens before each place, each once, [places, n]."""
    own = text.known.folded_hash[text.token]
    known = np.unique(own[at])
    near = np.searchsorted(known, own).clip(max=max(0, len(known) - 1))
    code = np.where(known[near] == own, near, -1) if len(known) else np.full(len(own), -1)
    code = np.where(text.special | text.known.is_space[text.token], -1, code)
    before = at[:, None] - np.arange(1, n + 1)
    found = np.where(before >= text.start[at][:, None], code[before.clip(min=0)], -1)
    found = found.astype(np.int32)
    found.sort(axis=1)
    found[:, 1:][found[:, 1:] == found[:, :-1]] = -1
    return found


def _states(text: _Text) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the columns about quotes, comments, brackets, repetition, and places, [tokens]."""
    index, counts = np.arange(len(text.token)), text.known.counts
    on_line = {
        name: _since(counts[name][text.token], text.line)
        for name in ("double", "single", "equals", "comment")
    }
    triple = _since(counts["triple"][text.token], text.start) % 2 == 1
    depth = {name: _depth(text, counts[name]) for name in ("round", "square", "curly")}
    quoted = (on_line["double"] % 2 == 1) | (on_line["single"] % 2 == 1)
    repeats = _seen_before(text, text.known.folded_hash[text.token])
    flags = {
        "in quotes": quoted,
        "in triple quotes": triple,
        "in a comment": (on_line["comment"] > 0) & ~quoted,
        "in ( )": depth["round"] > 0,
        "in [ ]": depth["square"] > 0,
        "in { }": depth["curly"] > 0,
        "after = on the line": on_line["equals"] > 0,
        "inside a word": _continues(text),
        "seen before": repeats & ~text.known.is_space[text.token],
    }
    numbers = {
        "position": _since((~text.special).astype(np.int64), text.start),
        "place in the line": index - text.line,
        "indentation": _indentation(text),
        "brackets open": depth["round"] + depth["square"] + depth["curly"],
    }
    return flags, numbers


def _since(count: NDArray[np.int64], start: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sum of `count` from each token's `start` to the token before it."""
    total = np.concatenate([[0], np.cumsum(count)])
    return total[:-1] - total[start] if len(count) else count


def _depth(text: _Text, net: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many brackets of a kind stand open before each token; closed ones count once.

    A bracket that was opened before the context began is not known of: depth is never under 0.
    """
    height = _since(net[text.token], text.start)
    if not len(height):
        return height
    apart = 2 * (np.abs(height).max() + 1)
    # Contexts are laid so far below one another that each starts a new minimum.
    lowest = np.minimum.accumulate(height - apart * text.context) + apart * text.context
    return height - np.minimum(lowest, 0)


def _seen_before(text: _Text, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Tell which tokens occurred before in their context."""
    _, code = np.unique(hashes, return_inverse=True)
    keys = text.context * (code.max(initial=0) + 1) + code
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return np.arange(len(hashes)) > first[inverse]


def _indentation(text: _Text) -> NDArray[np.int64]:
    """Return the spaces that the token's line begins with."""
    if not len(text.token):
        return text.token
    known, token, line = text.known, text.token, text.line
    before = np.where(line > text.start, line - 1, line)
    ended = known.has_line_end[token[before]] & (line > text.start)
    # GPT-2's tokenizers leave the last space of an indentation to the word that follows.
    more = np.where(known.has_line_end[token[line]], 0, known.indent[token[line]])
    spaces = np.where(ended, known.indent[token[before]], 0) + more
    following = (line + 1).clip(max=len(token) - 1)
    wider = known.is_space[token[line]] & ~known.has_line_end[token[line]]
    wider &= ~known.has_line_end[token[following]]
    return spaces + np.where(wider, known.indent[token[following]], 0)
