"""Learn a dictionary: one loop for every architecture and every source of rows."""

import math
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probe_sae.errors import SettingsError
from probe_sae.outputs import whole_folder
from probe_sae.progress import progress, say
from probe_sae.sae import SAE, BatchTopK, ReconstructionMeter, TopK, save_sae
from probe_sae.sae.dictionary import Step
from probe_sae.store import (
    SplitStream,
    Store,
    StoreStream,
    Stream,
    TensorStream,
    held_out_contexts,
    open_store,
)
from probe_sae.training.settings import TrainSettings

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
    force: bool = False,
) -> SAE:
    """Learn a dictionary and return it; with `out`, write it there as well.

    Args:
        data: a store or its path, a stream of batches, or a tensor [rows, d_model].
        settings: architecture and size; BatchTopK by default.
        trainer: length of the run, learning rate, seed.
        site: which site of a store that has several.
        out: folder for the dictionary.
        device: a GPU where there is one, by default.
        force: replace what is in `out`.

    Raises:
        SettingsError: a setting is out of range, or no rows are left to train on.
        SiteNotFound: the store has no such site.
        OutputExists: `out` is there already.
    """
    settings, trainer = settings or BatchTopK(), trainer or TrainSettings()
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if isinstance(data, (str, Path)):
        data = open_store(data)
    training, unseen, provenance = _sources(data, site, trainer)
    provenance |= {"trainer": asdict(trainer), "device": device.type}
    with nullcontext() if out is None else whole_folder(out, force=force) as folder:
        sae = Training(training, unseen, settings, trainer, device).run()
        sae.provenance = provenance
        if folder is not None:
            save_sae(folder, sae, unseen.sample(8))
    return sae


def _sources(
    data: Store | Stream | Tensor, site: str | None, trainer: TrainSettings
) -> tuple[Stream, Stream, dict[str, Any]]:
    """Return the stream to train on, one of rows that training never sees, and provenance."""
    if isinstance(data, Tensor):
        count = round(len(data) * (1 - trainer.held_out))
        if not 0 < count < len(data):
            raise SettingsError(f"{len(data)} rows cannot be split into training and held-out.")
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(trainer.seed))
        seen, unseen = data[order[:count]], data[order[count:]]
        return TensorStream(seen, trainer.seed), TensorStream(unseen, trainer.seed), {}
    split = {"held_out": trainer.held_out, "seed": trainer.seed}
    if isinstance(data, SplitStream):
        seen, unseen = data.split(trainer.held_out, trainer.seed)
        return seen, unseen, data.provenance | {"split": split}
    if not isinstance(data, Store):
        return data, data, {}
    info = data.site(site)
    held = held_out_contexts(data.contexts, trainer.held_out, trainer.seed)
    if trainer.held_out and not held.any():
        held[-1:] = True
    provenance = {
        "site": info.name,
        "store": {
            "rows": data.rows,
            "contexts": data.contexts,
            "recording": data.recording,
        },
        "host": data.provenance.get("host"),
        "dataset": data.provenance.get("dataset"),
        "versions": data.provenance.get("versions"),
        "split": split,
    }
    training = StoreStream(data, info.name, trainer.seed, ~held)
    _say_mixing(training, trainer.batch_size)
    return training, StoreStream(data, info.name, trainer.seed, held), provenance


def _say_mixing(stream: StoreStream, batch: int) -> None:
    """Say how well batches are mixed, and what to do where it is badly."""
    companions, mixing = stream.companions(batch), stream.mixing(batch)
    advice = ""
    if companions > 1 and mixing > 1.5:
        advice = " `probe-sae store shuffle` writes a copy that is mixed perfectly."
    say(
        f"mixing: a row meets {companions:.2g} rows of its own context in its batch, by chance it "
        f"would be {companions / mixing:.2g}.{advice}"
    )


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

    def run(self) -> SAE:
        """Train to the end, calibrate, and return the dictionary with its log."""
        trainer, step, began = self._trainer, 0, time.perf_counter()
        every = max(1, trainer.steps // LOG_LINES)
        with progress("train", trainer.steps * trainer.batch_size) as advance:
            for number in range(2**31):
                for rows in self._stream.epoch(number, trainer.batch_size):
                    result = self._step(rows.to(self._device), step)
                    if step % every == 0 or step + 1 == trainer.steps:
                        seconds = time.perf_counter() - began
                        self._log(rows, result, step, seconds)
                    step += 1
                    advance(trainer.batch_size)
                    if step == trainer.steps:
                        self.sae.calibrate(self._unseen.sample(SAMPLE_ROWS).to(self._device))
                        self._warn()
                        self.sae.log = self.log
                        return self.sae.cpu().requires_grad_(False).eval()
        raise SettingsError("no rows to train on.")

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
        scaled = rows.to(self._device) * self.sae.input_scale
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
