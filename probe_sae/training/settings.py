"""How to train: one dataclass for every architecture, from which the command line is made."""

from dataclasses import dataclass, fields
from typing import Any

from probe_sae.errors import SettingsError, near
from probe_sae.sae import ARCHITECTURES, BatchTopK, TopK, settings_for


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
    """A feature is dead after so many rows without firing; 0 is a twentieth of the run, at most
    10 million."""
    held_out: float = 0.1
    """Share of the contexts that training never sees."""
    seed: int = 0
    """Of initialisation, order of rows and split."""
    save_seconds: float = 120.0
    """A run whose result goes to disk is put there so often, to be resumed after a crash."""

    def __post_init__(self) -> None:
        for name in ("rows", "batch_size"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; expected at least 1.")
        for name in ("warm_up", "decay", "held_out"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; expected 0 up to 1.")
        if self.seed < 0:
            raise SettingsError(f"seed is {self.seed}; expected at least 0.")

    @property
    def steps(self) -> int:
        """Number of steps."""
        return max(1, -(-self.rows // self.batch_size))

    def rate(self, step: int, features: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        highest = self.lr or self._highest(features)
        warm = max(1.0, self.warm_up * self.steps)
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return highest * min(1.0, (step + 1) / warm, left)

    def _highest(self, features: int) -> float:
        """Return the rate that suits dictionary and run.

        2e-4 / sqrt(features / 2^14), the law of Gao et al. 2024 for runs of billions of rows, and
        more for shorter ones, up to 0.01: CHANGELOG.md has what was measured.
        """
        law = 2e-4 / (features / 2**14) ** 0.5
        return min(1e-2, law * max(1.0, (2e9 / self.rows) ** 0.45))

    @property
    def dead_window(self) -> int:
        """Rows without firing after which a feature counts as dead."""
        return self.dead_after or min(10_000_000, max(self.batch_size, self.rows // 20))


def split_settings(values: dict[str, Any]) -> tuple[TopK, TrainSettings]:
    """Return the architecture's and the trainer's settings from one table of both.

    Args:
        values: `arch` and fields of either.

    Raises:
        SettingsError: a name is unknown, or a value out of range or of the wrong type.
    """
    values = dict(values)
    arch = str(values.pop("arch", BatchTopK.arch))
    if arch not in ARCHITECTURES:
        settings_for(arch, {})
    of_trainer = [field.name for field in fields(TrainSettings)]
    of_arch = [field.name for field in fields(ARCHITECTURES[arch])]
    for name, value in values.items():
        if name not in of_trainer + of_arch:
            hint = near(name, of_trainer + of_arch)
            raise SettingsError(
                f"neither {arch} nor the trainer has a setting {name!r}; {arch} has "
                f"{', '.join(of_arch)}; the trainer has {', '.join(of_trainer)}.{hint}"
            )
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise SettingsError(f"{name} is {value!r}; expected a number.")
    for kind in (ARCHITECTURES[arch], TrainSettings):
        for field in fields(kind):
            value = values.get(field.name)
            if field.type in (int, "int") and isinstance(value, float):
                if not value.is_integer():
                    raise SettingsError(f"{field.name} is {value}; expected a whole number.")
                values[field.name] = int(value)
    return (
        settings_for(arch, {name: v for name, v in values.items() if name in of_arch}),
        TrainSettings(**{name: v for name, v in values.items() if name in of_trainer}),
    )
