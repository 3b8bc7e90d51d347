"""What is to be trained, one of several, and how each is called."""

from dataclasses import asdict, dataclass
from typing import Any

from probe_sae.errors import SettingsError
from probe_sae.sae import Settings


@dataclass(frozen=True)
class Run:
    """What one dictionary is to be."""

    settings: Settings
    seed: int
    """Of its weights; the order of rows is common to all that learn together."""
    name: str = ""
    """Among several, as its folder is called."""


def named(runs: list[Run]) -> list[Run]:
    """Return the runs, each with a name of what it does not share with all that have it.

    Raises:
        SettingsError: two are the same.
    """
    tables = [{"arch": r.settings.arch, **asdict(r.settings), "seed": r.seed} for r in runs]
    shared = {
        name
        for name in {name for table in tables for name in table}
        if len({str(table[name]) for table in tables if name in table}) == 1
    }
    made: list[Run] = []
    for run, table in zip(runs, tables, strict=True):
        parts = [
            str(value) if name == "arch" else f"{name}{_short(value)}"
            for name, value in table.items()
            if name not in shared
        ]
        made.append(Run(run.settings, run.seed, "-".join(parts) or run.settings.arch))
    if len({run.name for run in made}) < len(made):
        raise SettingsError("two of the dictionaries to train are the same.")
    return made


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return "_".join(map(_short, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
