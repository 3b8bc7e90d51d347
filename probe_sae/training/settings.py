"""How to train: one dataclass for every architecture, from which the command line is made."""

from dataclasses import dataclass
from typing import Any

from probe_sae.errors import SettingsError, near
from probe_sae.field_types import take_types, typed
from probe_sae.sae import BatchTopK, Settings, architecture, names_of, settings_for
from probe_sae.training.precision import PRECISIONS


@dataclass(frozen=True)
class TrainSettings:
    """The trainer's settings."""

    rows: int = 2_000_000
    """Rows consumed; epochs repeat as needed."""
    batch_size: int = 4096
    """Rows of a step."""
    lr: float = 0.0
    """Highest learning rate; 0 chooses by size of dictionary and length of the run."""
    warm_up: float = 0.05
    """Share of the run over which the learning rate rises from 0."""
    decay: float = 0.3
    """Share of the run over which it falls to 0 at the end."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 leaves it as it is."""
    dead_after: int = 0
    """A feature is dead after so many rows without firing; 0 is a share of the run that depends on
    the architecture (a hundredth where AuxK revives it), at most 10 million."""
    held_out: float = 0.1
    """Share of the contexts that training never sees."""
    seed: int = 0
    """Of initialisation, order of rows and split."""
    ema: float = 0.0
    """Keep a running average of the weights, which forgets so slowly, and return it; 0 does not."""
    precision: str = "float32"
    """float32; tf32 on GPUs that have it; bf16 multiplies matrices in bfloat16. Weights and their
    updates are float32 in any case. Sparse steps are as fast without: see `guide speed`."""
    save_seconds: float = 120.0
    """A run whose result goes to disk is put there so often, to be resumed after a crash."""

    def __post_init__(self) -> None:
        take_types(self)
        for name in ("rows", "batch_size"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; expected at least 1.")
        for name in ("lr", "clip", "dead_after"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise SettingsError(f"{name} is {getattr(self, name)}; expected 0 or more.")
        for name in ("warm_up", "decay", "held_out", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(
                    f"{name} is {getattr(self, name)}; expected 0 or more, under 1."
                )
        if self.precision not in PRECISIONS:
            raise SettingsError(
                f"precision is {self.precision!r}; expected {', '.join(PRECISIONS)}."
                + near(self.precision, PRECISIONS)
            )
        if self.seed < 0:
            raise SettingsError(f"seed is {self.seed}; expected at least 0.")

    @property
    def steps(self) -> int:
        """Number of steps."""
        return max(1, -(-self.rows // self.batch_size))

    def rate(self, step: int, settings: Settings, width: int) -> float:
        """Return the learning rate of a step, counted from 0, for rows of a width."""
        highest = self.lr or settings.learning_rate(self.rows, width)
        warm = max(1.0, self.warm_up * self.steps)
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return highest * min(1.0, (step + 1) / warm, left)

    def dead_window(self, settings: Settings) -> int:
        """Return the number of rows without firing after which a feature counts as dead."""
        share = round(self.rows * settings.dead_share)
        return self.dead_after or min(10_000_000, max(self.batch_size, share))


def split_settings(values: dict[str, Any]) -> tuple[Settings, TrainSettings]:
    """Return the architecture's and the trainer's settings from one table of both.

    Args:
        values: `arch` and fields of either.

    Raises:
        SettingsError: a name is unknown, or a value out of range or of the wrong type.
    """
    values = dict(values)
    arch = str(values.pop("arch", BatchTopK.arch))
    of_arch, of_trainer = names_of(architecture(arch)), names_of(TrainSettings)
    for name in values:
        if name not in of_trainer + of_arch:
            hint = near(name, of_trainer + of_arch)
            raise SettingsError(
                f"neither {arch} nor the trainer has a setting {name!r}; {arch} has "
                f"{', '.join(of_arch)}; the trainer has {', '.join(of_trainer)}.{hint}"
            )
    trainer = {name: value for name, value in values.items() if name in of_trainer}
    return (
        settings_for(arch, {name: value for name, value in values.items() if name in of_arch}),
        TrainSettings(**typed(TrainSettings, trainer)),
    )
