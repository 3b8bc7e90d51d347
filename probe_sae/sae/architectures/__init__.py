"""Every architecture: one file each, and one line in the table below."""

from typing import Any

import torch

from probe_sae.errors import SettingsError, near
from probe_sae.field_types import typed
from probe_sae.sae.architectures.archetypal import Archetypal
from probe_sae.sae.architectures.batchtopk import BatchTopK
from probe_sae.sae.architectures.crosscoder import Crosscoder
from probe_sae.sae.architectures.frozen import FrozenDecoder, FrozenEncoder
from probe_sae.sae.architectures.gated import Gated
from probe_sae.sae.architectures.hierarchical_topk import HierarchicalTopK
from probe_sae.sae.architectures.jumprelu import JumpReLU
from probe_sae.sae.architectures.kl import KL
from probe_sae.sae.architectures.l1 import L1
from probe_sae.sae.architectures.matching_pursuit import MatchingPursuit
from probe_sae.sae.architectures.matryoshka import Matryoshka
from probe_sae.sae.architectures.plain import Plain
from probe_sae.sae.architectures.signed_topk import SignedTopK
from probe_sae.sae.architectures.topk import TopK
from probe_sae.sae.architectures.transcoder import Transcoder
from probe_sae.sae.dictionary import SAE
from probe_sae.sae.settings import Settings, names_of

_KINDS: tuple[type[Settings], ...] = (
    L1,
    KL,
    Gated,
    JumpReLU,
    TopK,
    BatchTopK,
    Matryoshka,
    HierarchicalTopK,
    SignedTopK,
    MatchingPursuit,
    Archetypal,
    Transcoder,
    Crosscoder,
    FrozenDecoder,
    FrozenEncoder,
)
ARCHITECTURES: dict[str, type[Settings]] = {kind.arch: kind for kind in _KINDS}
"""Name on the command line -> settings. A new architecture is one file and one line above."""


def architecture(arch: str) -> type[Settings]:
    """Return the settings class of an architecture.

    Raises:
        SettingsError: there is none of this name.
    """
    if arch not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise SettingsError(
            f"no architecture {arch!r}; there are {known}.{near(arch, ARCHITECTURES)}"
        )
    return ARCHITECTURES[arch]


def saved_settings(arch: str, values: dict[str, Any]) -> Settings:
    """Return the settings of a dictionary on disk: those of `settings_for`, or `Plain`'s.

    Raises:
        SettingsError: see `settings_for`.
    """
    return _settings(Plain if arch == Plain.arch else architecture(arch), values)


def settings_for(arch: str, values: dict[str, Any]) -> Settings:
    """Return the settings of an architecture.

    Raises:
        SettingsError: no such architecture or setting, or a value out of range or of another type.
    """
    return _settings(architecture(arch), values)


def _settings(kind: type[Settings], values: dict[str, Any]) -> Settings:
    names = names_of(kind)
    for name in values:
        if name not in names:
            known = ", ".join(names)
            raise SettingsError(
                f"{kind.arch} has no setting {name!r}; it has {known}.{near(name, names)}"
            )
    return kind(**typed(kind, values))


def make_sae(
    settings: Settings, widths: int | tuple[int, ...], generator: torch.Generator | None = None
) -> SAE:
    """Return an untrained dictionary.

    Args:
        settings: architecture and size.
        widths: length of a row, d_model; for several sites, of each one's.
        generator: where the randomness comes from; seed 0 when absent.

    Raises:
        SettingsError: the architecture takes another number of sites.
    """
    sae = settings.build((widths,) if isinstance(widths, int) else tuple(widths))
    sae.reset(generator or torch.Generator().manual_seed(0))
    return sae
