"""Read hook maps from TOML, strictly: what is wrong names the file, the key and what is near."""

import os
import re
import tomllib
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from probe_sae.errors import FormatError, near
from probe_sae.host.config_number import is_formula
from probe_sae.host.hook_map import (
    HookMap,
    IdentityRule,
    PathRule,
    SiteRule,
    StatesRule,
    TinyModel,
    Tower,
)
from probe_sae.host.layouts import LAYOUTS
from probe_sae.shipped import shipped

_TOWER_KEYS = {
    "kind",
    "layout",
    "special_prefix",
    "width",
    "when",
    "has",
    "sites",
    "identities",
    "hidden_states",
}
_KEYS = _TOWER_KEYS | {"family", "about", "model_types", "classes", "paths", "towers", "tiny"}
_SITE_KEYS = {
    "at",
    "io",
    "width",
    "layout",
    "select",
    "call",
    "heads",
    "in_place",
    "when",
    "has",
    "optional",
}
_INPUTS = {"text": "input_ids", "image": "pixel_values", "audio": "input_values"}
KINDS = tuple(_INPUTS)
_LIBRARIES = ("transformers", "torchvision", "timm", "open_clip", "transformer_lens")
"""What makes tiny models; the last three may be missing."""


def hook_maps() -> list[HookMap]:
    """Return every hook map: first those in the folder `PROBE_SAE_HOOKS`, then those shipped.

    Raises:
        FormatError: a file breaks the schema, or the folder cannot be read.
    """
    folders: list[Traversable] = [shipped("hooks")]
    if extra := os.environ.get("PROBE_SAE_HOOKS"):
        if not Path(extra).is_dir():
            raise FormatError(f"PROBE_SAE_HOOKS is {extra!r}, which is no folder.")
        folders.insert(0, Path(extra))
    found: list[HookMap] = []
    for folder in folders:
        files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=_file_name)
        for file in files:
            try:
                text = file.read_text("utf-8")
            except (OSError, UnicodeDecodeError) as problem:
                raise FormatError(f"hook map {file.name} cannot be read: {problem}") from problem
            found.append(read_hook_map(text, file.name))
    return found


def _file_name(file: Traversable) -> str:
    return file.name


def hook_map_for(model: Any, config: Any) -> HookMap | None:
    """Return the map of a model's family, found by its config's `model_type` or its class."""
    model_type = getattr(config, "model_type", None)
    names = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(model).__mro__}
    for hook_map in hook_maps():
        if (model_type and model_type in hook_map.model_types) or names & set(hook_map.classes):
            return hook_map
    return None


def read_hook_map(text: str, name: str) -> HookMap:
    """Return the hook map in a TOML text.

    Args:
        text: the file's content.
        name: the file's name, for messages.

    Raises:
        FormatError: no TOML, an unknown or missing key, or a value of a wrong kind.
    """
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as problem:
        raise FormatError(f"hook map {name}: {problem}") from problem
    reader = _Reader(name)
    reader.known(raw, _KEYS, "")
    family = reader.text(raw, "family")
    model_types, classes = reader.texts(raw, "model_types"), reader.texts(raw, "classes")
    if not model_types and not classes:
        reader.fail("lacks model_types or classes: which models is it for?")
    paths = {
        key: tuple(reader.path(rule, key) for rule in _listed(rules))
        for key, rules in reader.table(raw, "paths").items()
    }
    towers = [reader.tower("", raw)] if "sites" in raw else []
    for key, own in reader.table(raw, "towers").items():
        reader.known(own, _TOWER_KEYS, f"tower {key}")
    towers += [
        reader.tower(key, {k: raw[k] for k in _TOWER_KEYS & raw.keys() - {"sites"}} | own)
        for key, own in reader.table(raw, "towers").items()
    ]
    if not towers:
        reader.fail("lacks sites.")
    tiny = tuple(reader.tiny(entry) for entry in _listed(raw.get("tiny", [])))
    about = str(raw.get("about", ""))
    return HookMap(family, about, model_types, classes, paths, tuple(towers), tiny, text)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


class _Reader:
    """Read values of one file; what is wrong names the file."""

    def __init__(self, name: str) -> None:
        self.name = name

    def fail(self, what: str) -> Any:
        raise FormatError(f"hook map {self.name}: {what} See `probe-sae guide new-family`.")

    def known(self, table: Any, keys: set[str], where: str) -> None:
        if not isinstance(table, dict):
            self.fail(f"{where or 'the file'} is {table!r}; expected a table.")
        for key in table:
            if key not in keys:
                self.fail(f"{where}{': ' if where else ''}unknown key {key!r}.{near(key, keys)}")

    def text(self, table: Mapping[str, Any], key: str) -> str:
        if not isinstance(table.get(key), str) or not table[key]:
            self.fail(f"lacks {key}, or it is no text.")
        return table[key]

    def texts(self, table: Mapping[str, Any], key: str) -> tuple[str, ...]:
        values = _listed(table.get(key, []))
        if not all(isinstance(value, str) for value in values):
            self.fail(f"{key} is {values!r}; expected texts.")
        return tuple(values)

    def table(self, table: Mapping[str, Any], key: str) -> dict[str, Any]:
        value = table.get(key, {})
        if not isinstance(value, dict):
            self.fail(f"{key} is {value!r}; expected a table.")
        return value

    def one_of(self, value: Any, known: tuple[str, ...], what: str) -> str:
        if value not in known:
            self.fail(f"{what} is {value!r}; expected one of {', '.join(known)}.")
        return str(value)

    def placeholders(self, text: str, where: str) -> None:
        for name in re.findall(r"\{([^{}]*)\}", text):
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                self.fail(f"{where}: {{{name}}} is no placeholder; expected {{i}} or {{block}}.")

    def formula(self, value: Any, what: str) -> str:
        text = str(value)
        if text and not is_formula(text):
            self.fail(f"{what} is {text!r}; expected numbers and config entries with + * and |.")
        return text

    def path(self, rule: Any, key: str) -> PathRule:
        if isinstance(rule, str):
            rule = {"at": rule}
        self.known(rule, {"at", "class"}, f"path {key}")
        if not isinstance(rule.get("at"), str):
            self.fail(f"path {key} needs at = module path.")
        self.placeholders(rule["at"], f"path {key}")
        return PathRule(rule["at"], self.texts(rule, "class"))

    def tower(self, name: str, raw: Mapping[str, Any]) -> Tower:
        where = f"tower {name}: " if name else ""
        if name:
            self.known(raw, _TOWER_KEYS, f"tower {name}")
        kind = self.one_of(raw.get("kind"), KINDS, f"{where}kind")
        for site in self.table(raw, "sites"):
            if not re.fullmatch(r"[A-Za-z0-9_{}]+(\.[A-Za-z0-9_{}]+)*", site):
                self.fail(f"{where}site {site!r}; expected names joined by dots.")
        if not raw.get("sites"):
            self.fail(f"{where}lacks sites.")
        sites = {
            site: tuple(
                alternative
                for rule in _listed(rules)
                for alternative in self.rules(rule, raw, f"{where}site {site}")
            )
            for site, rules in self.table(raw, "sites").items()
        }
        identities = tuple(self.identity(rule) for rule in _listed(raw.get("identities", [])))
        prefix = self.formula(raw.get("special_prefix", "0"), f"{where}special_prefix")
        when = self.table(raw, "when")
        has = str(raw.get("has", ""))
        return Tower(name, kind, prefix, when, has, sites, identities, self.states(raw))

    def rules(self, rule: Any, tower: Mapping[str, Any], where: str) -> list[SiteRule]:
        """Return the rules that one table of a site stands for, one a candidate path."""
        self.known(rule, _SITE_KEYS, where)
        io = self.one_of(rule.get("io"), ("in", "out"), f"{where}: io")
        candidates = self.texts(rule, "at")
        for text in (*candidates, where):
            self.placeholders(text, where)
        if not isinstance(rule.get("in_place", False), bool):
            self.fail(f"{where}: in_place is {rule['in_place']!r}; expected true or false.")
        if not candidates and rule.get("at") != "":
            self.fail(f"{where} needs at = module path.")
        call, select = rule.get("call"), rule.get("select")
        if call is not None and (not isinstance(call, int) or call < 0):
            self.fail(f"{where}: call is {call!r}; expected a number, 0 the first.")
        if select is not None and not isinstance(select, (int, str)):
            self.fail(f"{where}: select is {select!r}; expected a number or a name.")
        layout = self.one_of(
            rule.get("layout", tower.get("layout", "BTD")), tuple(LAYOUTS), f"{where}: layout"
        )
        width = self.formula(rule.get("width", tower.get("width", "")), f"{where}: width")
        heads = self.formula(rule.get("heads", ""), f"{where}: heads")
        if where.endswith(".heads") != bool(heads):
            self.fail(f"{where}: a site named heads, and no other, needs heads = their number.")
        if where.endswith(".attn_pattern") != (layout == "pattern"):
            self.fail(f"{where}: a site named attn_pattern, and no other, has layout pattern.")
        return [
            SiteRule(
                at,
                io,
                width,
                layout,
                select,
                call,
                heads,
                bool(rule.get("in_place", False)),
                self.table(rule, "when"),
                str(rule.get("has", "")),
                bool(rule.get("optional", False)),
            )
            for at in candidates
        ]

    def identity(self, rule: Any) -> IdentityRule:
        if isinstance(rule, str):
            rule = {"holds": rule}
        self.known(rule, {"holds", "when", "optional"}, "identity")
        holds = self.text(rule, "holds")
        if not re.search(r"\S == \S", holds):
            self.fail(f"identity {holds!r} has no ' == '.")
        return IdentityRule(holds, self.table(rule, "when"), bool(rule.get("optional", False)))

    def states(self, raw: Mapping[str, Any]) -> tuple[StatesRule, ...]:
        usual = "blocks.{i}.resid_pre"
        value = raw.get("hidden_states", usual if usual in raw.get("sites", {}) else False)
        if value is False:
            return ()
        rules: list[StatesRule] = []
        for rule in _listed(value):
            if isinstance(rule, str):
                rule = {"entry": "hidden_states", "equals": rule}
            self.known(rule, {"entry", "equals"}, "hidden_states")
            rules.append(StatesRule(self.text(rule, "entry"), self.texts(rule, "equals")))
        return tuple(rules)

    def tiny(self, entry: Any) -> TinyModel:
        self.known(entry, {"model", "config", "inputs"}, "tiny")
        model = self.text(entry, "model")
        if model.partition(":")[0] not in _LIBRARIES:
            known = ", ".join(_LIBRARIES)
            self.fail(f"tiny model {model!r}; expected one of {known}, a colon and a name.")
        for key, shape in self.table(entry, "inputs").items():
            if not isinstance(shape, list) or not all(isinstance(x, int) for x in shape):
                self.fail(
                    f"tiny input {key} is {shape!r}; expected a shape, such as [2, 3, 32, 32]."
                )
        inputs = {key: tuple(shape) for key, shape in self.table(entry, "inputs").items()}
        return TinyModel(model, self.table(entry, "config"), inputs)
