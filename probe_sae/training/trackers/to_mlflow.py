"""MLflow: a run of the experiment that its variables name, or `probe_sae`; its variables hold."""

import os
import re
import time

import mlflow  # pyright: ignore[reportMissingImports] -- an extra
from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]
from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]

from probe_sae.training.trackers import End, Line, TrackedRun, Tracker, numbers_of

_AT_ONCE = 100
"""Parameters that MLflow takes in one call."""
_LONGEST = 500
"""Characters of a parameter that every version keeps."""
_STATUS: dict[End, str] = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


def begin(run: TrackedRun, known: str | None) -> Tracker:
    """Begin a run, or go on with one; inside a run that the user has begun, as a part of it."""
    return _Run(run, known)


class _Run:
    def __init__(self, run: TrackedRun, known: str | None) -> None:
        # The client and not `mlflow.start_run`: several dictionaries have a run each at a time.
        self._client = MlflowClient()
        self._noted = 0.0
        if known:
            self._client.update_run(known, status="RUNNING")
            self._noted = self._client.get_run(known).data.metrics.get("rows", 0.0)
            self.id = known
            return
        theirs = mlflow.active_run()
        tags = {"mlflow.parentRunId": theirs.info.run_id} if theirs else {}
        tags |= {"group": run.group} if run.group else {}
        experiment = theirs.info.experiment_id if theirs else self._experiment()
        made = self._client.create_run(experiment, tags=tags, run_name=run.name)
        self.id = str(made.info.run_id)
        params = [
            Param(re.sub(r"[^\w\-. /:]", "_", name), str(value)[:_LONGEST])
            for name, value in run.flat_config.items()
        ]
        for first in range(0, len(params), _AT_ONCE):
            self._client.log_batch(self.id, params=params[first : first + _AT_ONCE])

    def note(self, line: Line) -> None:
        """See `Tracker.note`; what a killed run has noted already is not noted twice."""
        rows, now = line["rows"], int(time.time() * 1000)
        numbers = {n: v for n, v in numbers_of(line).items() if n.startswith("final_")}
        if rows > self._noted:
            numbers = numbers_of(line)
        self._client.log_batch(
            self.id, metrics=[Metric(name, value, now, rows) for name, value in numbers.items()]
        )

    def end(self, how: End) -> None:
        """See `Tracker.end`."""
        self._client.set_terminated(self.id, _STATUS[how])

    def _experiment(self) -> str:
        """Return the id of the experiment: what `mlflow.set_experiment` chose is in a variable."""
        if number := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return number
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "probe_sae")
        there = self._client.get_experiment_by_name(name)
        return there.experiment_id if there else self._client.create_experiment(name)
