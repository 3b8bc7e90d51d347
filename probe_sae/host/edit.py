"""Edit a host while it runs: put a reconstruction, a mean or a steered activation in its place."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from probe_sae.errors import SettingsError, ShapeError
from probe_sae.host.hooks import hooked
from probe_sae.host.loading import Host
from probe_sae.host.sites import Site

Edit = Callable[[Tensor], Tensor]
"""What a site holds -> what it shall hold; the same shape."""


class Codec(Protocol):
    """Anything with `encode` and `decode` on [rows, d_model]; a dictionary is one."""

    W_dec: Tensor
    input_scale: Tensor

    def encode(self, x: Tensor) -> Tensor:
        """Return codes, [rows, features]."""
        ...

    def decode(self, codes: Any) -> Tensor:
        """Return reconstructions, [rows, d_model]."""
        ...


@contextmanager
def edit(host: Host, site: str, change: Edit) -> Generator[None]:
    """Replace what a site holds by `change` of it while the block runs the host.

    Raises:
        SiteNotFound: before anything runs.
        ShapeError: `change` returned another shape.
    """
    (found,) = host.find_sites([site])

    def see(at: Site, tensor: Tensor) -> Tensor:
        new = change(tensor)
        if new.shape != tensor.shape:
            raise ShapeError(
                f"the edit of {at.name} turned {tuple(tensor.shape)} into {tuple(new.shape)}."
            )
        return new.to(tensor.dtype)

    with hooked(host.model, [found], see):
        yield


@dataclass(frozen=True)
class Steer:
    """Add a feature's decoder direction to every row: `scale` units of activation of it."""

    sae: Codec
    feature: int
    scale: float

    def __call__(self, tensor: Tensor) -> Tensor:
        """Return the steered tensor."""
        directions = self.sae.W_dec
        if not 0 <= self.feature < len(directions):
            raise SettingsError(
                f"no feature {self.feature}; the dictionary has 0 to {len(directions) - 1}."
            )
        step = self.scale * directions[self.feature] / self.sae.input_scale
        return tensor + step.to(tensor)


@dataclass(frozen=True)
class ReplaceRows:
    """Replace chosen rows of [batch, tokens, width] or [batch, width]; others stay."""

    keep: Tensor
    """Which rows to replace, [batch, tokens] or [batch], bool."""
    new: Callable[[Tensor], Tensor]
    """Those rows, [rows, width] float32 -> the new ones."""

    def __call__(self, tensor: Tensor) -> Tensor:
        """Return the tensor with the chosen rows replaced."""
        if tensor.shape[:-1] != self.keep.shape:
            raise ShapeError(
                f"the site holds {tuple(tensor.shape)}; rows are marked as "
                f"{tuple(self.keep.shape)}."
            )
        changed = tensor.clone()
        rows = tensor[self.keep].float()
        changed[self.keep] = self.new(rows).to(tensor.dtype)
        return changed


def constant(row: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function that puts `row`, [width], in place of every row."""
    return lambda rows: row.to(rows).expand_as(rows)


def zero(rows: Tensor) -> Tensor:
    """Return zeros in place of every row."""
    return torch.zeros_like(rows)
