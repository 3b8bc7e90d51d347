"""Hook maps: one TOML a model family, from site names to module paths. No code is evaluated."""

import hashlib
import os
import tomllib
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from probe_sae.errors import FormatError, near
from probe_sae.shipped import shipped

_KEYS = {"family", "model_types", "kind", "blocks", "layout", "special_prefix", "width", "sites"}
_SITE_KEYS = {"at", "io", "width"}
LAYOUTS = ("tokens", "patches", "auto")
"""`tokens`: [batch, tokens, width]. `patches`: the same, special tokens first. `auto`: by shape."""


@dataclass(frozen=True)
class SiteRule:
    """Where one site, or one site a block, is found."""

    at: str
    """Module path; `{block}` is the block's, `{root}` what comes before the blocks."""
    io: str
    """`in` (first input) or `out` (first output)."""
    width: str
    """Config entry, number or product of them that gives the length of a row."""


@dataclass(frozen=True)
class HookMap:
    """The sites of one model family."""

    family: str
    model_types: tuple[str, ...]
    kind: str
    """`text` or `image`."""
    blocks: tuple[str, ...]
    """Paths of the list of blocks; the first that a model has counts."""
    layout: str
    special_prefix: int
    """Tokens before the patches that are no patch."""
    sites: dict[str, SiteRule]
    source: str
    """The file's text."""

    @property
    def digest(self) -> str:
        """SHA-256 of the file's text: tells two versions of a map apart."""
        return hashlib.sha256(self.source.encode()).hexdigest()


def hook_maps() -> list[HookMap]:
    """Return every hook map: those shipped, and those in the folder `PROBE_SAE_HOOKS`.

    Raises:
        FormatError: a file breaks the schema.
    """
    folders: list[Traversable] = [shipped("hooks")]
    if extra := os.environ.get("PROBE_SAE_HOOKS"):
        folders.insert(0, Path(extra))
    files = [file for folder in folders for file in folder.iterdir() if file.name.endswith(".toml")]
    return [read_hook_map(file.read_text("utf-8"), file.name) for file in files]


def read_hook_map(text: str, name: str) -> HookMap:
    """Return the hook map in a TOML text.

    Args:
        text: the file's content.
        name: the file's name, for messages.

    Raises:
        FormatError: no TOML, an unknown or missing key, or a value out of range.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise FormatError(f"hook map {name}: {problem}") from problem
    _check_keys(raw, _KEYS, name)
    missing = _KEYS - {"special_prefix"} - raw.keys()
    if missing:
        raise FormatError(f"hook map {name} lacks {', '.join(sorted(missing))}.")
    if raw["layout"] not in LAYOUTS or raw["kind"] not in ("text", "image"):
        raise FormatError(f"hook map {name}: layout or kind is unknown; see hooks/gpt2.toml.")
    rules: dict[str, SiteRule] = {}
    for site, rule in raw["sites"].items():
        _check_keys(rule, _SITE_KEYS, f"{name}, site {site}")
        if rule.get("io") not in ("in", "out") or not isinstance(rule.get("at"), str):
            raise FormatError(f"hook map {name}, site {site}: needs at = path and io = in or out.")
        rules[site] = SiteRule(rule["at"], rule["io"], str(rule.get("width", raw["width"])))
    return HookMap(
        raw["family"],
        tuple(raw["model_types"]),
        raw["kind"],
        tuple(raw["blocks"]),
        raw["layout"],
        int(raw.get("special_prefix", 0)),
        rules,
        text,
    )


def _check_keys(table: dict[str, Any], known: set[str], name: str) -> None:
    for key in table:
        if key not in known:
            raise FormatError(f"hook map {name}: unknown key {key!r}.{near(key, known)}")
