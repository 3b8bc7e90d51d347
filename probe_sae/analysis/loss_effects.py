"""What the host's loss gains when one firing is taken out: each in a run of its own.

Nothing is estimated. A gradient would tell it for all firings at once, but only to first order,
whose mean over firings is near 0 where a host is trained, and which is far off where a row is much
longer than others.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from probe_sae.analysis.codes import Codes
from probe_sae.analysis.encoding import Source
from probe_sae.analysis.examples import Chosen
from probe_sae.analysis.host_runs import Runs
from probe_sae.analysis.result import TOP
from probe_sae.errors import SettingsError
from probe_sae.evaluation import (
    TEXTS_AT_ONCE,
    answers_of,
    check_recorded,
    held_batches,
    some_of,
    targets_of,
)
from probe_sae.host import Host, edit
from probe_sae.progress import progress
from probe_sae.recording import Batch, Recipe, load_dataset


class LossMeter:
    """Measures what firings do to the host's loss, if that is wanted."""

    def __init__(
        self, source: Source, host: Host | None, dataset: Recipe | None, count: int
    ) -> None:
        """Raise before any work if there is no way to it."""
        if count < 0 or (count and host is None):
            raise SettingsError(
                f"loss_examples is {count}; expected 0 or more, and a host where it is not 0."
            )
        self._source, self._host, self._count = source, host, count
        self._recipe = dataset
        if count and host is not None:
            name = source.store.provenance["dataset"]["name"]
            self._recipe = dataset or load_dataset(name)
            check_recorded(source.store, host, self._recipe)

    def of(self, chosen: Chosen, codes: Codes) -> NDArray[np.float32]:
        """Return what the loss gains without each of some firings; NaN where that is not known."""
        if not self._count or self._host is None or self._recipe is None:
            return np.full(len(chosen.row), np.nan, np.float32)
        return loss_effects(self._source, codes, self._host, self._recipe, chosen, self._count)


def loss_effects(
    source: Source, codes: Codes, host: Host, recipe: Recipe, chosen: Chosen, count: int
) -> NDArray[np.float32]:
    """Return what the loss of its input gains without each firing, in nats, [chosen].

    The loss of a text is summed over its tokens. NaN where the firing is none of the `count`
    strongest examples, or where its dictionary does not write where it reads.

    Args:
        source: the dictionaries and the store.
        codes: of these.
        host: the one that was recorded.
        recipe: the dataset that was recorded.
        chosen: the firings.
        count: how many of each feature's strongest examples; a run of the host for each.

    Raises:
        SettingsError: host or recipe are not those that were recorded, or the host has no loss on
            these inputs.
    """
    check_recorded(source.store, host, recipe)
    effects = np.full(len(chosen.row), np.nan, np.float32)
    wanted = (chosen.kind == TOP) & (chosen.rank < count)
    ordinal = _ordinals(codes, chosen, source.store.contexts)
    for number, (sae, first) in enumerate(zip(source.saes, source.firsts, strict=True)):
        if sae.is_autoencoder and len(sae.widths) == 1:
            own = (chosen.feature >= first) & (chosen.feature < first + sae.features)
            some = np.flatnonzero(wanted & own)
            bench = _Bench(source, number, host)
            effects[some] = bench.effects(
                recipe,
                chosen.context[some],
                ordinal[some],
                chosen.feature[some] - first,
                chosen.value[some],
            )
    return effects


def _ordinals(codes: Codes, chosen: Chosen, contexts: int) -> NDArray[np.int64]:
    """Return which of its context's rows each firing is on, [chosen]."""
    first = np.full(contexts, np.iinfo(np.int64).max)
    for part in codes.rows_of_parts():
        np.minimum.at(first, part.context, part.row)
    return chosen.row - first[chosen.context]


class _Bench:
    """A host, and the site of a dictionary whose firings are taken out."""

    def __init__(self, source: Source, number: int, host: Host) -> None:
        self._store = source.store
        (self._site,) = source.sites[number]
        tokens = self._store.provenance["settings"]["tokens"]
        self._runs = Runs(host, host.find_sites([self._site]), self._store.kind, tokens)
        self._host = self._runs.host
        self._directions = source.saes[number].directions().float().to(host.device)

    def effects(
        self,
        recipe: Recipe,
        context: NDArray[np.int64],
        ordinal: NDArray[np.int64],
        feature: NDArray[np.int64],
        value: NDArray[np.float32],
    ) -> NDArray[np.float64]:
        """Return what the loss gains without each of some firings, [firings]."""
        effects = np.full(len(context), np.nan)
        width = self._directions.shape[1]
        wanted = np.zeros(self._store.contexts, np.bool_)
        wanted[context] = True
        order = np.argsort(context, kind="stable")
        with progress("effects on the loss", len(context), "firings") as advance:
            some = held_batches(self._host, self._store, recipe, wanted, int(wanted.sum()))
            for _, batch in some:
                plain, keep = self._losses(batch, None), self._keep(batch)
                for places, inputs in _pieces(context[order], batch):
                    firings = order[places]
                    step = self._directions.new_zeros(len(firings), keep.shape[1], width)
                    for i, firing in enumerate(firings):
                        at = int(keep[inputs[i]].nonzero()[ordinal[firing], 0])
                        step[i, at] = -float(value[firing]) * self._directions[feature[firing]]
                    changed = self._losses(some_of(batch, inputs.tolist()), step)
                    effects[firings] = changed - plain[inputs]
                    advance(len(firings))
        return effects

    def _losses(self, batch: Batch, step: Tensor | None) -> NDArray[np.float64]:
        """Return each input's loss with something added to the site's rows, [inputs]."""
        if step is None:
            output = self._host(batch.inputs)
        else:
            added = step  # of as many positions as the longest text of the whole batch has

            def add(rows: Tensor) -> Tensor:
                return rows + added[:, : rows.shape[1]].to(rows)

            with edit(self._host, self._site, add):
                output = self._host(batch.inputs)
        answers = answers_of(batch, output)
        if answers is None:
            raise SettingsError(f"{self._host.name} has no loss on these inputs.")
        wanted, owner = targets_of(batch, answers)
        each = cross_entropy(answers.float(), wanted, reduction="none").double().cpu().numpy()
        sums: NDArray[np.float64] = np.zeros(len(batch.contexts))
        np.add.at(sums, owner, each)
        return sums

    def _keep(self, batch: Batch) -> Tensor:
        """Return which positions of the site are rows, [inputs, positions] bool."""
        if batch.keep is not None:
            return batch.keep
        self._runs.rows(batch)
        return self._runs.gatherer.image_rows()


def _pieces(
    context: NDArray[np.int64], batch: Batch
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield a few firings and the input of each in the batch.

    Args:
        context: of each firing, ascending.
        batch: the inputs.
    """
    numbers = np.array([one.index for one in batch.contexts])
    low, high = np.searchsorted(context, numbers), np.searchsorted(context, numbers, side="right")
    places = np.concatenate([np.arange(a, b) for a, b in zip(low, high, strict=True)])
    inputs = np.repeat(np.arange(len(numbers)), high - low)
    for start in range(0, len(places), TEXTS_AT_ONCE):
        few = slice(start, start + TEXTS_AT_ONCE)
        yield places[few], inputs[few]
