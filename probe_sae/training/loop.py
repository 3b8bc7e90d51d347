"""Learn dictionaries: one loop for every architecture and every source of rows."""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probe_sae.devices import device_for
from probe_sae.errors import FormatError, SettingsError
from probe_sae.outputs import interrupts_wait, whole_folder
from probe_sae.progress import progress, say
from probe_sae.sae import SAE, BatchTopK, Settings, load_sae, save_sae
from probe_sae.sae.kernels.threads import threads_for
from probe_sae.store import Stream, open_store
from probe_sae.training import progress_file
from probe_sae.training.alarms import name_bad_rows, warn_of_outliers
from probe_sae.training.feeding import fed
from probe_sae.training.late_check import LateCheck
from probe_sae.training.learner import Learner
from probe_sae.training.precision import matrix_products
from probe_sae.training.runs import Run, named
from probe_sae.training.settings import TrainSettings
from probe_sae.training.sources import Data, check_given, sources

LOG_LINES = 100
SAMPLE_ROWS = 32_768
"""Rows from which scale, mean and variance are estimated, and thresholds calibrated."""


def train(
    data: Data | str | Path,
    settings: Settings | None = None,
    trainer: TrainSettings | None = None,
    *,
    site: str | Sequence[str] | None = None,
    out: str | Path | None = None,
    device: str | torch.device | None = None,
    resume: bool = False,
    force: bool = False,
) -> SAE:
    """Learn a dictionary and return it; with `out`, write it there as well.

    A run with `out` can be interrupted or killed, and resumed: on a CPU, the result is the same to
    the bit.

    Args:
        data: a store or its path, a stream of batches, a tensor [rows, d_model], or a tuple of
            tensors, one for each site of a transcoder or crosscoder.
        settings: architecture and size; BatchTopK by default.
        trainer: length of the run, learning rate, seed.
        site: which site of a store that has several; for architectures that take several, a list.
        out: folder for the dictionary.
        device: a GPU where there is one, by default.
        resume: continue what was begun in `out`; with a finished dictionary, do nothing.
        force: replace what is in `out`.

    Raises:
        SettingsError: a setting is out of range, no rows are left to train on, rows are not finite,
            or the training to continue is another one.
        SiteNotFound: the store has no such site.
        OutputExists: `out` is there already.
    """
    trainer, settings = trainer or TrainSettings(), settings or BatchTopK()
    check_given(data, [settings], trainer)
    runs = [Run(settings, trainer.seed)]
    (sae,) = _train(data, runs, trainer, site, out, device, resume=resume, force=force)
    return sae


def train_several(
    data: Data | str | Path,
    settings: Sequence[Settings],
    trainer: TrainSettings | None = None,
    *,
    seeds: Sequence[int] | None = None,
    site: str | Sequence[str] | None = None,
    out: str | Path | None = None,
    device: str | torch.device | None = None,
    resume: bool = False,
    force: bool = False,
) -> dict[str, SAE]:
    """Learn several dictionaries from one stream of batches; return them by name.

    Rows are read once for all; each dictionary is the one that `train` would have returned with the
    same order of rows. With `out`, each is written to `out/NAME`.

    Args:
        data: see `train`.
        settings: one for each dictionary.
        trainer: common to all; its seed is that of the order of rows and of the split.
        seeds: of the weights; every settings is trained with each. The trainer's by default.
        site: see `train`.
        out: folder for the dictionaries.
        device: see `train`.
        resume: see `train`.
        force: see `train`.

    Raises:
        SettingsError: see `train`; or two dictionaries are the same.
    """
    trainer = trainer or TrainSettings()
    check_given(data, settings, trainer)
    runs = named([Run(s, seed) for s in settings for seed in seeds or [trainer.seed]])
    saes = _train(data, runs, trainer, site, out, device, resume=resume, force=force)
    return {run.name: sae for run, sae in zip(runs, saes, strict=True)}


def _train(
    data: Data | str | Path,
    runs: list[Run],
    trainer: TrainSettings,
    site: str | Sequence[str] | None,
    out: str | Path | None,
    device: str | torch.device | None,
    *,
    resume: bool,
    force: bool,
) -> list[SAE]:
    device = device_for(device)
    if isinstance(data, (str, Path)):
        data = open_store(data)
    sites = [site] if isinstance(site, str) else site
    training, unseen, provenance = sources(data, sites, trainer)
    provenance |= {"trainer": asdict(trainer), "device": device.type}
    whats = [
        {"arch": r.settings.arch, "settings": asdict(r.settings), "weights_seed": r.seed}
        | provenance
        for r in runs
    ]
    if out is None:
        saes = Training(training, unseen, runs, trainer, device).run()
        return _with_provenance(saes, whats)
    folders = [Path(out) / run.name for run in runs]
    if resume and Path(out).exists():
        return [_finished(f, what) for f, what in zip(folders, whats, strict=True)]
    how: dict[str, Any] = {"keep": progress_file.NAME, "marks": ("config.json", "*/config.json")}
    with whole_folder(out, force=force, resume=resume, **how) as folder:
        progress_file.drop_others(folder)
        begun = progress_file.load_state(folder, whats)
        saes = Training(training, unseen, runs, trainer, device).run(folder, whats, begun)
        probe = unseen.sample(8)
        for run, sae in zip(runs, _with_provenance(saes, whats), strict=True):
            (folder / run.name).mkdir(exist_ok=True)
            save_sae(folder / run.name, sae, probe)
        (folder / progress_file.NAME).unlink(missing_ok=True)
    return saes


def _with_provenance(saes: list[SAE], whats: Sequence[Mapping[str, Any]]) -> list[SAE]:
    for sae, what in zip(saes, whats, strict=True):
        sae.provenance = {n: v for n, v in what.items() if n not in ("arch", "settings")}
    return saes


def _finished(out: Path, what: dict[str, Any]) -> SAE:
    """Return the dictionary that a run has left already.

    Raises:
        SettingsError: it is that of another run.
    """
    sae = load_sae(out)
    before = {"arch": sae.settings.arch, "settings": asdict(sae.settings), **sae.provenance}
    if differing := progress_file.differing(what, before):
        raise SettingsError(
            f"{out} is finished, and was trained with another {', '.join(differing)}; train into "
            "another folder, or replace it with --force."
        )
    say(f"{out} is finished already; nothing to do.")
    return sae


@dataclass
class _Place:
    """Where a run is."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    """Batches of the epoch that were seen."""


class Training:
    """One run over a stream of rows, from which one or several dictionaries learn."""

    def __init__(
        self,
        stream: Stream,
        unseen: Stream,
        runs: Sequence[Run],
        trainer: TrainSettings,
        device: torch.device,
    ) -> None:
        """Begin, with scales and means from a sample."""
        self._stream, self._unseen, self._trainer, self._device = stream, unseen, trainer, device
        sample = stream.sample(SAMPLE_ROWS)
        for rows in (sample,) if unseen is stream else (sample, unseen.sample(SAMPLE_ROWS)):
            if message := name_bad_rows(rows, 0, None, "of a sample"):
                raise SettingsError(message)
        if not bool(sample.any()):
            raise SettingsError("the rows are all zero: is this the right site?")
        if not bool((sample != sample[0]).any()):
            raise SettingsError(
                "the rows are all the same, so there is nothing to learn: is this the right site?"
            )
        warn_of_outliers(sample)
        self._late = LateCheck()
        self.learners = [Learner(run, stream.widths, sample, trainer, device) for run in runs]

    def run(
        self,
        folder: Path | None = None,
        whats: Sequence[Mapping[str, Any]] = (),
        begun: tuple[dict[str, Tensor], Any] | None = None,
    ) -> list[SAE]:
        """Train to the end, calibrate, and return the dictionaries with their logs.

        Args:
            folder: where to keep what a resumed run needs; nowhere by default.
            whats: what each dictionary depends on, kept with it.
            begun: tensors and facts of a run to continue.

        Raises:
            KeyboardInterrupt: somebody asked for it; the state is in `folder`.
            SettingsError: rows or the loss are not finite, or there are no rows.
        """
        trainer = self._trainer
        at = _Place() if begun is None else self._restore(*begun)
        began = saved = time.perf_counter()
        log = self.learners[0].log
        largest = max(each.sae.features * each.sae.d_model for each in self.learners)
        began -= log[-1]["seconds"] if log else 0.0
        with (
            progress("train", trainer.steps * trainer.batch_size) as advance,
            matrix_products(trainer.precision),
            threads_for(trainer.batch_size * largest),
            nullcontext(list[int]()) if folder is None else interrupts_wait() as asked,
        ):
            advance(at.step * trainer.batch_size)
            while at.step < trainer.steps:
                before = at.step
                epoch = self._stream.epoch(at.epoch, trainer.batch_size, at.batch)
                for rows in fed(epoch, self._device):
                    self._step(rows, at, began)
                    advance(trainer.batch_size)
                    is_due = time.perf_counter() - saved > trainer.save_seconds
                    if folder is not None and (asked or is_due):
                        self._save(folder, whats, at)
                        saved = time.perf_counter()
                    if asked:
                        raise KeyboardInterrupt
                    if at.step == trainer.steps:
                        break
                at.epoch, at.batch = at.epoch + 1, 0
                if at.step == before and before == 0:
                    raise SettingsError("no rows to train on.")
        self._late.settle()
        for learner in self.learners:
            learner.look_back()
        unseen = self._unseen.sample(SAMPLE_ROWS).to(self._device)
        return [learner.finish(unseen) for learner in self.learners]

    def _step(self, rows: Tensor, at: "_Place", began: float) -> None:
        """Let every dictionary learn from a batch."""
        trainer = self._trainer
        losses: list[Tensor] = []
        check = partial(self._check, rows, losses, replace(at))
        self._late.look(rows.sum(), check)
        is_noted = at.step % max(1, trainer.steps // LOG_LINES) == 0
        for learner in self.learners:
            result = learner.step(rows, at.step)
            losses.append(result.loss.detach())
            self._late.look(losses[-1], check)
            if is_noted or at.step + 1 == trainer.steps:
                learner.note(result, at.step, time.perf_counter() - began)
        at.step, at.batch = at.step + 1, at.batch + 1

    def _check(self, rows: Tensor, losses: list[Tensor], at: "_Place") -> None:
        """Raise where rows or losses of a step are not finite.

        Raises:
            SettingsError: they are not; names the rows.
        """
        named = getattr(self._stream, "row_number", None)
        names = None if named is None else partial(named, at.epoch, self._trainer.batch_size)
        if message := name_bad_rows(rows, at.batch * self._trainer.batch_size, names):
            raise SettingsError(f"step {at.step + 1}: {message}")
        for learner, loss in zip(self.learners, losses, strict=False):
            learner.check(loss, rows, at.step)

    def _save(self, folder: Path, whats: Sequence[Mapping[str, Any]], at: "_Place") -> None:
        """Put the state after a step on disk."""
        self._late.settle()
        tensors: dict[str, Tensor] = {}
        facts: list[dict[str, Any]] = []
        for i, learner in enumerate(self.learners):
            mine, known = learner.state()
            tensors |= {f"{i}.{name}": tensor for name, tensor in mine.items()}
            facts.append(known)
        kept = {"runs": list(whats), "place": asdict(at), "learners": facts}
        progress_file.save_state(folder, tensors, kept)

    def _restore(self, tensors: dict[str, Tensor], facts: Any) -> "_Place":
        """Take on a saved state, and return where it was.

        Raises:
            FormatError: it does not fit.
        """
        try:
            at = _Place(**{field.name: int(facts["place"][field.name]) for field in fields(_Place)})
            known = list(facts["learners"])
        except (KeyError, TypeError, ValueError) as problem:
            raise FormatError(f"the training to continue is damaged: {problem!r}") from problem
        for i, learner in enumerate(self.learners):
            mine = {
                name.removeprefix(f"{i}."): tensor
                for name, tensor in tensors.items()
                if name.startswith(f"{i}.")
            }
            learner.restore(mine, known[i])
        say(f"going on after {at.step * self._trainer.batch_size:,} rows")
        return at
