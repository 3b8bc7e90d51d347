"""What a folder says of itself: the JSON file that stands at the head of codes and of analyses."""

import json
from pathlib import Path
from typing import Any

from probe_sae.errors import FormatError
from probe_sae.outputs import nothing_at


def read_head(folder: Path, name: str, kind: tuple[str, int], words: tuple[str, str]) -> Any:
    """Return the JSON object at the head of a folder.

    Args:
        folder: where it lies.
        name: of the file.
        kind: format and version that it must name.
        words: what it is ("codes", "analysis"), and how to make it anew ("encode").

    Raises:
        FormatError: it is missing, damaged, of something else or from a newer version.
    """
    what, anew = words
    try:
        head: Any = json.loads((folder / name).read_text("utf-8", "surrogatepass"))
    except FileNotFoundError as problem:
        raise FormatError(nothing_at(folder, what, name)) from problem
    except (OSError, ValueError, RecursionError) as problem:
        raise FormatError(f"{folder} holds no readable {what} ({problem}).") from problem
    if not isinstance(head, dict) or head.get("format") != kind[0]:
        raise FormatError(f"{folder}/{name} does not describe {what} written by probe_sae.")
    if head.get("version") != kind[1]:
        raise FormatError(
            f"{folder} has {what} of version {head.get('version')}; this probe_sae reads version "
            f"{kind[1]}. Update probe_sae, or {anew} again."
        )
    return head
