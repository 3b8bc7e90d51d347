"""Weights & Biases: a run of the project `WANDB_PROJECT` or `probe_sae`; its variables hold."""

import os
from typing import Any

import wandb  # pyright: ignore[reportMissingImports] -- an extra

from probe_sae.training.trackers import End, Line, TrackedRun, Tracker, numbers_of


def begin(run: TrackedRun, known: str | None) -> Tracker:
    """Begin a run, or go on with one; a run that the user has begun is used and left open."""
    if wandb.run is not None and not run.group:
        return _UsersRun(wandb.run, run)
    return _OwnRun(run, known)


class _OwnRun:
    def __init__(self, run: TrackedRun, known: str | None) -> None:
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "probe_sae"),
            name=run.name,
            group=run.group or None,
            job_type="train",
            config=dict(run.config),
            id=known,
            resume="allow" if known else None,
            reinit="create_new",
        )
        self.id = str(self._run.id)

    def note(self, line: Line) -> None:
        """See `Tracker.note`."""
        self._run.log(numbers_of(line), step=line["rows"])

    def end(self, how: End) -> None:
        """See `Tracker.end`."""
        self._run.finish(exit_code=0 if how == "finished" else 1)


class _UsersRun:
    """Steps are the user's there: rows are a number like the others."""

    def __init__(self, theirs: Any, run: TrackedRun) -> None:
        self._run, self.id = theirs, str(theirs.id)
        theirs.config.update(dict(run.config), allow_val_change=True)

    def note(self, line: Line) -> None:
        """See `Tracker.note`."""
        self._run.log(numbers_of(line))

    def end(self, how: End) -> None:
        """See `Tracker.end`."""
