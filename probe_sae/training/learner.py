"""One dictionary that learns: its optimiser, what is known of dead features, its log."""

from typing import Any

import torch
from torch import Tensor

from probe_sae.errors import FormatError, SettingsError
from probe_sae.progress import say
from probe_sae.sae import SAE, ReconstructionMeter, Step, make_sae
from probe_sae.sae.sparse import release_gradients
from probe_sae.training import progress_file
from probe_sae.training.alarms import Alarms
from probe_sae.training.precision import autocast
from probe_sae.training.runs import Run
from probe_sae.training.settings import TrainSettings

LOOK_EVERY = {"cpu": 1, "cuda": 8}
"""Steps after which a device is asked anew what is dead; a GPU has to be waited for."""
RESAMPLINGS = 4
"""Times in the first half of a run at which dead features of some architectures begin anew."""
DEAD_AT_ONCE = 1024
"""Dead features that a step looks after, or as many as a row is wide, which is enough for AuxK."""


class Learner:
    """A dictionary in training."""

    def __init__(
        self,
        run: Run,
        widths: tuple[int, ...],
        sample: Tensor,
        trainer: TrainSettings,
        device: torch.device,
    ) -> None:
        """Draw weights from the seed, and take scale, mean and variance from a sample of rows."""
        self.run, self._trainer = run, trainer
        generator = torch.Generator().manual_seed(run.seed)
        self.sae: SAE = make_sae(run.settings, widths, generator)
        self.sae.initialise(sample, generator)
        self.sae.to(device)
        factors = self.sae.rate_factors()
        groups: dict[float, list[Tensor]] = {}
        for name, parameter in self.sae.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(factors.get(name, 1.0), []).append(parameter)
        self._optimiser = torch.optim.Adam(
            [{"params": those, "factor": factor} for factor, those in groups.items()],
            lr=0.0,
            betas=run.settings.betas,
            fused=True,
        )
        self._silent = torch.zeros(run.settings.features, dtype=torch.int64, device=device)
        self._known_dead: Tensor | None = None
        self._average: dict[str, Tensor] = {}
        if trainer.ema:
            self._average = {n: p.detach().clone() for n, p in self.sae.named_parameters()}
        self._alarms = Alarms(run.name)
        self.log: list[dict[str, Any]] = []

    def step(self, rows: Tensor, step: int) -> Step:
        """Learn from a batch of raw rows; `check` looks at the loss."""
        trainer, sae = self._trainer, self.sae
        rate = self._rate(step)
        for group in self._optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        dead = _in_turns(self._dead_features(step), max(DEAD_AT_ONCE, sae.d_out), step)
        with autocast(trainer.precision, rows.device):
            result = sae.step(rows, dead, step / trainer.steps)
        release_gradients(sae.parameters())
        result.loss.backward()
        sae.before_update()
        if trainer.clip:
            self._clip(trainer.clip)
        self._optimiser.step()
        sae.constrain()
        sae.adapt(result)
        self._silent.add_(len(rows)).masked_fill_(result.fired > 0, 0)
        self._follow_average(step)
        if step + 1 in self._resamplings:
            self._resample(rows, step)
        return result

    def check(self, loss: Tensor, rows: Tensor, step: int) -> None:
        """Look at the loss of a step.

        Raises:
            SettingsError: it is not finite.
        """
        if not torch.isfinite(loss):
            raise SettingsError(
                f"{self._named}the loss is not finite at step {step + 1}, though its rows are; "
                f"their largest activation is {float(rows.abs().max()):.3g}. "
                f"{self._lower_rate(step)}, or look at the rows with `probe-sae store info`."
            )

    @torch.no_grad()
    def note(self, result: Step, step: int, rows: int, seconds: float) -> None:
        """Add a line to the log, and say early what is going wrong."""
        meter = ReconstructionMeter(features=0)
        meter.add(result.target, result.x_hat)
        self.log.append(
            {
                "step": step + 1,
                "rows": rows,
                "loss": float(result.loss.detach()),
                "fraction_unexplained": meter.fraction_unexplained,
                "l0": result.l0,
                "dead_fraction": float(self._dead().double().mean()),
                "lr": self._rate(step),
                **result.notes,
                "seconds": round(seconds, 3),
            }
        )
        self._alarms.look(self.log, self.run.settings, self._trainer)

    def look_back(self) -> None:
        """Say what the log ends with that a user must know before using the dictionary."""
        self._alarms.look_back(self.log, self.run.settings)

    def finish(self, unseen: Tensor) -> SAE:
        """Return the dictionary as it is to be used, on the CPU."""
        with torch.no_grad():
            for name, parameter in self.sae.named_parameters():
                if name in self._average:
                    parameter.copy_(self._average[name])
        if self._average:
            self.sae.constrain()
            self._count_again(unseen)
        self.sae.eval()
        self.sae.finish(unseen)
        self.sae.log = self.log
        return self.sae.cpu().requires_grad_(False)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and facts from which `restore` goes on."""
        tensors = {f"sae.{name}": tensor for name, tensor in self.sae.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self._average.items()}
        tensors |= progress_file.optimiser_tensors(self._optimiser) | {"silent": self._silent}
        if self._known_dead is not None:
            tensors["known_dead"] = self._known_dead
        return tensors, {"log": self.log, "alarms": sorted(self._alarms.said)}

    def restore(self, tensors: dict[str, Tensor], facts: Any) -> None:
        """Take on a saved state.

        Raises:
            FormatError: it does not fit.
        """
        try:
            self.sae.load_state_dict(
                {n.removeprefix("sae."): t for n, t in tensors.items() if n.startswith("sae.")}
            )
            progress_file.restore_optimiser(self._optimiser, tensors)
            self._silent.copy_(tensors["silent"])
            known = tensors.get("known_dead")
            if known is not None and not _are_numbers_below(known, len(self._silent)):
                raise ValueError("known_dead holds what are no features")
            self._known_dead = None if known is None else known.to(self._silent.device)
            for name, average in self._average.items():
                average.copy_(tensors[f"average.{name}"])
            self.log = list(facts["log"])
            self._alarms.said = set(facts["alarms"])
        except (KeyError, TypeError, ValueError, RuntimeError) as problem:
            raise FormatError(f"the training to continue is damaged: {problem}") from problem

    @property
    def _named(self) -> str:
        return f"{self.run.name}: " if self.run.name else ""

    @property
    def _resamplings(self) -> set[int]:
        steps = self._trainer.steps
        return {steps * (i + 1) // (2 * RESAMPLINGS) for i in range(RESAMPLINGS)} - {0}

    def _rate(self, step: int) -> float:
        return self._trainer.rate(step, self.run.settings, self.sae.d_model)

    def _lower_rate(self, step: int) -> str:
        """Say which learning rate would be better than this step's."""
        default = self.run.settings.learning_rate(self._trainer.rows, self.sae.d_model)
        if self._trainer.lr > default:
            return f"Lower the learning rate (without lr, it is chosen as {default:.2g} here)"
        return f"Lower the learning rate (--set lr={self._rate(step) / 4:.1g})"

    def _dead(self) -> Tensor:
        return self._silent >= self._trainer.dead_window(self.run.settings)

    def _dead_features(self, step: int) -> Tensor:
        """Return the numbers of dead features; on a GPU as they were a few steps before."""
        if self._known_dead is None or step % LOOK_EVERY.get(self._silent.device.type, 1) == 0:
            self._known_dead = self._dead().nonzero().squeeze(1)
        return self._known_dead

    def _clip(self, largest: float) -> None:
        """Let the optimiser divide gradients by what they are too long.

        That is one pass over them less than to change them before, and the same.
        """
        gradients = [p.grad for p in self.sae.parameters() if p.grad is not None]
        length = torch.nn.utils.get_total_norm(gradients)
        scale = (length / largest).clamp_min(1.0).float()
        setattr(self._optimiser, "grad_scale", scale)  # noqa: B010 -- what gradient scalers set

    def _follow_average(self, step: int) -> None:
        """Move the average of weights; early on faster, so that it forgets the first ones."""
        decay = min(self._trainer.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, parameter in self.sae.named_parameters():
                if name in self._average:
                    self._average[name].lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def _count_again(self, rows: Tensor) -> None:
        """Take the running statistics of batch norm anew: they were those of other weights."""
        norms = [m for m in self.sae.modules() if isinstance(m, torch.nn.BatchNorm1d)]
        momenta = [norm.momentum for norm in norms]
        batches = [b for b in rows.split(self._trainer.batch_size) if len(b) > 1 and norms]
        for norm in norms if batches else ():
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
        for batch in batches:
            self.sae.train()(self.sae.split(batch)[0])
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    def _resample(self, rows: Tensor, step: int) -> None:
        """Let dead features begin anew, where the architecture does so, and forget their past."""
        dead = self._dead().nonzero().squeeze(1)
        generator = torch.Generator().manual_seed(1_000_003 * self.run.seed + step)
        changed = self.sae.resample(rows, dead, generator) if len(dead) else ()
        if not changed:
            return
        for name in changed:
            state = self._optimiser.state[self.sae.get_parameter(name)]
            state["exp_avg"][dead] = state["exp_avg_sq"][dead] = 0.0
        self._silent[dead] = 0
        self._known_dead = None
        say(f"{self._named}{len(dead)} dead features begin anew at rows with a large error")


def _are_numbers_below(numbers: Tensor, limit: int) -> bool:
    """Return whether a tensor is a list of numbers from 0 up to a limit."""
    is_list = numbers.dtype == torch.int64 and numbers.ndim == 1
    return is_list and bool(((numbers >= 0) & (numbers < limit)).all())


def _in_turns(dead: Tensor, most: int, step: int) -> Tensor:
    """Return the dead features whose turn it is: all, or as many as a step may look after.

    What brings them back would otherwise take several times what the rest of a step takes, in time
    and memory, where most of a large dictionary is dead.
    """
    turns = max(1, -(-len(dead) // most))
    return dead[step % turns :: turns]
