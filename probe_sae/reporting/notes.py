"""Labels and notes that a person exported from a report, read back to be baked into another."""

import json
from pathlib import Path
from typing import Any

from probe_sae.errors import FormatError

FORMAT = "probe_sae.labels"
VERSION = 1


def load_labels(path: Path, features: int) -> dict[str, dict[str, Any]]:
    """Return feature number (as text) -> `label`, `note`, `star` from a report's export.

    Raises:
        FormatError: the file cannot be read, is something else, or names a feature there is not.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise FormatError(f"{path} holds no readable labels ({problem}).") from problem
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise FormatError(f"{path} is not a file of labels: export one from a report's help panel.")
    if found.get("version") != VERSION:
        raise FormatError(
            f"{path} is version {found.get('version')}; this probe_sae reads version {VERSION}."
        )
    entries = found.get("labels")
    if not isinstance(entries, dict):
        raise FormatError(f"{path} has no table `labels`.")
    return {key: _entry(path, key, entry, features) for key, entry in sorted(entries.items())}


def _entry(path: Path, key: str, entry: Any, features: int) -> dict[str, Any]:
    if len(key) > 12 or not key.isdecimal() or str(int(key)) != key or int(key) >= features:
        raise FormatError(
            f"{path} labels feature {key[:100]!r}, but this dictionary has features 0 to "
            f"{features - 1}."
        )
    if not isinstance(entry, dict):
        raise FormatError(f"{path}: the entry of feature {key} is not a table.")
    return {
        "label": str(entry.get("label") or ""),
        "note": str(entry.get("note") or ""),
        "star": bool(entry.get("star")),
    }
