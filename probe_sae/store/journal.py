"""The journal: which shards a store has. What has no line there does not exist."""

import hashlib
import json
import os
import re
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from probe_sae.errors import StoreError

_NAME = re.compile(r"shard-\d{5,9}\.h5")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ShardLine:
    """One shard, as the journal has it."""

    shard: str
    """Name of its file."""
    rows: int
    contexts: int
    documents: int
    """One more than the largest number of a document in it."""
    sha256: str
    """Of the whole file."""
    context_base: int = 0
    """Added to the contexts that its rows name: those of the stores merged before it."""
    document_base: int = 0
    """The same of documents."""


def read_journal(path: Path) -> list[ShardLine]:
    """Return the journal's lines; a last line that was cut short does not count.

    Raises:
        StoreError: a line is not of a shard, names a file outside the store, or one of another
            line.
    """
    lines = [_line(path, fields) for fields in read_lines(path)]
    counted = Counter(line.shard for line in lines)
    if twice := [shard for shard, count in counted.items() if count > 1]:
        raise StoreError(f"{path} is damaged: it has {', '.join(twice)} more than once.")
    return lines


def write_line(path: Path, fields: dict[str, Any]) -> None:
    """Append a line of JSON; when this returns, it is on disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(fields, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())


def enter(path: Path, line: ShardLine) -> None:
    """Append a shard to a journal; when this returns, it is on disk."""
    write_line(path, asdict(line))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a file of JSON lines; none where there is no file.

    Raises:
        StoreError: one is no JSON object.
    """
    if not path.exists():
        return []
    try:
        whole, _, _ = path.read_text("utf-8").rpartition("\n")
        lines = [json.loads(line) for line in whole.split("\n")] if whole else []
    except (OSError, ValueError, RecursionError) as problem:
        raise StoreError(f"{path} is damaged: {problem}") from problem
    if not all(isinstance(line, dict) for line in lines):
        raise StoreError(f"{path} is damaged: a line is no JSON object.")
    return lines


def drop_half_line(path: Path) -> None:
    """Cut off a last line that a crash left unfinished, so that the next is not glued to it."""
    if path.exists():
        text = path.read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            os.truncate(path, whole)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise StoreError(f"cannot read {path}: {problem.strerror}.") from problem


def _line(path: Path, fields: dict[str, Any]) -> ShardLine:
    try:
        line = ShardLine(**fields)
    except TypeError as problem:
        raise StoreError(f"{path} is damaged: {problem}") from problem
    if not _NAME.fullmatch(str(line.shard)):
        raise StoreError(f"{path} names {line.shard!r}, which is no shard.")
    if not _DIGEST.fullmatch(str(line.sha256)):
        raise StoreError(f"{path}: {line.shard} has no SHA-256.")
    for name in ("rows", "contexts", "documents", "context_base", "document_base"):
        value = getattr(line, name)
        if type(value) is not int or not 0 <= value < 2**48:
            raise StoreError(f"{path}: {line.shard} has {name} {value!r}, expected a count.")
    return line
