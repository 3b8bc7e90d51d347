"""TensorBoard: a folder of events a run, under `TENSORBOARD_LOGGING_DIR` or `runs`."""

import json
import os
import re
import time
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from probe_sae.training.trackers import End, Line, TrackedRun, Tracker, numbers_of


def begin(run: TrackedRun, known: str | None) -> Tracker:
    """Begin a run, or go on with one in the folder that it had."""
    return _Events(run, known)


class _Events:
    def __init__(self, run: TrackedRun, known: str | None) -> None:
        runs = Path(os.environ.get("TENSORBOARD_LOGGING_DIR", "runs"))
        self.id = known or _new_folder(runs, "-".join(filter(None, (run.group, run.name))))
        self._folder, self._is_continued = runs / self.id, known is not None
        self._writer: SummaryWriter | None = None
        self._run = run
        self._folder.mkdir(parents=True, exist_ok=True)

    def note(self, line: Line) -> None:
        """See `Tracker.note`."""
        rows = line["rows"]
        if self._writer is None:
            self._writer = self._opened(rows)
        for name, value in numbers_of(line).items():
            self._writer.add_scalar(name, value, rows)
        self._writer.flush()

    def end(self, how: End) -> None:
        """See `Tracker.end`."""
        if self._writer is not None:
            self._writer.close()

    def _opened(self, rows: int) -> SummaryWriter:
        """Return the writer; what a killed run wrote from here on counts no more."""
        writer = SummaryWriter(self._folder, purge_step=rows if self._is_continued else None)
        if not self._is_continued:
            text = json.dumps(self._run.config, indent=1, default=str)
            writer.add_text("config", f"```\n{text}\n```", 0)
            config = self._run.flat_config.items()
            plain = {name: value for name, value in config if isinstance(value, (int, float, str))}
            for summary in hparams(plain, {"final_fraction_unexplained": 0.0, "final_l0": 0.0}):
                if writer.file_writer is not None:
                    writer.file_writer.add_summary(summary)
        return writer


def _new_folder(runs: Path, name: str) -> str:
    """Return the name of a folder that is not there yet."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")
    stamp, number = f"{plain}_{time.strftime('%Y-%m-%d_%H-%M-%S')}", 1
    folder = stamp
    while (runs / folder).exists():
        number += 1
        folder = f"{stamp}_{number}"
    return folder
