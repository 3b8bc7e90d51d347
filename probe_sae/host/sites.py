"""Sites: the named places in a host, and how a name or pattern finds them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from probe_sae.errors import SiteNotFound, near
from probe_sae.host.modules import modules_of
from probe_sae.site_names import expand_braces, named, near_sites, other_names

_RAW = re.compile(r"path:(?P<path>[^@#]*)(?:@(?P<io>\w*))?(?:#(?P<call>\d+))?(?::(?P<layout>\w+))?")
_NNSIGHT = re.compile(r"\.(?P<io>input|output)(\[0\])?$")
"""How nnsight ends the path of a module whose input or output it means."""
RAW_LAYOUTS = ("BTD", "BTHD", "BCHW", "BHWC", "BCT", "BD", "flat")
"""What may follow the colon of a raw site."""


@dataclass(frozen=True)
class Site:
    """A named place in a host, at the input or output of one module."""

    name: str
    path: str
    """The module's path in the model; empty is the model itself."""
    io: str
    """`in` or `out`."""
    width: int | None = None
    """Length of a row; None where nobody knows before a run."""
    layout: str = "auto"
    """One of `host.layouts.LAYOUTS`."""
    select: int | str | None = None
    """Which item or entry of what the module gives; the first tensor by default."""
    call: int | None = None
    """Which call of the module in a run, 0 the first; None where it must be the only one."""
    kind: str = ""
    """What the tower that it is in takes: `text`, `image`, `audio`; empty where unknown."""
    special_prefix: int = 0
    """Positions before an image's patches that are no patch."""
    heads: int | None = None
    """Attention heads that share the row, each with width / heads of it."""
    in_place: bool = False
    """Others read the same tensor past the module, so that an edit must be made in place."""

    @property
    def place(self) -> str:
        """How the site reads as a raw module path."""
        call = "" if self.call is None else f"#{self.call}"
        select = "" if self.select is None else f"[{self.select}]"
        return f"{self.path or '(model)'}@{self.io}{call}{select}"


def find_sites(
    patterns: Iterable[str],
    known: Mapping[str, Site],
    missing: Mapping[str, str],
    model: nn.Module,
    host: str,
    others: Mapping[str, str],
) -> list[Site]:
    """Return the sites that names, globs (`*`), braces (`{0,2}`) or raw paths stand for.

    What is none of these may be another library's name of a site, or a plain module path.

    Args:
        patterns: such as `blocks.*.resid_post` or `path:layer3.1@out`.
        known: the host's named sites.
        missing: sites that its family has and this host has not -> why.
        model: the host's model, for raw paths.
        host: the host's name, for messages.
        others: other libraries' names -> our names, raw ones included.

    Raises:
        SiteNotFound: a name or pattern stands for nothing; the message names what is near.
    """
    found: dict[str, Site] = {}
    for pattern in patterns:
        for name in expand_braces(pattern):
            if name.startswith("path:"):
                matches = [_raw(name, model)]
            else:
                ours = named(name, known, others)
                matches = [known[key] if key in known else _raw(key, model) for key in ours]
                matches = matches or _at_modules(name, known, model)
            if not matches:
                raise SiteNotFound(
                    f"{host} has no site {name!r}.{_hint(name, known, missing, others)} "
                    f"`probe-sae sites {host}` lists all."
                )
            found |= {site.name: site for site in matches}
    if not found:
        raise SiteNotFound(f"no site was named. `probe-sae sites {host}` lists all.")
    return list(found.values())


def raw_sites(model: nn.Module) -> dict[str, Site]:
    """Return every module's input and output as raw sites."""
    sites: dict[str, Site] = {}
    for path, _ in model.named_modules(remove_duplicate=False):
        for io in ("in", "out") if path else ():
            name = f"path:{path}@{io}"
            sites[name] = Site(name, path, io)
    return sites


def _at_modules(name: str, known: Mapping[str, Site], model: nn.Module) -> list[Site]:
    """Return the sites at a module path as sparsify (`layers.3`) and nnsight write it.

    The path may begin below the model, as a base model's does (`h.3` for `transformer.h.3`), and
    may be a glob. A place that has a name gives the named site.

    Raises:
        SiteNotFound: several modules have such a path.
    """
    end = _NNSIGHT.search(name)
    io = end["io"].removesuffix("put") if end else "out"
    path = re.sub(r"\[(\d+)\]", r".\1", name[: end.start()] if end else name)
    paths = [p for p in modules_of(model) if p]
    found = [p for p in paths if fnmatchcase(p, path)]
    if not found:
        below = {p: p[: -len(tail)] for p in paths if (tail := _tail(p, path))}
        if len(roots := sorted(set(below.values()))) > 1:
            raise SiteNotFound(
                f"{name!r} may be in {' or in '.join(root.rstrip('.') for root in roots[:4])}: "
                "write the whole module path."
            )
        found = list(below)
    named_places = {
        (site.path, site.io): site
        for site in reversed(list(known.values()))
        if site.call is None and site.select in (None, 0)
    }
    return [named_places.get((p, io)) or Site(f"path:{p}@{io}", p, io) for p in found]


def _tail(path: str, pattern: str) -> str:
    """Return the end of `path`, from some dot on, that a pattern stands for; empty if none does."""
    parts = path.split(".")
    tails = (".".join(parts[i:]) for i in range(1, len(parts)))
    return next((tail for tail in tails if fnmatchcase(tail, pattern)), "")


def _hint(
    name: str, known: Mapping[str, Site], missing: Mapping[str, str], others: Mapping[str, str]
) -> str:
    for pattern, reason in missing.items():
        for one in (pattern, *other_names(pattern)):
            if re.fullmatch(re.sub(r"\\\{\w\\\}", r"[^.]+", re.escape(one)), name) or fnmatchcase(
                one, name
            ):
                return f" {reason}"
    if hint := near_sites(name, known, others):
        return hint
    if known and not next(iter(known)).startswith("path:"):
        return f" There are {', '.join(list(known)[:6])}, ..."
    return " It has no hook map: use raw module paths, such as path:layer1@out."


def _raw(name: str, model: nn.Module) -> Site:
    match = _RAW.fullmatch(name)
    if match is None:
        raise SiteNotFound(f"{name!r} is no raw site; expected path:MODULE@in or @out.")
    path, io, call, layout = match["path"], match["io"] or "out", match["call"], match["layout"]
    modules = modules_of(model)
    if path not in modules:
        raise SiteNotFound(f"the model has no module {path!r}.{near(path, modules)}")
    if io not in ("in", "out"):
        raise SiteNotFound(f"{name!r} ends in @{io}; expected @in or @out.")
    if layout is not None and layout not in RAW_LAYOUTS:
        raise SiteNotFound(f"{name!r} ends in :{layout}; expected one of {', '.join(RAW_LAYOUTS)}.")
    full = f"path:{path}@{io}"
    full += f"#{call}" if call is not None else ""
    full += f":{layout}" if layout else ""
    which = None if call is None else int(call)
    return Site(full, path, io, layout=layout or "auto", call=which)
