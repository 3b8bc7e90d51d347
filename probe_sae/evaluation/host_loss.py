"""What the host loses when something else stands in place of its activations.

Only rows are ever replaced: special tokens and padding, which a store does not hold, keep what the
host computes there, and a prediction of one is never scored.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.errors import SettingsError
from probe_sae.evaluation.row_sums import Array
from probe_sae.host import Host, ReplaceRows, Site, SiteWatch, constant, edit, zero
from probe_sae.recording import Batch, Recipe, RowGatherer, as_recorded, batches
from probe_sae.store import Store

LOSS_CONTEXTS = 200
"""Contexts on which the host's loss is measured; four runs of the host each."""
BASELINE_CONTEXTS = 64
"""The first of them, on which baselines are measured too; one more run each."""
_CONTEXTS_AT_ONCE = 8
"""The logits of so many contexts are held twice."""
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
    _check_same(store, host, recipe)
    mean = store.statistics(site).mean
    changes: dict[str, Change | None] = {
        "original": None,
        "spliced": sae,
        "mean_ablated": constant(mean if mean is not None else torch.zeros(store.site(site).width)),
        "zero_ablated": zero,
    }
    (found,) = host.find_sites([site])
    run = _Run(host.only([found], store.kind), found, store.provenance["settings"]["tokens"])
    for done, batch in _groups(run.host, store, recipe, held, contexts):
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
        wanted, context = _targets(batch, original)
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
        logits = getattr(output, "logits", output)
        if not isinstance(logits, Tensor):
            return None
        if batch.keep is not None:
            return logits[:, :-1][batch.keep[:, 1:].to(logits.device)]
        labels = batch.labels
        if logits.ndim != 2 or bool((labels < 0).any()) or int(labels.max()) >= logits.shape[1]:
            return None
        return logits

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


def _targets(batch: Batch, logits: Tensor) -> tuple[Tensor, NDArray[np.int64]]:
    """Return the right answer and the context of each target, [targets]."""
    if batch.keep is None:
        return batch.labels.to(logits.device), np.arange(len(batch.labels))
    wanted = batch.keep[:, 1:]
    ids = batch.inputs["input_ids"][:, 1:]
    return ids[wanted.to(ids.device)].to(logits.device), wanted.nonzero()[:, 0].numpy()


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


def _check_same(store: Store, host: Host, recipe: Recipe) -> None:
    recorded = store.provenance
    if recorded["host"]["digest"] != host.digest:
        raise SettingsError(
            f"the store was recorded from {recorded['host']['name']} with other weights than "
            f"{host.name} has here; its loss would mean nothing."
        )
    if recorded["dataset"]["fingerprint"] != recipe.fingerprint:
        raise SettingsError(
            f"the store was recorded from dataset {recorded['dataset']['name']}, not from "
            f"{recipe.name} as it is here."
        )


def _groups(
    host: Host, store: Store, recipe: Recipe, held: NDArray[np.bool_], most: int
) -> Iterator[tuple[int, Batch]]:
    """Yield how many held-out contexts came before, and a few more of them, `most` in all."""
    done = 0
    for batch in batches(host, recipe, **as_recorded(store.provenance["settings"])):
        if done >= most or batch.contexts[0].index >= store.contexts:
            return
        places = [i for i, c in enumerate(batch.contexts) if c.index < len(held) and held[c.index]]
        places = places[: most - done]
        # Images are few numbers each: they stay together. Texts have logits at every token.
        size = _CONTEXTS_AT_ONCE if batch.keep is not None else max(1, len(places))
        for start in range(0, len(places), size):
            some = places[start : start + size]
            yield done, _only(batch, some)
            done += len(some)


def _only(batch: Batch, places: list[int]) -> Batch:
    """Return some of a batch's contexts, without the padding that none of them needs."""
    longest = slice(None)
    if batch.keep is not None:
        used = batch.inputs["attention_mask"][places].any(0).nonzero()
        longest = slice(0, int(used.max()) + 1 if len(used) else 0)

    def cut(tensor: Tensor) -> Tensor:
        return tensor[places][:, longest] if batch.keep is not None else tensor[places]

    return Batch(
        {name: cut(tensor) for name, tensor in batch.inputs.items()},
        [batch.contexts[i] for i in places],
        None if batch.keep is None else batch.keep[places][:, longest],
        None if batch.positions is None else batch.positions[places][:, longest],
        batch.labels[places],
        None if batch.documents is None else batch.documents[places][:, longest],
    )
