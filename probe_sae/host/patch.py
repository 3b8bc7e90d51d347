"""The edit that puts in place what a site held in another run."""

from dataclasses import dataclass

import torch
from torch import Tensor

from probe_sae.errors import SettingsError, ShapeError
from probe_sae.host.layouts import as_rows
from probe_sae.shown import Shown


@dataclass(frozen=True, repr=False)
class Patch(Shown):
    """Put what the site held in another run in place of what it holds: `Patch(seen[site])`."""

    new: Tensor
    """As a tap gave it; of one input, it serves every input of the batch."""
    where: Tensor | None = None
    """Positions to patch, [batch, positions] or [positions] bool; all by default."""

    def __post_init__(self) -> None:
        """Check both.

        Raises:
            SettingsError: one is no tensor.
            ShapeError: `where` does not say yes or no.
        """
        _check_tensor("what a patch puts there", self.new)
        if self.where is None:
            return
        _check_tensor("where a patch goes", self.where)
        if self.where.dtype != torch.bool:
            raise ShapeError(
                f"where a patch goes is {self.where.dtype}; expected torch.bool, true at positions "
                "to patch: where.bool(), or of numbers of positions, a mask that is true there."
            )

    def laid_out(self, layout: str) -> "Patch":
        """Return the patch of a site of that layout, as rows."""
        return Patch(as_rows(self.new, layout), self.where)

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the patched rows, [batch, positions, width].

        Raises:
            ShapeError: the other run had other positions, or `where` has.
        """
        new = self.new.to(rows)
        if new.shape[1:] != rows.shape[1:] or len(new) not in (1, len(rows)):
            raise ShapeError(
                f"the patch holds {tuple(new.shape)} and the site {tuple(rows.shape)}: patch from "
                "an input of the same length, or edit with a function of your own."
            )
        if self.where is None:
            return new.expand_as(rows).clone()
        try:
            where = self.where.to(rows.device).expand(rows.shape[:-1])
        except RuntimeError as problem:
            raise ShapeError(
                f"where a patch goes has shape {tuple(self.where.shape)}; the site has "
                f"[batch, positions] = {tuple(rows.shape[:-1])}."
            ) from problem
        return torch.where(where[..., None], new, rows)


def _check_tensor(what: str, given: object) -> None:
    if not isinstance(given, Tensor):
        calls = " of several calls, one of them" if isinstance(given, list) else ""
        raise SettingsError(f"{what} is a {type(given).__name__}; expected a tensor{calls}.")
