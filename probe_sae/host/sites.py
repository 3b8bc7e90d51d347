"""Sites: the named places in a host, and how a name or pattern finds them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from probe_sae.errors import FormatError, SiteNotFound, near
from probe_sae.host.hook_map import HookMap


@dataclass(frozen=True)
class Site:
    """A named place in a host, at the input or output of one module."""

    name: str
    path: str
    """The module's path in the model; empty is the model itself."""
    io: str
    """`in` or `out`."""
    width: int | None
    """Length of a row; None where nobody knows before a run."""
    layout: str
    """`tokens`, `patches` or `auto`."""


def mapped_sites(model: nn.Module, config: Any, hook_map: HookMap) -> dict[str, Site]:
    """Return the sites that a hook map names in a model, in the map's order.

    Raises:
        FormatError: the map's blocks or a module are not in the model.
    """
    modules = dict(model.named_modules())
    blocks = next((path for path in hook_map.blocks if path in modules), None)
    if blocks is None:
        raise FormatError(
            f"hook map {hook_map.family}: the model has none of {', '.join(hook_map.blocks)}."
        )
    parent, dot, _ = blocks.rpartition(".")
    count = len(list(modules[blocks].children()))
    sites: dict[str, Site] = {}
    for pattern, rule in hook_map.sites.items():
        for i in range(count) if "{i}" in pattern else (0,):
            name = pattern.replace("{i}", str(i))
            path = rule.at.replace("{block}", f"{blocks}.{i}").replace("{root}", parent + dot)
            if path not in modules:
                raise FormatError(f"hook map {hook_map.family}, site {name}: no module {path!r}.")
            width = _width(rule.width, config, hook_map.family)
            sites[name] = Site(name, path, rule.io, width, hook_map.layout)
    return sites


def find_sites(
    patterns: Iterable[str], known: Mapping[str, Site], model: nn.Module, host: str
) -> list[Site]:
    """Return the sites that names, globs (`*`), braces (`{0,2}`) or raw paths stand for.

    Args:
        patterns: such as `blocks.*.resid_post` or `path:layer3.1@out`.
        known: the host's named sites.
        model: the host's model, for raw paths.
        host: the host's name, for messages.

    Raises:
        SiteNotFound: a name or pattern stands for nothing; the message names what is near.
    """
    found: dict[str, Site] = {}
    for pattern in patterns:
        for name in _braces(pattern):
            if name.startswith("path:"):
                matches = [_raw(name, model)]
            else:
                matches = [site for key, site in known.items() if fnmatchcase(key, name)]
            if not matches:
                hint = near(name, known) or (
                    f" There are {', '.join(list(known)[:6])}, ..."
                    if known
                    else " It has no hook map: use raw module paths, such as path:layer1@out."
                )
                raise SiteNotFound(
                    f"{host} has no site {name!r}.{hint} `probe-sae sites {host}` lists all."
                )
            found |= {site.name: site for site in matches}
    if not found:
        raise SiteNotFound(f"no site was named. `probe-sae sites {host}` lists all.")
    return list(found.values())


def raw_sites(model: nn.Module) -> dict[str, Site]:
    """Return every module's output as a raw site."""
    names = (name for name, _ in model.named_modules() if name)
    return {
        f"path:{name}@out": Site(f"path:{name}@out", name, "out", None, "auto") for name in names
    }


def _raw(name: str, model: nn.Module) -> Site:
    path, _, io = name.removeprefix("path:").partition("@")
    modules = dict(model.named_modules())
    if path not in modules:
        raise SiteNotFound(f"the model has no module {path!r}.{near(path, modules)}")
    if io not in ("", "in", "out"):
        raise SiteNotFound(f"{name!r} ends in @{io}; expected @in or @out.")
    return Site(f"path:{path}@{io or 'out'}", path, io or "out", None, "auto")


def _braces(pattern: str) -> list[str]:
    """Return the patterns that `a.{0,2}.b` stands for."""
    inside = re.search(r"\{([^{}]*)\}", pattern)
    if inside is None:
        return [pattern]
    head, tail = pattern[: inside.start()], pattern[inside.end() :]
    return [name for part in inside[1].split(",") for name in _braces(head + part.strip() + tail)]


def _width(rule: str, config: Any, family: str) -> int:
    """Return the product of the numbers and config entries in `rule`, such as `4*n_embd`."""
    width = 1
    for factor in rule.split("*"):
        value = int(factor) if factor.isdigit() else getattr(config, factor.strip(), None)
        if not isinstance(value, int):
            raise FormatError(f"hook map {family}: the model's config has no number {factor!r}.")
        width *= value
    return width
