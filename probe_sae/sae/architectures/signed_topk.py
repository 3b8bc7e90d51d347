"""Signed TopK: the k features with the largest magnitude, negative ones included."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from probe_sae.sae import selection
from probe_sae.sae.architectures.topk import TopK, TopKSAE


@dataclass(frozen=True)
class SignedTopK(TopK):
    """Each row fires the k features of largest magnitude; a feature can mean two opposites.

    Source: "AbsTopK", Zhu et al. 2025; SAELens has it as `abstopk`.
    """

    arch: ClassVar[str] = "signed_topk"

    @property
    def is_signed(self) -> bool:
        """See `Settings.is_signed`."""
        return True

    def build(self, widths: tuple[int, ...]) -> "SignedTopKSAE":
        """See `Settings.build`."""
        return SignedTopKSAE(self, widths)


class SignedTopKSAE(TopKSAE):
    """Codes may be negative."""

    def _select(self) -> selection.Select:
        return partial(selection.signed_top_k, k=int(self.settings.k))
