"""Trackers by name: one file each, and one line in the table below, imported when asked for."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from probe_sae.errors import SettingsError, near

_HOMES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
"""Name, which is also the file's -> what must be importable."""

Line = Mapping[str, Any]
"""A line of the training log; `rows`, the rows consumed, says where it belongs."""
End = Literal["finished", "interrupted", "failed"]


@dataclass(frozen=True)
class TrackedRun:
    """The training of one dictionary, as a tracker is told of it."""

    name: str
    """As its folder is called, or its architecture where it has none."""
    group: str
    """What those that are trained together are called; empty where it is alone."""
    config: Mapping[str, Any]
    """Architecture, settings, trainer, and where the rows come from."""

    @property
    def flat_config(self) -> dict[str, Any]:
        """The config without nesting: `settings.k`."""
        return dict(_flat(self.config, ""))


class Tracker(Protocol):
    """Where the numbers of one run go."""

    id: str
    """By which a resumed training goes on with the same run: letters, digits and `_.-`."""

    def note(self, line: Line) -> None:
        """Take in a line of the log, or the last one, whose numbers are called `final_...`."""

    def end(self, how: End) -> None:
        """Put away what is open."""


class Opener(NamedTuple):
    """How a tracker begins."""

    name: str
    open: Callable[[TrackedRun, str | None], Tracker]
    """Run and, where it is continued, the id it had -> tracker."""


class OwnTracker:
    """A function of the user's that is called with the run and each line."""

    id = ""  # there is nothing to go on with: a resumed training tells it all lines again

    def __init__(self, run: TrackedRun, function: Callable[[TrackedRun, Line], None]) -> None:
        """Begin."""
        self._run, self._function = run, function

    def note(self, line: Line) -> None:
        """See `Tracker.note`."""
        self._function(self._run, line)

    def end(self, how: End) -> None:
        """See `Tracker.end`."""


def opener(track: str | Callable[[TrackedRun, Line], None]) -> Opener:
    """Return how to begin a tracker, by its name or as a function of the user's.

    Raises:
        SettingsError: there is none of this name, or its package is missing.
    """
    if callable(track):
        name = getattr(track, "__name__", type(track).__name__)

        def begin(run: TrackedRun, known: str | None) -> Tracker:
            return OwnTracker(run, track)

        return Opener(name, begin)
    if track not in _HOMES:
        raise SettingsError(
            f"no tracker {track!r}; there are {', '.join(_HOMES)}, or give a function of (run, "
            f"line).{near(str(track), _HOMES)}"
        )
    try:
        importlib.import_module(_HOMES[track])
    except ImportError as problem:
        raise SettingsError(
            f"the tracker {track} needs a package that cannot be imported ({problem}). Install "
            f"`probe_sae[track]`, or {track} alone."
        ) from problem
    return Opener(track, importlib.import_module(f"{__name__}.to_{track}").begin)


def numbers_of(line: Line) -> dict[str, float]:
    """Return what of a line is a number."""
    return {name: value for name, value in line.items() if isinstance(value, (int, float))}


def _flat(table: Mapping[str, Any], before: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in table.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{before}{name}.")
        else:
            found.append((f"{before}{name}", value))
    return found
