"""A model card: what a dictionary is, how to load it, how well it does, as the hub shows it.

Names in configs may be anybody's: each is written so that it is text and nothing else, in YAML and
in Markdown.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from probe_sae.errors import FormatError, SettingsError
from probe_sae.sae.card_mark import marked
from probe_sae.sae.reconstruction import DEFINITIONS

if TYPE_CHECKING:
    from probe_sae.sae.dictionary import SAE

_LONGEST = 200
"""Characters of a value that a card shows."""
_MOST = 200
"""Settings that a card shows."""
_PLAIN = re.compile(r"[\w .,:;/@+=()\[\]{}'\"!?%#*^~$&…-]+")
"""What a code span shows as it is, in a table too."""
_HUB_ID = re.compile(r"[a-zA-Z0-9][\w.-]*(/[a-zA-Z0-9][\w.-]*)?", re.ASCII)
_OWN_HOSTS = ("pixels",)
_CHOSEN = ("lr", "dead_after")
"""Settings of the trainer that are chosen by themselves where they are 0."""


class Measured(Protocol):
    """What `evaluate` returns."""

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Return metrics by name, nested ones too."""
        ...

    @property
    def definitions(self) -> Mapping[str, str]:
        """Return what each is."""
        ...

    @property
    def intervals(self) -> Mapping[str, Any]:
        """Return between what some of them lie."""
        ...

    @property
    def baselines(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the same of what learned nothing."""
        ...


Metrics = Measured | Mapping[str, Any] | str | Path
"""What `evaluate` returned, or the file that it wrote, or what that holds."""


def card_text(
    sae: "SAE", metrics: Metrics | None = None, repository: str = "", measured: str = ""
) -> str:
    """Return the README.md of a dictionary.

    Args:
        sae: the dictionary.
        metrics: of it.
        repository: where it will be, `user/name`.
        measured: the section of an older card that stands where no metrics are given.

    Raises:
        SettingsError: the metrics are none.
        FormatError: their file cannot be read, or holds none.
    """
    from huggingface_hub import ModelCardData

    tags = ["sparse-autoencoder", "interpretability", "probe_sae", sae.settings.arch]
    data = ModelCardData(library_name="probe_sae", base_model=base_model(sae.provenance), tags=tags)
    parts = [
        f"---\n{data.to_yaml()}\n---",
        _head(sae),
        _loading(sae, repository),
        measured if metrics is None else _measured(as_table(metrics), sae.provenance),
        _origin(sae),
    ]
    return marked("\n\n".join(part for part in parts if part) + "\n")


def metrics_of(path: Path) -> dict[str, Any]:
    """Return what `evaluate --out` wrote.

    Raises:
        FormatError: it cannot be read, or holds no metrics.
    """
    try:
        table: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as problem:
        raise FormatError(f"{path} cannot be read: {problem}") from problem
    if not isinstance(table, dict) or not isinstance(table.get("metrics"), dict):
        raise FormatError(f"{path} holds no metrics; expected what `evaluate --out` wrote.")
    return table


def base_model(provenance: Mapping[str, Any]) -> str | None:
    """Return the hub's id of the host that a dictionary was trained on, where it has one."""
    host = provenance.get("host")
    if not isinstance(host, Mapping):
        return None
    name = host.get("name")
    if not isinstance(name, str) or not _HUB_ID.fullmatch(name) or name in _OWN_HOSTS:
        return None
    # A module that was given has its class for a name; a folder has its path.
    return None if name == host.get("class") or Path(name).exists() else name


def shown(value: Any) -> str:
    """Return any value as a Markdown code span that shows it and does nothing else."""
    text = value if isinstance(value, str) else _compact(value)
    text = "".join(char if char.isprintable() else " " for char in text).strip()
    text = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    if not text:
        return ""
    if _PLAIN.fullmatch(text):
        return f"`{text}`"
    return f"<code>{_as_entities(r'[^a-zA-Z0-9 -]', text)}</code>"


def _as_entities(wanted: str, text: str) -> str:
    """Return a text with some characters as numbers, which Markdown never reads as structure."""
    return re.sub(wanted, lambda found: f"&#{ord(found[0])};", text)


def _compact(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "-"
    return json.dumps(value, default=str, ensure_ascii=False)


def _head(sae: "SAE") -> str:
    provenance = sae.provenance
    sites, host = provenance.get("sites"), provenance.get("host")
    names = sites if isinstance(sites, Sequence) and not isinstance(sites, str) else [sites]
    where = ", ".join(shown(name) for name in names if name)
    of = shown(host.get("name", "")) if isinstance(host, Mapping) else ""
    lines = f"rows of {where or 'activations'}{f' of {of}' if of else ''}"
    widths = " + ".join(f"{width:,}" for width in sae.widths)
    kind = "sparse autoencoder" if sae.is_autoencoder else "transcoder"
    imported = provenance.get("imported")
    if isinstance(imported, Mapping):
        source = shown(_table(imported).get("format", "another library"))
        made = f"imported from {source} by probe_sae, for {lines}, {widths} numbers each."
    else:
        made = f"learned from {lines}, {widths} numbers each, by probe_sae."
    return (
        f"# A dictionary of {sae.features:,} features\n\nA {kind} (`{sae.settings.arch}`), {made}"
    )


def _loading(sae: "SAE", repository: str) -> str:
    name = repository or "path/to/this/folder"
    place = f"hf:{repository}" if repository else name
    return (
        "## Load it\n\n"
        "```python\nimport probe_sae as ps\n\n"
        f'sae = ps.SAE.from_pretrained("{name}")\n'
        f"codes = sae.encode(rows)  # [rows, {sae.d_model}] raw activations -> "
        f"[rows, {sae.features}]\n"
        "x_hat = sae.decode(codes)\n```\n\n"
        f"```sh\nprobe-sae evaluate {place} STORE\n```\n\n"
        "Activations are taken as they are: their scale is part of the dictionary. Every load "
        "checks the weights' hash, and that a few rows give the codes that they gave."
    )


def as_table(metrics: Any) -> Mapping[str, Any]:
    """Return metrics, however they are given, as the file of `evaluate` has them.

    Raises:
        SettingsError: they are none.
        FormatError: their file cannot be read, or holds none.
    """
    if isinstance(metrics, (str, Path)):
        return metrics_of(Path(metrics))
    if isinstance(metrics, Mapping):
        whole = _table(metrics)
        if isinstance(whole.get("metrics"), Mapping):
            return whole
        if DEFINITIONS.keys() & whole.keys():
            return {"metrics": whole}
        got = ", ".join(list(whole)[:5]) or "nothing"
    elif isinstance(getattr(metrics, "metrics", None), Mapping):
        names = ("metrics", "definitions", "intervals", "baselines")
        return {name: getattr(metrics, name, {}) for name in names}
    else:
        got = type(metrics).__name__
    raise SettingsError(
        "metrics are not those of a dictionary; expected what `evaluate` returned, or the path of "
        f"what `evaluate --out` wrote; got {got}."
    )


def _heading(provenance: Mapping[str, Any]) -> str:
    """Say whether training saw the rows that metrics were computed on, as far as that is known."""
    if "imported" in provenance:
        return (
            "## Measured\n\nOn which rows it was trained is not known here: some of these may be "
            "among them."
        )
    if _table(provenance.get("trainer")).get("held_out") == 0:
        return "## Measured\n\nTraining kept no rows for this: it may have seen these."
    return "## Measured on rows that training never saw"


def _measured(whole: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    """Return the metrics as a table, with what each is."""
    found, intervals, baselines, meanings = (
        _table(whole.get(name)) for name in ("metrics", "intervals", "baselines", "definitions")
    )
    beside = {shown(name): _table(each) for name, each in baselines.items()}
    lines = [["metric", "value", "95 % interval", *beside]]
    for name, value in _flat(found).items():
        between = intervals.get(name)
        ends = between if isinstance(between, (list, tuple)) else ()
        others = [_number(each[name]) if name in each else "" for each in beside.values()]
        lines.append([shown(name), _number(value), " to ".join(map(_number, ends)), *others])
    defined = DEFINITIONS | {str(name): str(text) for name, text in meanings.items()}
    names = [part for name in _flat(found) for part in (name.partition(".")[0], name)]
    names += [name for name, has in (("intervals", intervals), ("baselines", baselines)) if has]
    texts = [f"- {shown(n)}: {_plain(defined[n])}" for n in dict.fromkeys(names) if n in defined]
    return "\n\n".join([_heading(provenance), _rows(lines), *(["\n".join(texts)] if texts else [])])


def _origin(sae: "SAE") -> str:
    """Return settings of architecture and training, and what the rows were, as a table."""
    trainer = _table(sae.provenance.get("trainer"))
    settings = {"arch": sae.settings.arch} | asdict(sae.settings)
    found = _chosen(sae, settings | trainer)
    rest = {n: v for n, v in sae.provenance.items() if n not in ("trainer", "versions")}
    lines = [["", ""]]
    for name, value in [*(settings | trainer | _flat(rest)).items()][:_MOST]:
        lines.append([shown(name), found.get(name) or shown(value)])
    title = "What is known of it" if "imported" in sae.provenance else "How it was made"
    return "\n\n".join([f"## {title}", _rows(lines)])


def _chosen(sae: "SAE", settings: Mapping[str, Any]) -> dict[str, str]:
    """Return, of settings whose 0 leaves the choice to the run, what was chosen as the log has it.

    The learning rate is the highest, a coefficient that is steered the last.
    """
    found: dict[str, str] = {}
    for name in (*_CHOSEN, *sae.settings.by_itself):
        if name in settings and settings[name] == 0:
            seen = [line[name] for line in sae.log if isinstance(line.get(name), float)]
            value = (max(seen) if name == "lr" else seen[-1]) if seen else None
            found[name] = "chosen by itself" + (f": {shown(value)}" if seen else "")
    return found


def _table(value: Any) -> dict[str, Any]:
    return {str(n): v for n, v in value.items()} if isinstance(value, Mapping) else {}


def _flat(values: Mapping[str, Any], depth: int = 2) -> dict[str, Any]:
    """Return nested values as `outer.inner`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and depth:
            inner = _flat(_table(value), depth - 1)
            found |= {f"{name}.{part}": each for part, each in inner.items()}
        else:
            found[name] = value
    return found


def _number(value: Any) -> str:
    if isinstance(value, (list, tuple)) and len(value) > 4:
        return f"{len(value)} numbers"
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
        return f"{value:.4g}" if isinstance(value, float) else f"{value:,}"
    return shown(value)


def _plain(text: str) -> str:
    """Return a sentence as Markdown that shows it as it is."""
    return _as_entities(r"[^\w .,:;()/+=%'-]|_", " ".join(text.split()))


def _rows(lines: list[list[str]]) -> str:
    ruled = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in ruled)
