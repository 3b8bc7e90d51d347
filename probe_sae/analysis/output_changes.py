"""What an edit changes in a host's output: summed over batches, a few positions at a time."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from probe_sae.errors import ShapeError
from probe_sae.host import Host
from probe_sae.recording import Batch

_AT_ONCE = 1 << 24
"""Log-probabilities that are held in float64 at a time."""


class Outputs(NamedTuple):
    """The logits of one batch, one line for each place where the host says something."""

    logits: Tensor
    """[places, classes]"""
    target: Tensor
    """[places] what was right: the next token, or the class; -1 where that is not known."""
    at: Tensor
    """[batch, positions] the place of each position of the site; -1 where there is none."""


class Means(NamedTuple):
    """Means over places; NaN where there were none."""

    kl: float
    """KL(original || edited) in nats."""
    loss: float
    """Loss of the edited less that of the original, in nats; over places whose target is known."""


@dataclass
class _Sum:
    kl: float = 0.0
    places: int = 0
    loss: float = 0.0
    known: int = 0

    def means(self) -> Means:
        kl = self.kl / self.places if self.places else float("nan")
        return Means(kl, self.loss / self.known if self.known else float("nan"))


class Changes:
    """The changes that one edit makes to the output, over all batches."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.rows = self.inputs = 0
        self._here, self._after = _Sum(), _Sum()
        self._shift: Tensor | None = None

    def add(self, original: Outputs, edited: Outputs, changed: Tensor) -> None:
        """Take in a batch.

        Args:
            original: its output.
            edited: its output under the edit.
            changed: which rows of the site were edited, [batch, positions] bool.
        """
        self.rows += int(changed.sum())
        self.inputs += int(changed.any(1).sum())
        places = original.at
        here = torch.unique(places[changed & (places >= 0)])
        later = (changed.cumsum(1) > 0) & ~changed & (places >= 0)
        after = torch.unique(places[later])
        after = after[~torch.isin(after, here)]
        self._sum(original, edited, here, self._here, counts=True)
        self._sum(original, edited, after, self._after, counts=False)

    @property
    def here(self) -> Means:
        """Where rows were changed: for one output an input, on inputs with such rows."""
        return self._here.means()

    @property
    def after(self) -> Means:
        """At later places of the same input, whose own rows were not changed."""
        return self._after.means()

    def shift(self) -> Tensor | None:
        """Return the mean change of log-probability where rows were changed, [classes]."""
        return None if self._shift is None else self._shift / max(1, self._here.places)

    def _sum(
        self, original: Outputs, edited: Outputs, places: Tensor, into: _Sum, *, counts: bool
    ) -> None:
        for some in places.split(max(1, _AT_ONCE // original.logits.shape[1])):
            before = original.logits[some].double().log_softmax(1)
            now = edited.logits[some].double().log_softmax(1)
            into.kl += float((before.exp() * (before - now)).sum())
            into.places += len(some)
            target = original.target[some]
            known = (target >= 0).nonzero()[:, 0]
            right = target[known]
            into.loss += float((before[known, right] - now[known, right]).sum())
            into.known += len(known)
            if counts:
                step = (now - before).sum(0).cpu()
                self._shift = step if self._shift is None else self._shift + step


def outputs_of(host: Host, batch: Batch, keep: Tensor) -> Outputs:
    """Run a host on a batch and return its logits where they count.

    Args:
        host: the model; its output is a tensor, or has `logits`.
        batch: the inputs.
        keep: which positions of the site are rows, [batch, positions] bool.

    Raises:
        ShapeError: the host gives no logits, or not one an input or position.
    """
    output = host.run(batch.inputs)
    logits: Any = output.get("logits") if isinstance(output, dict) else output
    logits = getattr(logits, "logits", logits)
    if not isinstance(logits, Tensor) or logits.ndim not in (2, 3):
        what = tuple(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
        raise ShapeError(
            f"{host.name} gives {what}; effects on the output need logits, [batch, classes] or "
            "[batch, tokens, vocabulary]."
        )
    keep = keep.to(logits.device)
    if logits.ndim == 2:
        if len(logits) != len(keep):
            raise ShapeError(f"{host.name} gives {len(logits)} outputs of {len(keep)} inputs.")
        own = torch.arange(len(keep), device=keep.device)[:, None].expand_as(keep)
        known = batch.labels.to(logits.device)
        target = torch.where(known < logits.shape[1], known, -1)
        return Outputs(logits, target, torch.where(keep, own, -1))
    if logits.shape[:2] != keep.shape:
        raise ShapeError(
            f"{host.name} gives logits of {tuple(logits.shape)}; the site has {tuple(keep.shape)} "
            "positions, and nothing tells which belongs to which."
        )
    target = torch.full(keep.shape, -1, device=keep.device)
    if batch.keep is not None:
        ids = batch.inputs["input_ids"]
        target[:, :-1] = torch.where(keep[:, 1:], ids[:, 1:], -1)
    places = torch.arange(keep.numel(), device=keep.device).view(keep.shape)
    return Outputs(logits.flatten(0, 1), target.flatten(), torch.where(keep, places, -1))
