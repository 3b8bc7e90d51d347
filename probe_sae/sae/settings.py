"""The settings of each architecture: frozen dataclasses, from which the command line is made."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from probe_sae.errors import SettingsError, near


@dataclass(frozen=True)
class TopK:
    """Each row fires its k strongest features.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders".
    """

    arch: ClassVar[str] = "topk"
    features: int = 4096
    """Size of the dictionary."""
    k: float = 32
    """Features that fire on a row."""
    aux_coefficient: float = 1 / 32
    """Weight of the loss that revives dead features."""
    aux_k: int = 0
    """Dead features that take part in it on a row; 0 is half of d_model."""

    def __post_init__(self) -> None:
        if self.features < 1:
            raise SettingsError(f"features is {self.features}; expected at least 1.")
        if not 0 < self.k <= self.features:
            raise SettingsError(
                f"k is {self.k:g}, but the dictionary has {self.features} features; "
                f"choose k between 1 and {self.features}."
            )
        if self.arch == "topk" and self.k != int(self.k):
            raise SettingsError(f"k is {self.k}; topk needs a whole number (batchtopk does not).")


@dataclass(frozen=True)
class BatchTopK(TopK):
    """A batch fires its rows * k strongest firings: rows that need more features get more.

    Afterwards a threshold stands in for the batch, calibrated so that mean L0 is k.
    Source: Bussmann et al. 2024, "BatchTopK sparse autoencoders".
    """

    arch: ClassVar[str] = "batchtopk"


ARCHITECTURES: dict[str, type[TopK]] = {kind.arch: kind for kind in (TopK, BatchTopK)}
"""Name on the command line -> settings. A new architecture is one entry here and one encoder."""


def settings_for(arch: str, values: dict[str, Any]) -> TopK:
    """Return the settings of an architecture.

    Raises:
        SettingsError: no such architecture or setting, or a value out of range.
    """
    if arch not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise SettingsError(
            f"no architecture {arch!r}; there are {known}.{near(arch, ARCHITECTURES)}"
        )
    kind = ARCHITECTURES[arch]
    names = [field.name for field in fields(kind)]
    for name in values:
        if name not in names:
            raise SettingsError(
                f"{arch} has no setting {name!r}; it has {', '.join(names)}.{near(name, names)}"
            )
    try:
        return kind(**values)
    except TypeError as problem:
        raise SettingsError(f"{arch}: {problem}") from problem
