"""Tell trackers of a training; whatever happens to them, the training goes on."""

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probe_sae.errors import SettingsError
from probe_sae.progress import say
from probe_sae.sae import SAE, ReconstructionMeter
from probe_sae.training.runs import Run
from probe_sae.training.trackers import End, Line, Opener, TrackedRun, Tracker, opener

Track = str | Callable[[TrackedRun, Line], None]
"""A tracker: `tensorboard`, `wandb`, `mlflow`, or a function that is called with each line."""
FINAL_ROWS = 8192
"""Held-out rows, at most, that a finished dictionary is measured on for trackers."""
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,250}")


def openers_for(track: Any) -> list[Opener]:
    """Return how to begin each tracker, before anything else is done.

    Args:
        track: what a user gave: a `Track` or a list of them.

    Raises:
        SettingsError: one is unknown or given twice, or its package is missing.
    """
    each: Any = [track] if isinstance(track, str) or callable(track) else track
    if not isinstance(each, Sequence):
        raise SettingsError(f"track is {track!r}; expected names, functions, or a list of them.")
    names = [one for one in each if isinstance(one, str)]
    if len(set(names)) < len(names):
        raise SettingsError(f"a tracker is given twice: {', '.join(names)}.")
    return [opener(one) for one in each]


def told_of(
    runs: Sequence[Run], whats: Sequence[Mapping[str, Any]], out: str | Path | None
) -> list[TrackedRun]:
    """Return runs as trackers are told of them.

    Args:
        runs: what is to be trained.
        whats: what each depends on.
        out: the folder of one, or of all of several.
    """
    folder = "" if out is None else Path(out).resolve().name
    group = (folder or "probe_sae") if len(runs) > 1 else ""
    return [
        TrackedRun(run.name or folder or run.settings.arch, group, what)
        for run, what in zip(runs, whats, strict=True)
    ]


class Tracking:
    """The trackers of all dictionaries of a training."""

    def __init__(self, runs: Sequence[TrackedRun] = ()) -> None:
        """Begin without trackers."""
        self._runs = runs
        self._trackers: dict[str, list[Tracker]] = {}
        self._new: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._trackers)

    @property
    def ids(self) -> dict[str, list[str]]:
        """What a resumed training needs to go on with the same runs."""
        return {name: [one.id for one in each] for name, each in self._trackers.items()}

    def open(self, openers: Sequence[Opener], ids: Any) -> None:
        """Begin runs, or go on with those whose ids are known.

        Raises:
            SettingsError: one cannot begin.
        """
        for number, (name, begin) in enumerate(openers):
            key = name if name not in self._trackers else f"{name}-{number}"
            known = _known(ids, key, len(self._runs))
            opened = self._trackers[key] = list[Tracker]()
            try:
                for run, mine in zip(self._runs, known, strict=True):
                    opened.append(begin(run, mine))
            except Exception as problem:
                why = str(problem).rstrip(".")
                raise SettingsError(
                    f"the tracker {name} cannot begin: {why}. Mend that, or train without it."
                ) from problem
            if None in known:
                self._new.add(key)

    def note(self, index: int, line: Line) -> None:
        """Tell all trackers of a dictionary's new line."""
        self._tell(index, [line], list(self._trackers))

    def catch_up(self, index: int, log: Sequence[Line]) -> None:
        """Tell trackers that were not there yet what a resumed training has logged before."""
        self._tell(index, log, [name for name in self._trackers if name in self._new])

    def conclude(self, saes: Sequence[SAE], rows: Tensor) -> None:
        """Tell what the finished dictionaries are like, on rows that training has not seen."""
        for index, sae in enumerate(saes if self else ()):
            self.note(index, {"rows": sae.log[-1]["rows"], **_final(sae, rows[:FINAL_ROWS])})

    def close(self, how: End) -> None:
        """End all runs."""
        for name in list(self._trackers):
            with self._shield(name):
                for tracker in self._trackers.get(name, ()):
                    tracker.end(how)

    def _tell(self, index: int, lines: Sequence[Line], names: Sequence[str]) -> None:
        for name in names:
            with self._shield(name):
                for line in lines:
                    self._trackers[name][index].note(dict(line))

    @contextmanager
    def _shield(self, name: str) -> Generator[None]:
        """Leave a tracker alone from its first failure on."""
        try:
            yield
        except Exception as problem:
            del self._trackers[name]
            what = f"{type(problem).__name__}: {problem}"
            say(
                f"warning: the tracker {name} failed and is told no more ({what}); log.jsonl has "
                "every line."
            )


@contextmanager
def tracked(
    openers: Sequence[Opener], runs: Sequence[TrackedRun], ids: Any = None
) -> Generator[Tracking]:
    """Yield the trackers of a training, and end their runs when the block is over.

    Args:
        openers: of `openers_for`.
        runs: one for each dictionary.
        ids: `Tracking.ids` of a training that is continued, as a file holds it.
    """
    tracking, how = Tracking(runs), "failed"
    try:
        tracking.open(openers, ids)
        yield tracking
        how = "finished"
    except KeyboardInterrupt:
        how = "interrupted"
        raise
    finally:
        tracking.close(how)


def _known(ids: Any, name: str, count: int) -> list[str | None]:
    """Return the ids of a tracker's runs from a file; None where there are none that can be."""
    mine = ids.get(name) if isinstance(ids, Mapping) else None
    if not isinstance(mine, list) or len(mine) != count:
        return [None] * count
    if not all(isinstance(one, str) and _ID.fullmatch(one) for one in mine):
        return [None] * count
    return mine


@torch.no_grad()
def _final(sae: SAE, rows: Tensor) -> dict[str, float]:
    """Return metrics of a finished dictionary, by the definitions that `evaluate` states."""
    meter = ReconstructionMeter(sae.features, sae.settings.fires_above)
    for some in rows.split(1024):
        x, target = sae.split(some)
        codes = sae.encode_sparse(x)
        meter.add(target, sae.reconstruct(x, codes), codes)
    return {
        "final_rows_evaluated": meter.rows,
        "final_fraction_unexplained": meter.fraction_unexplained,
        "final_l0": meter.l0,
        "final_dead_fraction": meter.dead_fraction,
    }
