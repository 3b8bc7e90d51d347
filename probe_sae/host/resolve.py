"""Find the sites of a hook map in a model: candidate paths, conditions, blocks counted."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torch import nn

from probe_sae.errors import FormatError, near
from probe_sae.host.config_number import config_entry, config_number
from probe_sae.host.hook_map import HookMap, IdentityRule, SiteRule, Tower
from probe_sae.host.modules import modules_of
from probe_sae.host.paths import PLACEHOLDER, Place, filled, numbered, numbered_by, places_of
from probe_sae.host.sites import Site


@dataclass(frozen=True)
class Identity:
    """What holds between sites of one block: a function of the left ones is the right one."""

    rule: str
    """As the map says it, without the block's number."""
    function: str
    """`sum`, `relu` (of the sum) or `cat` (along the row's axis)."""
    left: tuple[Site, ...]
    right: Site


@dataclass
class Mapped:
    """What a hook map found in one model."""

    sites: dict[str, Site] = field(default_factory=dict[str, Site])
    missing: dict[str, str] = field(default_factory=dict[str, str])
    """Site pattern -> why this model has it not, or not in every block."""
    broken: set[str] = field(default_factory=set[str])
    """Of the missing, those that the map promises for this very model."""
    identities: list[Identity] = field(default_factory=list[Identity])
    states: list[tuple[str, list[Site]]] = field(default_factory=list[tuple[str, list[Site]]])
    """Entry of the model's output -> the sites that it should be, in order."""
    towers: list[Tower] = field(default_factory=list[Tower])
    entries: dict[str, str] = field(default_factory=dict[str, str])
    """Tower -> the module that runs it alone, where there is one: the path of the same name."""


def resolve(model: nn.Module, config: Any, hook_map: HookMap) -> Mapped:
    """Return the sites, identities and hidden states of a hook map in a model.

    Raises:
        FormatError: the map contradicts itself.
    """
    modules = modules_of(model)
    paths: dict[str, list[Place]] = {}
    for name, rules in hook_map.paths.items():
        found = (places_of(rule, modules, paths, hook_map.family) for rule in rules)
        paths[name] = next((places for places in found if places), [])
    mapped = Mapped()
    for tower in hook_map.towers:
        has = not tower.has or any(
            path in modules for path, _ in filled(tower.has, paths, hook_map.family)
        )
        if has and _holds(tower.when, config):
            mapped.towers.append(tower)
            if places := paths.get(tower.name):
                mapped.entries[tower.name] = places[0].path
            _Resolver(hook_map, tower, modules, config, paths, mapped).run()
    return mapped


def _holds(when: Mapping[str, Any], config: Any) -> bool:
    """Tell whether the config has the wanted values; a list is any of them, `unset` is none."""

    def holds(value: Any, wanted: Any) -> bool:
        return value is None if wanted == "unset" else value == wanted

    return all(
        any(
            holds(config_entry(config, key), one)
            for one in (wanted if isinstance(wanted, list) else [wanted])
        )
        for key, wanted in when.items()
    )


class _Resolver:
    """Resolve one tower into `mapped`."""

    def __init__(
        self,
        hook_map: HookMap,
        tower: Tower,
        modules: Mapping[str, nn.Module],
        config: Any,
        paths: Mapping[str, list[Place]],
        mapped: Mapped,
    ) -> None:
        self.family, self.tower, self.modules = hook_map.family, tower, modules
        self.config, self.paths, self.mapped = config, paths, mapped
        self.prefix = f"{tower.name}." if tower.name else ""
        self.special = config_number(tower.special_prefix, config, {}) or 0

    def run(self) -> None:
        found: list[tuple[int, tuple[int, ...], int, Site]] = []
        groups: dict[str, int] = {}
        for number, (pattern, rules) in enumerate(self.tower.sites.items()):
            block = pattern[: pattern.rfind("}") + 1]
            group = groups.setdefault(block, number) if block else number
            for counters, site in self._sites(pattern, rules).items():
                found.append((group, counters, number, site))
        found.sort(key=lambda entry: entry[:3])
        self.mapped.sites |= {site.name: site for *_, site in found}
        for rule in self.tower.identities:
            if _holds(rule.when, self.config):
                self._identities(rule)
        self._chain()
        self._states()

    def _sites(self, pattern: str, rules: tuple[SiteRule, ...]) -> dict[tuple[int, ...], Site]:
        """Return the sites of a pattern by their counters; what is missing is noted."""
        sites: dict[tuple[int, ...], Site] = {}
        wanted: set[tuple[int, ...]] = set()
        refused: list[str] = []
        absent: list[str] = []
        for rule in rules:
            if not _holds(rule.when, self.config):
                refused.append(" and ".join(f"{k} = {v}" for k, v in rule.when.items()))
                continue
            if rule.has and not self._has(rule.has):
                absent.append(rule.has)
                continue
            places = list(filled(rule.at, self.paths, self.family))
            if not places:
                absent.append(rule.at)
            for path, counters in places:
                if set(PLACEHOLDER.findall(pattern)) != set(counters):
                    raise FormatError(
                        f"hook map {self.family}: site {pattern!r} and {rule.at!r} do not count "
                        f"the same; {rule.at!r} counts {', '.join(counters) or 'nothing'}."
                    )
                key = tuple(counters[name] for name in PLACEHOLDER.findall(pattern))
                wanted.add(key)
                if path not in self.modules:
                    absent.append(path)
                elif key not in sites:
                    sites[key] = self._site(pattern, rule, path, counters)
        name = self.prefix + pattern
        if not all(rule.optional for rule in rules) and (wanted - sites.keys() or not sites):
            if refused and not wanted and not absent:
                reason = f"{self.family} has {name} only where {' or '.join(refused)}."
            else:
                reason = f"{name} is not in this model: it has no module {absent[0]!r}."
                self.mapped.broken.add(name)
            self.mapped.missing[name] = reason
        return sites

    def _has(self, text: str) -> bool:
        return any(path in self.modules for path, _ in filled(text, self.paths, self.family))

    def _site(self, pattern: str, rule: SiteRule, path: str, counters: Mapping[str, int]) -> Site:
        return Site(
            self.prefix + numbered(pattern, counters, self.family),
            path,
            rule.io,
            config_number(rule.width, self.config, counters),
            rule.layout,
            rule.select,
            rule.call,
            self.tower.kind,
            self.special,
            config_number(rule.heads, self.config, counters),
            rule.in_place,
        )

    def _identities(self, rule: IdentityRule) -> None:
        """Note an identity for every block that has all of its sites.

        One that is nowhere, though the sites in it are there, is broken: it would prove nothing.
        """
        found, lacks_site = list[Identity](), False
        prefix, colon, formula = rule.holds.rpartition(": ")
        left, _, right = formula.partition(" == ")
        call = re.fullmatch(r"(relu|cat)\((.*)\)", left.strip())
        function, inside = (call[1], call[2]) if call else ("sum", left)
        terms = [term.strip() for term in re.split(r",| \+ ", inside)] + [right.strip()]
        for counters in self._counted(prefix or formula):
            sites = [self._term(term, prefix if colon else "", counters) for term in terms]
            known = [site for site in sites if site is not None]
            lacks_site |= any(
                site is None and not term.startswith("path:")
                for term, site in zip(terms, sites, strict=True)
            )
            if len(known) < len(sites):
                continue
            if known[-1] in known[:-1]:
                raise FormatError(f"hook map {self.family}: {rule.holds!r} holds of anything.")
            found.append(Identity(self.prefix + rule.holds, function, tuple(known[:-1]), known[-1]))
        if not found and not lacks_site and not rule.optional:
            name = self.prefix + rule.holds
            self.mapped.broken.add(name)
            self.mapped.missing[name] = "it is about modules that this model has not."
        self.mapped.identities += found

    def _counted(self, text: str) -> list[dict[str, int]]:
        """Return every value that the counters in `text` take in the tower's sites."""
        names = list(dict.fromkeys(n for n in PLACEHOLDER.findall(text) if len(n) == 1))
        seen: dict[tuple[int, ...], None] = {}
        for pattern, rules in self.tower.sites.items():
            if set(names) <= set(PLACEHOLDER.findall(pattern)):
                for rule in rules:
                    for _, counters in filled(rule.at, self.paths, self.family):
                        seen[tuple(counters[name] for name in names)] = None
        return [dict(zip(names, values, strict=True)) for values in sorted(seen)]

    def _term(self, term: str, prefix: str, counters: Mapping[str, int]) -> Site | None:
        """Return the site that a term of an identity names; None where this block has it not."""
        if term.startswith("path:"):
            path, _, io = term.removeprefix("path:").partition("@")
            io, _, call = io.partition("#")
            if io not in ("in", "out") or (call and not call.isdecimal()):
                raise FormatError(
                    f"hook map {self.family}: {term!r} in an identity; expected path:MODULE@in or "
                    "@out, with #0 for a call."
                )
            for at, own in filled(path, self.paths, self.family):
                if all(own.get(key, value) == value for key, value in counters.items()):
                    if at not in self.modules:
                        return None
                    which = int(call) if call else None
                    number = f"#{which}" if call else ""
                    return Site(f"path:{at}@{io}{number}", at, io, call=which)
            return None
        full = f"{prefix}.{term}" if prefix else term
        name = numbered(full.replace("{last}", "(last)"), counters, self.family)
        if "(last)" in name:
            name = name.replace("(last)", str(self._last(name)))
            full = name
        name = self.prefix + name
        declared = {re.sub(r"\{\w\}", "{}", pattern) for pattern in self.tower.sites}
        pattern = re.sub(r"\.(\d+|\{\w\})(?=\.|$)", ".{}", full)
        if name not in self.mapped.sites and not {full, pattern} & {*declared, *self.tower.sites}:
            raise FormatError(
                f"hook map {self.family}: an identity names {full!r}, which is no site of it."
                f"{near(full, self.tower.sites)}"
            )
        return self.mapped.sites.get(name)

    def _last(self, name: str) -> int:
        """Return the largest number that the sites have at `(last)`."""
        pattern = re.escape(self.prefix + name).replace(re.escape("(last)"), r"(\d+)")
        found = (re.fullmatch(pattern, name) for name in self.mapped.sites)
        return max((int(match[1]) for match in found if match), default=0)

    def _chain(self) -> None:
        """What one block leaves is what the next one gets."""
        for pattern in self.tower.sites:
            if not pattern.endswith("}.resid_post") or f"{pattern[:-4]}pre" not in self.tower.sites:
                continue
            rule = f"{self.prefix}{pattern} == the next block's resid_pre"
            posts = self._of_pattern(pattern)
            for (before, post), (after, _) in pairwise(posts.items()):
                pre = self.mapped.sites.get(self.prefix + numbered_by(f"{pattern[:-4]}pre", after))
                if pre is not None and before[:-1] == after[:-1]:
                    self.mapped.identities.append(Identity(rule, "sum", (post,), pre))

    def _of_pattern(self, pattern: str) -> dict[tuple[int, ...], Site]:
        text = re.escape(self.prefix + pattern)
        regex = re.sub(r"\\\{\w\\\}", r"(\\d+)", text)
        return {
            tuple(map(int, match.groups())): site
            for name, site in self.mapped.sites.items()
            if (match := re.fullmatch(regex, name))
        }

    def _states(self) -> None:
        for states in self.tower.states:
            if unknown := set(states.equals) - self.tower.sites.keys():
                first = sorted(unknown)[0]
                raise FormatError(
                    f"hook map {self.family}: hidden_states are {first!r}, which is no site of it."
                    f"{near(first, self.tower.sites)}"
                )
            if states.equals:
                found = [list(self._of_pattern(pattern).values()) for pattern in states.equals]
                self.mapped.states.append((states.entry, [s for part in found for s in part]))
