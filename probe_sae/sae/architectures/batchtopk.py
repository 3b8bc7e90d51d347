"""BatchTopK: a batch fires its rows * k strongest firings, wherever they are."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from probe_sae.sae import selection
from probe_sae.sae.architectures.topk import TopK, TopKSAE
from probe_sae.sae.settings import check_range
from probe_sae.sae.sparse import SparseCodes

MARGIN = 1e-5
"""The threshold is lower by up to this share than the smallest activation kept, which would else be
lost wherever another device, batch or library rounds otherwise."""


@dataclass(frozen=True)
class BatchTopK(TopK):
    """A batch fires its rows * k strongest firings: rows that need more features get more.

    Afterwards a threshold stands in for the batch, calibrated so that mean L0 is k.
    Source: Bussmann et al. 2024, "BatchTopK sparse autoencoders".
    """

    arch: ClassVar[str] = "batchtopk"
    by_row: float = 0.8
    """Share of a training over which each row fires k features of its own, as with `topk`. Short
    trainings find far more rare features so; on real activations it makes little difference. 0 is
    as published."""

    _whole_k: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "by_row", 0, 1)

    def build(self, widths: tuple[int, ...]) -> "BatchTopKSAE":
        """See `Settings.build`."""
        return BatchTopKSAE(self, widths)


class BatchTopKSAE(TopKSAE):
    """Keeps a threshold, so that a row's codes do not depend on its batch."""

    settings: BatchTopK
    threshold: Tensor
    """Scalar: the smallest activation kept; NaN until calibrated."""

    def __init__(self, settings: BatchTopK, widths: tuple[int, ...]) -> None:
        """Make a dictionary whose weights are not drawn yet."""
        super().__init__(settings, widths)
        self.register_buffer("threshold", torch.full((), float("nan")))
        self._batch_select = selection.BatchTopKSelect(settings.k)

    @torch.no_grad()
    def finish(self, rows: Tensor) -> None:
        """Set the threshold so that raw `rows` have mean L0 = k, and no firing hangs on rounding.

        Half way between the weakest firing and the strongest activation near it that does not fire.
        """
        values = self._batch_codes(rows).values
        if not (values > 0).any():
            self.threshold.fill_(float("inf"))
            return
        weakest = values[values > 0].min()
        lowest = weakest * (1 - MARGIN)
        select = partial(selection.above, threshold=float(lowest))
        near = self._chosen(self._scaled_pair(rows)[0], select).values
        silent = near[(near > 0) & (near < weakest)]
        self.threshold.copy_((weakest + silent.max()) / 2 if len(silent) else lowest)

    def _select_at(self, share: float) -> selection.Select:
        if share < self.settings.by_row:
            return partial(selection.top_k, k=max(1, round(self.settings.k)))
        return self._select()

    def _select(self) -> selection.Select:
        return self._batch_select

    def _codes(self, scaled: Tensor) -> SparseCodes:
        select = self._select()
        if not torch.isnan(self.threshold):
            select = partial(selection.above, threshold=float(self.threshold))
        return self._chosen(scaled, select)
