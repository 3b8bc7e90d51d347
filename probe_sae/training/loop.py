"""The loop: one for every architecture and every source of rows."""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probe_sae.errors import FormatError, SettingsError
from probe_sae.interrupts import interrupts_wait
from probe_sae.progress import progress, say
from probe_sae.sae import SAE
from probe_sae.sae.kernels.threads import threads_for
from probe_sae.store import SitesStream, StoreStream, Stream
from probe_sae.training import progress_file
from probe_sae.training.alarms import name_bad_rows, warn_of_outliers
from probe_sae.training.feeding import fed
from probe_sae.training.late_check import LateCheck
from probe_sae.training.learner import Learner
from probe_sae.training.precision import matrix_products
from probe_sae.training.runs import Run
from probe_sae.training.settings import TrainSettings
from probe_sae.training.tracking import Tracking

LOG_LINES = 100
SAMPLE_ROWS = 32_768
"""Rows from which scale, mean and variance are estimated, and thresholds calibrated."""


@dataclass
class _Place:
    """Where a run is."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    """Batches of the epoch that were seen."""
    rows: int = 0
    """Rows that were seen; the last batch of an epoch may be shorter than others."""


class Training:
    """One run over a stream of rows, from which one or several dictionaries learn."""

    def __init__(
        self,
        stream: Stream,
        unseen: Stream,
        runs: Sequence[Run],
        trainer: TrainSettings,
        device: torch.device,
        tracking: Tracking | None = None,
    ) -> None:
        """Begin, with scales and means from a sample."""
        self._tracking = tracking or Tracking()
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
        if isinstance(stream, (StoreStream, SitesStream)):
            stream.prepare(device, (trainer.steps - 1) // -(-stream.rows // trainer.batch_size))
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
        saes = [learner.finish(unseen) for learner in self.learners]
        self._tracking.conclude(saes, unseen.cpu())
        return saes

    def _step(self, rows: Tensor, at: "_Place", began: float) -> None:
        """Let every dictionary learn from a batch."""
        trainer = self._trainer
        losses: list[Tensor] = []
        check = partial(self._check, rows, losses, replace(at))
        at.rows += len(rows)
        self._late.look(rows.sum(), check)
        is_noted = at.step % max(1, trainer.steps // LOG_LINES) == 0
        for index, learner in enumerate(self.learners):
            result = learner.step(rows, at.step)
            losses.append(result.loss.detach())
            self._late.look(losses[-1], check)
            if is_noted or at.step + 1 == trainer.steps:
                learner.note(result, at.step, at.rows, time.perf_counter() - began)
                self._tracking.note(index, learner.log[-1])
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
        kept["tracked"] = self._tracking.ids
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
            self._tracking.catch_up(i, learner.log)
        say(f"going on after {at.rows:,} rows")
        return at
