"""Stand-ins for tensorboard, wandb and mlflow that keep what they are told."""

from types import ModuleType, SimpleNamespace
from typing import Any


class Told:
    """What all runs of all stand-ins were told, by id."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.fails_at = float("inf")
        """From so many rows on, every call fails."""

    def begin(self, id: str, **facts: Any) -> dict[str, Any]:
        run = self.runs.setdefault(id, {"lines": {}, "calls": 0, "begun": []})
        run["begun"].append(facts)
        return run

    def line(self, id: str, numbers: dict[str, float], rows: int) -> None:
        if rows >= self.fails_at:
            raise OSError("the network is down")
        run = self.runs[id]
        run["calls"] += 1
        run["lines"].setdefault(rows, {}).update(numbers)


def fake_wandb(told: Told) -> dict[str, ModuleType]:
    class Run:
        def __init__(self, id: str) -> None:
            self.id, self.config = id, self

        def log(self, numbers: dict[str, float], step: int | None = None) -> None:
            told.line(self.id, numbers, int(numbers["rows"]) if step is None else step)

        def update(self, config: dict[str, Any], allow_val_change: bool) -> None:
            told.begin(self.id, config=config)

        def finish(self, exit_code: int) -> None:
            told.runs[self.id]["end"] = exit_code

    def init(*, id: str | None, **facts: Any) -> Run:
        run = Run(id or f"wandb{len(told.runs)}")
        told.begin(run.id, **facts)
        return run

    module = ModuleType("wandb")
    vars(module).update(init=init, run=None, Run=Run)
    return {"wandb": module}


def fake_mlflow(told: Told) -> dict[str, ModuleType]:
    class Client:
        def get_experiment_by_name(self, name: str) -> None:
            return None

        def create_experiment(self, name: str) -> str:
            return name

        def create_run(self, experiment: str, tags: dict[str, str], run_name: str) -> Any:
            id = f"mlflow{len(told.runs)}"
            told.begin(id, experiment=experiment, tags=tags, name=run_name, config={})
            return SimpleNamespace(info=SimpleNamespace(run_id=id))

        def update_run(self, id: str, status: str) -> None:
            told.begin(id, status=status)

        def get_run(self, id: str) -> Any:
            last = max(told.runs[id]["lines"], default=0)
            return SimpleNamespace(data=SimpleNamespace(metrics={"rows": last}))

        def log_batch(self, id: str, metrics: Any = (), params: Any = ()) -> None:
            assert len(params) <= 100
            told.runs[id]["begun"][0]["config"] |= dict(params)
            if metrics:
                (rows,) = {step for *_, step in metrics}
                told.line(id, {name: value for name, value, *_ in metrics}, rows)

        def set_terminated(self, id: str, status: str) -> None:
            told.runs[id]["end"] = status

    mlflow, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    vars(mlflow).update(MlflowClient=Client, active_run=lambda: None)
    vars(entities).update(Metric=lambda *all: all, Param=lambda *both: both)
    return {"mlflow": mlflow, "mlflow.entities": entities}


def fake_tensorboard(told: Told) -> dict[str, ModuleType]:
    class Writer:
        def __init__(self, folder: Any, purge_step: int | None) -> None:
            self._id, self.file_writer = folder.name, self
            run = told.begin(self._id, folder=folder, purge_step=purge_step)
            for rows in [rows for rows in run["lines"] if rows >= (purge_step or 1e9)]:
                del run["lines"][rows]

        def add_text(self, tag: str, text: str, step: int) -> None:
            told.runs[self._id]["begun"][0]["config"] = text

        def add_scalar(self, name: str, value: float, rows: int) -> None:
            told.line(self._id, {name: value}, rows)

        def add_summary(self, summary: Any) -> None:
            told.runs[self._id]["begun"][0]["table"] = summary

        def flush(self) -> None:
            pass

        def close(self) -> None:
            told.runs[self._id]["end"] = "closed"

    module, summary = ModuleType("torch.utils.tensorboard"), ModuleType("summary")
    vars(module).update(SummaryWriter=Writer)
    vars(summary).update(hparams=lambda table, metrics: [table])
    return {"torch.utils.tensorboard": module, "torch.utils.tensorboard.summary": summary}


FAKES = {"tensorboard": fake_tensorboard, "wandb": fake_wandb, "mlflow": fake_mlflow}
ENDS: dict[str, dict[str, Any]] = {
    "tensorboard": dict.fromkeys(("finished", "interrupted", "failed"), "closed"),
    "wandb": {"finished": 0, "interrupted": 1, "failed": 1},
    "mlflow": {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"},
}
