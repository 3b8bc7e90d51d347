"""What each token id of a tokenizer stands for, as a store keeps it."""

import json
from pathlib import Path
from typing import Any

from probe_sae.outputs import write_whole


def write_vocabulary(folder: Path, tokenizer: Any) -> None:
    """Write what each token id stands for, so that nobody needs the tokenizer later."""
    pieces = [piece.decode("latin-1") for piece in _pieces(tokenizer)]
    write_whole(folder / "vocabulary.json", json.dumps(pieces))


def _pieces(tokenizer: Any) -> list[bytes]:
    """Return the bytes that each token id stands for; exact for byte-level tokenizers.

    A byte-level tokenizer writes each byte as one visible character (GPT-2's table); a
    sentence-piece one writes a space as U+2581 and a lone byte as <0x41>.
    """
    table = _byte_characters()
    special = set(tokenizer.all_special_ids)
    pieces: list[bytes] = []
    is_byte_level = any("\u0120" in token for token in tokenizer.get_vocab())  # a space
    for i, token in enumerate(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))):
        text = token or ""
        if i not in special and is_byte_level and all(char in table for char in text):
            pieces.append(bytes(table[char] for char in text))
        elif len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            pieces.append(bytes([int(text[3:5], 16)]))
        else:
            pieces.append(text.replace("\u2581", " ").encode("utf-8", "replace"))
    return pieces


def _byte_characters() -> dict[str, int]:
    """Return the visible character -> byte table of byte-level BPE.

    Source: `bytes_to_unicode` of openai/gpt-2, written anew from its description: printable
    latin-1 characters stand for themselves, the others for U+0100 onwards in order.
    """
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in visible}
    hidden = [byte for byte in range(256) if byte not in set(visible)]
    return table | {chr(256 + i): byte for i, byte in enumerate(hidden)}
