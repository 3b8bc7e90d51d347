"""What the host loses when something else stands in place of its activations.

Only rows are ever replaced: special tokens and padding, which a store does not hold, keep what the
host computes there, and a prediction of one is never scored.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.evaluation.recorded_inputs import (
    answers_of,
    check_recorded,
    held_batches,
    targets_of,
    why_no_loss,
)
from probe_sae.evaluation.row_sums import Array
from probe_sae.host import Host, ReplaceRows, Site, SiteWatch, constant, edit, zero
from probe_sae.progress import say
from probe_sae.recording import Batch, Recipe, RowGatherer
from probe_sae.store import Store

LOSS_CONTEXTS = 200
"""Contexts on which the host's loss is measured; four runs of the host each."""
BASELINE_CONTEXTS = 64
"""The first of them, on which baselines are measured too; one more run each."""
_TARGETS_AT_ONCE = 512

Change = Callable[[Tensor], Tensor]
"""Rows, [rows, width] -> what stands in their place."""
_MEASURES = ("loss", "kl", "right", "same")


@dataclass(frozen=True)
class HostSums:
    """Sums over the targets of each context: tokens to be predicted, or images to be classified."""

    of: dict[str, NDArray[np.float64]]
    """Name of a change -> [contexts, 4]: loss and KL in nats, targets whose likeliest answer is
    the right one, and those whose likeliest answer is the original's. Baselines have fewer
    contexts."""
    targets: NDArray[np.float64]
    """[contexts]"""
    replaced: int
    """Positions whose row was replaced."""
    untouched: int
    """Positions of special tokens, which were not."""


@torch.no_grad()
def host_sums(
    sae: Change,
    store: Store,
    site: str,
    host: Host,
    recipe: Recipe,
    held: NDArray[np.bool_],
    *,
    baselines: Mapping[str, Change] | None = None,
    contexts: int = LOSS_CONTEXTS,
) -> HostSums | None:
    """Run the host as it is, and with the rows of a site replaced in several ways.

    Args:
        sae: gives reconstructions, as `spliced`.
        store: whose rows are to be replaced.
        site: of which site.
        host: the one that was recorded.
        recipe: the dataset that was recorded.
        held: which contexts may be used, [contexts].
        baselines: what else to put in place of the rows, on the first `BASELINE_CONTEXTS`.
        contexts: how many to use at most.

    Returns:
        None where the host has no loss on these inputs.

    Raises:
        SettingsError: host or recipe are not those that were recorded.
    """
    check_recorded(store, host, recipe)
    mean = store.statistics(site).mean
    changes: dict[str, Change | None] = {
        "original": None,
        "spliced": sae,
        "mean_ablated": constant(mean if mean is not None else torch.zeros(store.site(site).width)),
        "zero_ablated": zero,
    }
    (found,) = host.find_sites([site])
    run = _Run(host.only([found], store.kind), found, store.provenance["settings"]["tokens"])
    for done, batch in held_batches(run.host, store, recipe, held, contexts):
        extra = dict(baselines or {}) if done < BASELINE_CONTEXTS else {}
        if not run.measure(batch, changes | extra):
            return None
    return run.sums()


def host_figures(sums: HostSums, name: str, weights: Array | None = None) -> dict[str, Array]:
    """Return the metrics of a change of the rows, of `HostSums` or of resamples of contexts.

    Args:
        sums: of some contexts.
        name: of the change; for those of fewer contexts all is measured on these.
        weights: how often each resample draws each of those contexts, [resamples, contexts].
    """
    count = len(sums.of[name])
    drawn = np.ones((1, count)) if weights is None else weights
    targets = drawn @ sums.targets[:count]
    changes = dict.fromkeys(["original", "spliced", "mean_ablated", "zero_ablated", name])
    with np.errstate(invalid="ignore", divide="ignore"):
        means = {c: (drawn @ sums.of[c][:count]).T / targets for c in changes}
        figures = _recovered(means, name)
    return {n: values[0] for n, values in figures.items()} if weights is None else figures


def _recovered(means: dict[str, Array], name: str) -> dict[str, Array]:
    loss, kl, right, same = ({c: m[i] for c, m in means.items()} for i in range(4))
    figures = {f"loss.{c}": values for c, values in loss.items()}
    figures |= {f"kl.{c}": values for c, values in kl.items() if c != "original"}
    figures |= {f"accuracy.{c}": values for c, values in right.items()}
    figures |= {f"agreement.{c}": values for c, values in same.items() if c != "original"}
    for suffix, worst in (("", "mean_ablated"), ("_zero", "zero_ablated")):
        figures[f"loss_recovered{suffix}"] = _share(
            loss[worst] - loss[name], loss[worst] - loss["original"]
        )
        figures[f"kl_recovered{suffix}"] = _share(kl[worst] - kl[name], kl[worst])
    figures["accuracy_kept"] = _share(right[name], right["original"])
    return figures


def _share(part: Array, whole: Array) -> Array:
    return np.where(whole == 0, np.nan, part / whole)


class _Run:
    """Runs the host on batches and gathers sums."""

    def __init__(self, host: Host, site: Site, tokens: str) -> None:
        self.host, self._site = host, site
        self._gatherer = RowGatherer(host, [site], tokens)
        self._of: dict[str, list[Array]] = {}
        self._targets: list[Array] = []
        self._replaced = self._untouched = 0

    def measure(self, batch: Batch, changes: Mapping[str, Change | None]) -> bool:
        """Take in a batch; return False where the host has no loss on it."""
        keep = batch.keep if batch.keep is not None else self._image_rows(batch)
        original = self._answers(batch, keep, None)
        if original is None:
            return False
        wanted, context = targets_of(batch, original)
        count = len(batch.contexts)
        self._targets.append(_by_context(context, np.ones(len(context)), count))
        plain = _Plain(original.float().log_softmax(-1), original.argmax(-1), wanted)
        del original
        for name, change in changes.items():
            got = None if change is None else self._answers(batch, keep, change)
            if change is not None and got is None:
                return False
            each = _compared(plain, got).cpu().numpy()
            sums = [_by_context(context, column, count) for column in each.T]
            self._of.setdefault(name, []).append(np.stack(sums, 1))
        self._replaced += int(keep.sum())
        mask = batch.inputs.get("attention_mask")
        there = int(mask.sum()) if mask is not None else keep.numel()
        self._untouched += there - int(keep.sum())
        return True

    def sums(self) -> HostSums | None:
        """Return what was gathered; None where there was nothing."""
        if not self._targets or not sum(float(t.sum()) for t in self._targets):
            return None
        of = {name: np.concatenate(parts) for name, parts in self._of.items()}
        return HostSums(of, np.concatenate(self._targets), self._replaced, self._untouched)

    def _answers(self, batch: Batch, keep: Tensor, change: Change | None) -> Tensor | None:
        """Return the logits of each target, [targets, classes]; None where there are none."""
        if change is None:
            output = self.host(batch.inputs)
        else:
            with edit(self.host, self._site.name, ReplaceRows(keep.to(self.host.device), change)):
                output = self.host(batch.inputs)
        answers = answers_of(batch, output)
        if answers is None:
            say(f"{self.host.name} has no loss here: {why_no_loss(batch, output)}.")
        return answers

    def _image_rows(self, batch: Batch) -> Tensor:
        """Return which positions of the site are rows, [batch, positions], from one run."""
        self._gatherer.expect(batch)
        with SiteWatch(self.host, [self._site], self._gatherer.see, stop=False).attached():
            self.host(batch.inputs)
        return self._gatherer.image_rows()


def _by_context(context: NDArray[np.int64], values: Array, count: int) -> Array:
    """Return the sum of values of each context, [contexts]."""
    sums = np.zeros(count)
    np.add.at(sums, context, values)
    return sums


class _Plain(NamedTuple):
    """What the host answers as it is."""

    log_p: Tensor
    """[targets, classes] float32"""
    best: Tensor
    """[targets] the likeliest answer."""
    wanted: Tensor
    """[targets] the right one."""


def _compared(plain: _Plain, got: Tensor | None) -> Tensor:
    """Return loss, KL, whether right, whether as the original, [targets, 4] float64.

    Each target's in float32, as the host computes; sums of them are in float64.

    Args:
        plain: what the host answers as it is.
        got: logits of a run with other rows, [targets, classes]; None for the host as it is.
    """
    parts: list[Tensor] = []
    for piece in range(0, len(plain.wanted), _TARGETS_AT_ONCE):
        some = slice(piece, piece + _TARGETS_AT_ONCE)
        p, best, answer = (each[some] for each in plain)
        q = p if got is None else got[some].float().log_softmax(-1)
        loss = -q.gather(1, answer[:, None])[:, 0]
        kl = torch.zeros_like(loss)
        if got is not None:
            is_possible = p > float("-inf")  # others add nothing to the sum, and must not add NaN
            kl = torch.where(is_possible, p.exp() * (p - q), 0.0).sum(-1).clamp_min(0)
        likeliest = best if got is None else got[some].argmax(-1)
        columns = (loss, kl, likeliest == answer, likeliest == best)
        parts.append(torch.stack([column.double() for column in columns], 1))
    return torch.cat(parts) if parts else torch.zeros(0, 4, dtype=torch.float64)
