"""Run a job: the stages in a row, each into its own folder, and one summary."""

import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from probe_sae.analysis import analyse, load_analysis
from probe_sae.errors import FormatError, SettingsError, of_job
from probe_sae.evaluation import evaluate, finite
from probe_sae.host import Host, load_host, versions
from probe_sae.interop import load_sae
from probe_sae.jobs.job import Job
from probe_sae.outputs import whole_folder, write_whole
from probe_sae.progress import say
from probe_sae.recording import Recipe, capture, load_dataset
from probe_sae.store import Store, open_store
from probe_sae.training import train

_BEGUN, _SECONDS = "job.json", "seconds.json"
"""What an unfinished run is of, and how long its stages took."""


def run(
    job: Job, out: str | Path, *, resume: bool = False, force: bool = False, keep: bool = True
) -> dict[str, Any]:
    """Run a job and return its summary, which `out/summary.json` holds too.

    Leaves `out/store`, `out/sae`, `out/analysis`, `out/report/index.html`; where a dataset of its
    own is evaluated on, also `out/store-unseen`.

    Args:
        job: what to run.
        out: folder for all of it.
        resume: continue an unfinished run; stages that are done are not done again.
        force: replace what is in `out`.
        keep: keep what is done when the run is interrupted.

    Raises:
        ProbeSaeError: the input is at fault; the message says what to do.
    """
    if resume and Path(out).exists():
        done = _facts(Path(out) / "summary.json")
        _check_same(job, done.get("job"), Path(out))
        say(f"{out} is finished already; nothing to do.")
        return done
    if job.labels is not None:  # an error now, not after hours
        from probe_sae.reporting.notes import load_labels

        load_labels(job.labels, job.arch.features)
    how: dict[str, Any] = {"keep": "store*" if keep else "", "marks": ("summary.json",)}
    how["drop"] = (_BEGUN, _SECONDS)
    with whole_folder(out, force=force, resume=resume, **how) as folder:
        begun = folder / _BEGUN
        if begun.exists():
            _check_same(job, _facts(begun), folder)
        write_whole(begun, json.dumps(_record(job)))
        host, recipe = _host(job), load_dataset(job.data, root=job.root)
        unseen = load_dataset(job.evaluate_on, root=job.root) if job.evaluate_on else None
        host.find_sites(job.sites)
        with of_job():
            return _stages(job, host, recipe, unseen, folder, resume)


def _facts(path: Path) -> dict[str, Any]:
    """Return what a file of a run holds.

    Raises:
        FormatError: there is none, or it is none of a run.
    """
    try:
        facts: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise FormatError(
            f"{path} cannot be read ({problem}), so {path.parent} is no run of a job that could go "
            "on. Choose another folder."
        ) from problem
    if not isinstance(facts, dict):
        raise FormatError(f"{path} is no JSON object, as a run's is. Choose another folder.")
    return cast("dict[str, Any]", facts)


def _record(job: Job) -> dict[str, Any]:
    """Return a job as JSON has it, one level deep."""
    plain = json.loads(json.dumps(asdict(job), default=str))
    flat: dict[str, Any] = {"train.arch": job.arch.arch}
    sections = {"arch": "train", "trainer": "train", "capture": "capture"}
    for name, value in plain.items():
        if name in sections:
            flat |= {f"{sections[name]}.{key}": each for key, each in value.items()}
        else:
            flat[name] = value
    return flat


def _check_same(job: Job, begun: dict[str, Any] | None, where: Path) -> None:
    """Refuse to go on with another job.

    Raises:
        SettingsError: what lies there was begun by another job.
    """
    now = _record(job)
    differ = [name for name in now if begun is not None and begun.get(name) != now[name]]
    if begun is not None and differ:
        listed = [f"{name} {begun.get(name)!r} there, {now[name]!r} here" for name in differ[:3]]
        more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise SettingsError(
            f"{where} was begun by another job ({'; '.join(listed)}{more}). Give that job, choose "
            "another folder, or drop what is there with --force."
        )


def _host(job: Job) -> Host:
    dtype = getattr(torch, job.dtype)
    return load_host(job.host, device=job.device, dtype=dtype, revision=job.revision)


def _stages(
    job: Job, host: Host, recipe: Recipe, unseen: Recipe | None, folder: Path, resume: bool
) -> dict[str, Any]:
    clock = _Clock(folder / _SECONDS)
    stages = _Stage(job, host, folder, resume, clock)
    store = stages.store(recipe, "store", "capture")
    if not (folder / "sae").exists():
        with clock.time("train"):
            where = folder / "sae"
            options: dict[str, Any] = {"device": job.device, "resume": resume, "track": job.track}
            train(store, job.arch, job.trainer, site=list(store.sites), out=where, **options)
    sae = load_sae(folder / "sae")
    seen = store
    if unseen is not None:
        store, recipe = stages.store(unseen, "store-unseen", "capture_unseen"), unseen
    with clock.time("evaluate"):
        evaluation = evaluate(sae, store, host=host, dataset=recipe)
    if not (folder / "analysis").exists():
        with clock.time("analyse"):
            analyse(
                sae,
                store,
                folder / "analysis",
                host=host,
                dataset=recipe,
                evaluation=evaluation,
                rows=job.analyse_rows,
                loss_examples=job.loss_examples,
                seed=job.analyse_seed,
                resume=resume,
            )
    if not (folder / "report").exists():
        from probe_sae.reporting import write_report

        with clock.time("report"):
            analysis = load_analysis(folder / "analysis")
            write_report(analysis, folder / "report", labels=job.labels)
    settings = sae.settings
    summary: dict[str, Any] = finite(
        {
            "host": job.host,
            "dataset": job.data,
            "site": " + ".join(store.sites),
            "rows": seen.rows,
            "sae": {
                "arch": settings.arch,
                "features": settings.features,
                "k": getattr(settings, "k", None),
                "seed": job.trainer.seed,
            },
            "seconds": clock.seconds,
            "versions": versions(),
            "metrics": evaluation.record(),
        }
    )
    summary["job"] = _record(job)
    write_whole(folder / "summary.json", json.dumps(summary, indent=1, sort_keys=True))
    return summary


class _Stage(NamedTuple):
    """What every recording of a job has in common."""

    job: Job
    host: Host
    folder: Path
    resume: bool
    clock: "_Clock"

    def store(self, recipe: Recipe, name: str, stage: str) -> Store:
        """Return the store of a dataset, recorded unless it is there already."""
        where, job = self.folder / name, self.job
        if where.exists():
            return open_store(where)
        with self.clock.time(stage):
            return capture(self.host, recipe, job.sites, where, job.capture, resume=self.resume)


class _Clock:
    """Seconds of each stage, kept in a file so that a resumed run still knows the earlier ones."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds: dict[str, float] = _facts(path) if path.exists() else {}

    @contextmanager
    def time(self, stage: str) -> Generator[None]:
        began = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - began, 2)
        write_whole(self._path, json.dumps(self.seconds))
