"""Learn a dictionary: one loop for every architecture and every source of rows."""

import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probe_sae.errors import FormatError, SettingsError
from probe_sae.outputs import interrupts_wait, whole_folder
from probe_sae.progress import progress, say
from probe_sae.sae import SAE, BatchTopK, ReconstructionMeter, TopK, load_sae, save_sae
from probe_sae.sae.dictionary import Step
from probe_sae.store import (
    Store,
    Stream,
    open_store,
)
from probe_sae.training import progress_file
from probe_sae.training.settings import TrainSettings
from probe_sae.training.sources import sources

LOG_LINES = 100
SAMPLE_ROWS = 32_768
"""Rows from which scale, mean and variance are estimated, and thresholds calibrated."""


def train(
    data: Store | Stream | Tensor | str | Path,
    settings: TopK | None = None,
    trainer: TrainSettings | None = None,
    *,
    site: str | None = None,
    out: str | Path | None = None,
    device: str | torch.device | None = None,
    resume: bool = False,
    force: bool = False,
) -> SAE:
    """Learn a dictionary and return it; with `out`, write it there as well.

    A run with `out` can be interrupted or killed, and resumed: on a CPU, the result is the same to
    the bit.

    Args:
        data: a store or its path, a stream of batches, or a tensor [rows, d_model].
        settings: architecture and size; BatchTopK by default.
        trainer: length of the run, learning rate, seed.
        site: which site of a store that has several.
        out: folder for the dictionary.
        device: a GPU where there is one, by default.
        resume: continue what was begun in `out`; with a finished dictionary, do nothing.
        force: replace what is in `out`.

    Raises:
        SettingsError: a setting is out of range, no rows are left to train on, or the training to
            continue is another one.
        SiteNotFound: the store has no such site.
        OutputExists: `out` is there already.
    """
    settings, trainer = settings or BatchTopK(), trainer or TrainSettings()
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if isinstance(data, (str, Path)):
        data = open_store(data)
    training, unseen, provenance = sources(data, site, trainer)
    provenance |= {"trainer": asdict(trainer), "device": device.type}
    if out is None:
        sae = Training(training, unseen, settings, trainer, device).run()
        sae.provenance = provenance
        return sae
    what = {"arch": settings.arch, "settings": asdict(settings), **provenance}
    if resume and Path(out).exists():
        return _finished(out, what)
    with whole_folder(out, force=force, resume=resume, keep=progress_file.NAME) as folder:
        progress_file.drop_others(folder)
        begun = progress_file.load_state(folder, what)
        sae = Training(training, unseen, settings, trainer, device).run(folder, what, begun)
        sae.provenance = provenance
        save_sae(folder, sae, unseen.sample(8))
        (folder / progress_file.NAME).unlink(missing_ok=True)
    return sae


def _finished(out: str | Path, what: dict[str, Any]) -> SAE:
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
    """One run: the dictionary, its optimiser, and what is known of dead features."""

    def __init__(
        self,
        stream: Stream,
        unseen: Stream,
        settings: TopK,
        trainer: TrainSettings,
        device: torch.device,
    ) -> None:
        """Initialise from a sample: scale to E||x||^2 = d_model, decoder bias at the mean."""
        self._stream, self._unseen, self._trainer, self._device = stream, unseen, trainer, device
        generator = torch.Generator().manual_seed(trainer.seed)
        self.sae = SAE(settings, stream.width, generator=generator)
        sample = stream.sample(SAMPLE_ROWS)
        power = float(sample.double().square().sum(1).mean())
        if not math.isfinite(power) or power == 0:
            raise SettingsError("the rows are all zero or not finite: is this the right site?")
        with torch.no_grad():
            self.sae.input_scale.fill_((stream.width / power) ** 0.5)
            scaled = sample * self.sae.input_scale
            self.sae.b_dec.copy_(scaled.mean(0))
        self._variance = scaled.var(0, correction=0).sum().to(device)
        self.sae.to(device)
        parameters = list(self.sae.parameters())
        self._optimiser = torch.optim.Adam(parameters, lr=0.0, betas=(0.9, 0.999), fused=True)
        self._silent = torch.zeros(settings.features, dtype=torch.int64, device=device)
        self.log: list[dict[str, Any]] = []

    def run(
        self,
        folder: Path | None = None,
        what: dict[str, Any] | None = None,
        begun: tuple[dict[str, Tensor], Any] | None = None,
    ) -> SAE:
        """Train to the end, calibrate, and return the dictionary with its log.

        Args:
            folder: where to keep what a resumed run needs; nowhere by default.
            what: what the run depends on, kept with it.
            begun: tensors and facts of a run to continue.

        Raises:
            KeyboardInterrupt: somebody asked for it; the state is in `folder`.
            SettingsError: the loss is not finite, or there are no rows.
        """
        trainer = self._trainer
        at = _Place() if begun is None else self._restore(*begun)
        began = saved = time.perf_counter()
        began -= self.log[-1]["seconds"] if self.log else 0.0
        every = max(1, trainer.steps // LOG_LINES)
        with (
            progress("train", trainer.steps * trainer.batch_size) as advance,
            nullcontext(list[int]()) if folder is None else interrupts_wait() as asked,
        ):
            advance(at.step * trainer.batch_size)
            while at.step < trainer.steps:
                before = at.step
                for batch in self._stream.epoch(at.epoch, trainer.batch_size, at.batch):
                    rows = batch.to(self._device).float()
                    result = self._step(rows, at.step)
                    at.step, at.batch = at.step + 1, at.batch + 1
                    advance(trainer.batch_size)
                    if (at.step - 1) % every == 0 or at.step == trainer.steps:
                        self._log(rows, result, at.step - 1, time.perf_counter() - began)
                    is_due = time.perf_counter() - saved > trainer.save_seconds
                    if folder is not None and (asked or is_due):
                        self._save(folder, what, at)
                        saved = time.perf_counter()
                    if asked:
                        raise KeyboardInterrupt
                    if at.step == trainer.steps:
                        break
                at.epoch, at.batch = at.epoch + 1, 0
                if at.step == before and before == 0:
                    raise SettingsError("no rows to train on.")
        self.sae.calibrate(self._unseen.sample(SAMPLE_ROWS).to(self._device))
        self._warn()
        self.sae.log = self.log
        return self.sae.cpu().requires_grad_(False).eval()

    def _save(self, folder: Path, what: dict[str, Any] | None, at: "_Place") -> None:
        """Put the state after a step on disk."""
        tensors = {f"sae.{name}": tensor for name, tensor in self.sae.state_dict().items()}
        tensors |= progress_file.optimiser_tensors(self._optimiser) | {"silent": self._silent}
        facts = {"run": what, "place": asdict(at), "log": self.log}
        progress_file.save_state(folder, tensors, facts)

    def _restore(self, tensors: dict[str, Tensor], facts: Any) -> "_Place":
        """Take on a saved state, and return where it was.

        Raises:
            FormatError: it does not fit.
        """
        try:
            self.sae.load_state_dict(
                {n.removeprefix("sae."): t for n, t in tensors.items() if n.startswith("sae.")}
            )
            progress_file.restore_optimiser(self._optimiser, tensors)
            self._silent.copy_(tensors["silent"])
            self.log = list(facts["log"])
            at = _Place(**facts["place"])
        except (KeyError, TypeError, ValueError, RuntimeError) as problem:
            raise FormatError(f"the training to continue is damaged: {problem}") from problem
        say(f"going on after {at.step * self._trainer.batch_size:,} rows")
        return at

    def _step(self, rows: Tensor, step: int) -> Step:
        for group in self._optimiser.param_groups:
            group["lr"] = self._trainer.rate(step, self.sae.features)
        dead = (self._silent >= self._trainer.dead_window).nonzero().squeeze(1)
        result = self.sae.step(rows, self._variance, dead)
        if not torch.isfinite(result.loss):
            raise SettingsError(
                f"the loss is not finite at step {step}; the largest activation of its rows is "
                f"{float(rows.abs().max()):.3g}. Lower the learning rate (--set lr=...), or look "
                "at the rows with `probe-sae store info`."
            )
        self._optimiser.zero_grad(set_to_none=True)
        result.loss.backward()
        self.sae.project_decoder_gradient()
        if self._trainer.clip:
            torch.nn.utils.clip_grad_norm_(self.sae.parameters(), self._trainer.clip)
        self._optimiser.step()
        self.sae.normalise_decoder()
        self._silent += len(rows)
        self._silent[result.codes.indices[result.codes.values > 0]] = 0
        return result

    @torch.no_grad()
    def _log(self, rows: Tensor, result: Step, step: int, seconds: float) -> None:
        meter = ReconstructionMeter(self.sae.features)
        scaled = rows * self.sae.input_scale
        meter.add(scaled, result.x_hat, result.codes)
        dead = float((self._silent >= self._trainer.dead_window).double().mean())
        self.log.append(
            {
                "step": step + 1,
                "rows": (step + 1) * self._trainer.batch_size,
                "loss": float(result.loss.detach()),
                "fraction_unexplained": meter.fraction_unexplained,
                "l0": meter.l0,
                "dead_fraction": dead,
                "lr": self._trainer.rate(step, self.sae.features),
                "seconds": round(seconds, 3),
            }
        )

    def _warn(self) -> None:
        """Say early what a person would want to know before going on."""
        last = self.log[-1]
        if last["fraction_unexplained"] > 1:
            say(
                f"warning: fraction unexplained is {last['fraction_unexplained']:.2f}, worse than "
                "the mean: is this the right site, and are there outlier rows?"
            )
        if last["dead_fraction"] > 0.2:
            say(
                f"warning: {last['dead_fraction']:.0%} of the features are dead. Fewer features, "
                "more rows, or a higher learning rate would help."
            )
