"""The settings of an architecture: frozen dataclasses, from which the command line is made."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar

from probe_sae.errors import SettingsError, near
from probe_sae.field_types import take_types

if TYPE_CHECKING:
    from probe_sae.sae.dictionary import SAE


@dataclass(frozen=True)
class Settings(ABC):
    """What every architecture has."""

    arch: ClassVar[str] = ""
    """Its name on the command line."""
    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    """Of Adam."""
    by_itself: ClassVar[tuple[str, ...]] = ()
    """Names of settings whose 0 leaves the choice to the architecture."""
    dead_share: ClassVar[float] = 1 / 20
    """A feature that has not fired for so much of a run is dead."""

    features: int = 4096
    """Size of the dictionary."""

    def __post_init__(self) -> None:
        take_types(self)
        for name in names_of(type(self)):
            value = getattr(self, name)
            # The command line's 16.0 reads, and is kept, as the 16 that a script gives.
            if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
                object.__setattr__(self, name, int(value))
        if self.features < 1:
            raise SettingsError(f"features is {self.features}; expected at least 1.")

    @property
    def fires_above(self) -> float:
        """A feature fires on a row where its activation is larger than this."""
        return 0.0

    @property
    def is_signed(self) -> bool:
        """Whether activations can be negative: a direction and its opposite are then the same."""
        return False

    @property
    def is_scaled(self) -> bool:
        """Whether rows are brought to a mean square of 1, not taken in their own units."""
        return True

    @abstractmethod
    def build(self, widths: tuple[int, ...]) -> "SAE":
        """Return a dictionary whose weights are not drawn yet; `make_sae` draws them.

        Args:
            widths: length of a row at each of its sites; rows hold them one after the other.
        """

    def learning_rate(self, rows: int, width: int) -> float:
        """Return the highest learning rate for a run over so many rows of a width.

        2e-4 / sqrt(features / 2^14), the law of Gao et al. 2024 for runs of billions of rows, and
        more for shorter ones, up to what rows of a width bear: `probe-sae guide defaults` has what
        was measured.
        """
        law = 2e-4 / (self.features / 2**14) ** 0.5
        return min(self._most(width), law * max(1.0, (2e9 / rows) ** 0.45))

    def _most(self, width: int) -> float:
        """Return the highest learning rate of all, for rows of a width."""
        return 1e-2


def check_range(settings: Settings, name: str, low: float, high: float = float("inf")) -> None:
    """Raise unless a setting lies between two values.

    Raises:
        SettingsError: it does not.
    """
    value = getattr(settings, name)
    if not low <= value <= high:
        most = "" if high == float("inf") else f" and at most {high:g}"
        raise SettingsError(f"{name} is {value}; expected at least {low:g}{most}.")


def check_choice(settings: Settings, name: str, choices: tuple[str, ...]) -> None:
    """Raise unless a setting is one of some words.

    Raises:
        SettingsError: it is not.
    """
    value = getattr(settings, name)
    if value not in choices:
        hint = near(str(value), choices)
        raise SettingsError(f"{name} is {value!r}; expected {', '.join(choices)}.{hint}")


def names_of(kind: type) -> list[str]:
    """Return the names of a settings class's fields."""
    return [field.name for field in fields(kind)]
