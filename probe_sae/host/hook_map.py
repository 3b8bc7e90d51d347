"""Hook maps: one TOML a model family, from site names to module paths. No code is evaluated.

What a map says, in types. `hook_map_file.py` reads the TOML, `resolve.py` finds a map's sites in a
model, `check.py` proves them. The keys are described in `probe-sae guide new-family`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PathRule:
    """One way to find a module, or one module a block."""

    at: str
    """Module path; `{i}`, `{s}`, `{b}` count, a longer `{name}` is another path."""
    classes: tuple[str, ...]
    """Names of the classes that count; empty is any."""


@dataclass(frozen=True)
class SiteRule:
    """One way to find a site, or one site a block."""

    at: str
    """Module path, with `{name}` for a path of the map."""
    io: str
    """`in` (first input) or `out` (first output)."""
    width: str
    """Formula of the length of a row; empty where it is only known when the model runs."""
    layout: str
    """One of `LAYOUTS`."""
    select: int | str | None
    """Which item of a tuple, or entry of a mapping, it is; the first tensor by default."""
    call: int | None
    """Which call of a module that is called several times in a run; None is the only one."""
    heads: str
    """Formula of the number of attention heads that share the row; empty is none."""
    in_place: bool
    """Others read the same tensor past this module (the residual stream at a norm's input)."""
    when: Mapping[str, Any]
    """Config entries with the values that they must have; `unset` is none."""
    has: str
    """A module that must be there; empty is none."""
    optional: bool
    """Some models of the family rightly lack it."""


@dataclass(frozen=True)
class IdentityRule:
    """What must hold between sites: `blocks.{i}: resid_pre + attn_out == resid_mid`."""

    holds: str
    when: Mapping[str, Any]
    optional: bool
    """Some models of the family rightly have not the modules that it is about."""


@dataclass(frozen=True)
class StatesRule:
    """Which sites the `hidden_states` that the model returns are."""

    entry: str
    """Dotted name in the model's output."""
    equals: tuple[str, ...]
    """Patterns of the sites, in order."""


@dataclass(frozen=True)
class Tower:
    """A part of a model with blocks of its own: an encoder, a decoder, or all of it."""

    name: str
    """What the names of its sites begin with; empty for the only one."""
    kind: str
    """What it takes: `text`, `image` or `audio`."""
    special_prefix: str
    """Formula of the number of positions before an image's patches that are no patch."""
    when: Mapping[str, Any]
    has: str
    """A module that a model with this tower has; empty is none."""
    sites: Mapping[str, tuple[SiteRule, ...]]
    """Site pattern -> ways to find it; the first that applies counts, block by block."""
    identities: tuple[IdentityRule, ...]
    states: tuple[StatesRule, ...]
    """At least one of them must hold, where the model is one of transformers'."""


@dataclass(frozen=True)
class TinyModel:
    """A tiny random model that the map is proven on: `probe-sae check --maps`."""

    model: str
    """`transformers:CLASS` or `torchvision:NAME`."""
    config: Mapping[str, Any]
    inputs: Mapping[str, tuple[int, ...]]
    """Input name -> shape; whole numbers where the name ends in `_ids`."""


@dataclass(frozen=True)
class HookMap:
    """The sites of one model family."""

    family: str
    about: str
    model_types: tuple[str, ...]
    """`model_type` of the transformers configs that it is for."""
    classes: tuple[str, ...]
    """Full names of the model classes that it is for, subclasses included."""
    paths: Mapping[str, tuple[PathRule, ...]]
    towers: tuple[Tower, ...]
    tiny: tuple[TinyModel, ...]
    source: str
    """The file's text."""

    @property
    def digest(self) -> str:
        """SHA-256 of the file's text: tells two versions of a map apart."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def kinds(self) -> tuple[str, ...]:
        """What its towers take, each once."""
        return tuple(dict.fromkeys(tower.kind for tower in self.towers))
