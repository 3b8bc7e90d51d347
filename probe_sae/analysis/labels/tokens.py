"""What is known of each token by itself: its text, hashes of it, what kind of text it is."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.contexts import TextInputs

LONGEST = 64
"""Characters of a token that count; tokens that share so many are taken for one."""
AFFIXES = (2, 3, 4)
"""Lengths of the beginnings and ends of tokens that rules may name."""

_MULTIPLIER, _MASK = 0x100000001B3, 2**64 - 1
_OPERATORS = set("=+-*/%<>!&|^~@:")
_APOSTROPHE = re.compile(r"(?<=\w)'(?=\w)|^'(?:s|t|re|ve|ll|d|m)\b", re.IGNORECASE)

_KINDS: dict[str, Callable[[str, str], bool]] = {
    "digits": lambda text, bare: bare.isdigit(),
    "has a digit": lambda text, bare: any(c.isdigit() for c in bare),
    "punctuation": lambda text, bare: bool(bare) and not any(c.isalnum() or c == "_" for c in bare),
    "operator": lambda text, bare: bool(bare) and set(bare) <= _OPERATORS,
    "opening bracket": lambda text, bare: bare.endswith(("(", "[", "{")),
    "closing bracket": lambda text, bare: bare.startswith((")", "]", "}")),
    "quote mark": lambda text, bare: '"' in bare or "'" in bare,
    "spaces": lambda text, bare: not bare and bool(text) and "\n" not in text,
    "line end": lambda text, bare: "\n" in text,
    "space before": lambda text, bare: text.startswith(" ") and bool(bare),
    "capitalised": lambda text, bare: bare[:1].isupper() and bare[1:2].islower(),
    "ALL CAPS": lambda text, bare: len(bare) > 1 and bare.isupper(),
    "lower-case word": lambda text, bare: bare.isalpha() and bare.islower() and len(bare) > 1,
    "single letter": lambda text, bare: len(bare) == 1 and bare.isalpha(),
    "long word": lambda text, bare: len(bare) >= 6 and bare.isalpha(),
    "underscore": lambda text, bare: "_" in bare,
    "double underscore": lambda text, bare: "__" in bare,
    "not ASCII": lambda text, bare: not text.isascii() or "\\x" in text,
}
"""Name of a kind of token -> whether a text (whole, without outer spaces) is of it."""

_COUNTED: dict[str, Callable[[str], int]] = {
    "triple": lambda bare: bare.count('"""') + bare.count("'''"),
    "double": lambda bare: bare.replace('"""', "").count('"'),
    "single": lambda bare: _APOSTROPHE.sub("", bare.replace("'''", "")).count("'"),
    "comment": lambda bare: int("#" in bare or bare.startswith("//")),
    "equals": lambda bare: int(bare == "=" or bare.startswith("=")) * int("==" not in bare),
    "round": lambda bare: bare.count("(") - bare.count(")"),
    "square": lambda bare: bare.count("[") - bare.count("]"),
    "curly": lambda bare: bare.count("{") - bare.count("}"),
}
"""What the columns about quotes, comments and brackets are summed up from."""


@dataclass(frozen=True)
class Tokens:
    """One entry a token that occurs."""

    exact: list[str]
    """The token's text; bytes that are no character stand as `\\xff`."""
    folded: list[str]
    """The same in lower case, without outer spaces (unless there is nothing else)."""
    exact_hash: NDArray[np.uint64]
    folded_hash: NDArray[np.uint64]
    starts: dict[int, NDArray[np.uint64]]
    """Length -> hash of the folded text's beginning of that length, 0 for shorter texts."""
    ends: dict[int, NDArray[np.uint64]]
    """The same of its end."""
    kinds: dict[str, NDArray[np.bool_]]
    counts: dict[str, NDArray[np.int64]]
    is_space: NDArray[np.bool_]
    """Nothing but spaces and line ends."""
    has_line_end: NDArray[np.bool_]
    indent: NDArray[np.int64]
    """Spaces after the last line end, or else at the beginning; a tab counts as 4."""
    begins_word: NDArray[np.bool_]
    """The first character is of a word: a letter, a digit, an underscore."""
    ends_word: NDArray[np.bool_]
    """The last character is."""
    is_word: NDArray[np.bool_]
    """All of them are."""
    word_hash: NDArray[np.uint64]
    """Hash of the text's last word characters, folded."""
    word_factor: NDArray[np.uint64]
    """The hash of any text t and this word is hash(t) * `word_factor` + `word_hash`."""


def text_hash(text: str) -> int:
    """Return a hash of a text, the same everywhere; hash(a + b) = hash(a) * factor(b) + hash(b)."""
    found = 0
    for byte in text.encode("utf-8", "surrogatepass"):
        found = (found * _MULTIPLIER + byte + 1) & _MASK
    return found


def text_factor(text: str) -> int:
    """Return what a hash is multiplied by when a text is appended."""
    return pow(_MULTIPLIER, len(text.encode("utf-8", "surrogatepass")), 2**64)


def folded(text: str) -> str:
    """Return a text in lower case without outer spaces; nothing but spaces stays as it is."""
    return text.strip(" ").casefold() or text


def token_text(inputs: TextInputs, token: int) -> str:
    """Return the text of a token as rules name it."""
    if not 0 <= token < len(inputs.pieces):
        return "?"
    piece = inputs.pieces[token][: 4 * LONGEST]
    return piece.decode("utf-8", "backslashreplace")[:LONGEST]


def tokens_of(inputs: TextInputs, used: NDArray[np.int64]) -> Tokens:
    """Return what is known of some tokens.

    Args:
        inputs: whose tokens.
        used: their ids.
    """
    exact = [token_text(inputs, int(token)) for token in used]
    lower = [folded(text) for text in exact]
    bare = [text.strip() for text in exact]
    words = [last_word(text) for text in exact]
    pairs = list(zip(exact, bare, strict=True))
    return Tokens(
        exact,
        lower,
        _hashes(exact),
        _hashes(lower),
        {n: _hashes([t[:n] if len(t) > n and t.isalpha() else "" for t in lower]) for n in AFFIXES},
        {
            n: _hashes([t[-n:] if len(t) > n and t.isalpha() else "" for t in lower])
            for n in AFFIXES
        },
        {name: _marks([is_kind(*pair) for pair in pairs]) for name, is_kind in _KINDS.items()},
        {name: np.array([count(b) for b in bare], np.int64) for name, count in _COUNTED.items()},
        _marks([bool(text) and not text.strip() for text in exact]),
        _marks(["\n" in text for text in exact]),
        np.array([_indent(text) for text in exact], np.int64),
        _marks([_is_word(text[:1]) for text in exact]),
        _marks([_is_word(text[-1:]) for text in exact]),
        _marks([_is_word(text) for text in exact]),
        _hashes(words),
        np.array([text_factor(word) for word in words], np.uint64),
    )


def last_word(text: str) -> str:
    """Return the word characters that a text ends with, in lower case."""
    at = len(text)
    while at and _is_word(text[at - 1]):
        at -= 1
    return text[at:].casefold()


def _hashes(texts: list[str]) -> NDArray[np.uint64]:
    return np.array([text_hash(text) for text in texts], np.uint64)


def _marks(values: list[bool]) -> NDArray[np.bool_]:
    return np.array(values, np.bool_)


def _is_word(text: str) -> bool:
    return bool(text) and all(c.isalnum() or c == "_" for c in text)


def _indent(text: str) -> int:
    tail = text.rpartition("\n")[2]
    spaces = tail[: len(tail) - len(tail.lstrip(" \t"))]
    return len(spaces) + 3 * spaces.count("\t")
