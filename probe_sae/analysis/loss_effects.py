"""What the host's loss gains when one firing is taken out: each in a run of its own.

Nothing is estimated. A gradient would tell it of all firings at once, but only to first order,
whose mean over firings is near 0 where a host is trained, and which is far off where a row is much
longer than others.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from probe_sae.analysis.arrays import TOP
from probe_sae.analysis.codes import Codes
from probe_sae.analysis.examples import Chosen
from probe_sae.analysis.host_runs import Runs
from probe_sae.analysis.source import Source
from probe_sae.errors import SettingsError
from probe_sae.evaluation.recorded_inputs import (
    TEXTS_AT_ONCE,
    answers_of,
    check_recorded,
    held_batches,
    recorded_recipe,
    some_of,
    targets_of,
)
from probe_sae.host import Host, ReplaceRows, Splice, edit
from probe_sae.progress import progress, say
from probe_sae.recording import Batch, Recipe

SAVED_EVERY = 20.0
"""Seconds of work that a kill costs at most."""


class LossMeter:
    """Measures what firings do to the host's loss, if that is wanted."""

    def __init__(
        self,
        source: Source,
        host: Host | None,
        dataset: Recipe | str | Path | None,
        count: int,
    ) -> None:
        """Prepare to measure each feature's `count` strongest examples.

        Raises:
            SettingsError: there is no way to it: no host, or not the one that was recorded.
        """
        if count < 0 or (count and host is None):
            raise SettingsError(
                f"loss_examples is {count}; expected 0 or more, and where it is not 0 a host "
                "(--host) to take the firings out of."
            )
        self._source, self._host, self.count = source, host, count
        self._recipe: Recipe | None = None
        if count and host is not None:
            self._recipe = recorded_recipe(source.store, dataset)
            check_recorded(source.store, host, self._recipe)

    def of(self, chosen: Chosen, codes: Codes, folder: Path) -> NDArray[np.float32]:
        """Return what the loss of its input gains without each firing, in nats, [chosen].

        The loss of a text is summed over the tokens that are predicted. NaN where a firing is none
        of the strongest examples, where nothing is predicted after it, where the host has no loss
        on its input, and of dictionaries that do not write the one site that they read.

        Args:
            chosen: the firings.
            codes: in which they are.
            folder: where what is measured is kept, to go on after an interruption.
        """
        if self._host is None or self._recipe is None:
            return np.full(len(chosen.row), np.nan, np.float32)
        wanted = (chosen.kind == TOP) & (chosen.rank < self.count)
        measured = _Measured(
            folder / "part-0.npy", chosen.row * self._source.features + chosen.feature
        )
        measured.go_on(wanted)
        wanted &= np.isnan(measured.effects)
        ordinal = _ordinals(codes, chosen, self._source.store.contexts)
        try:
            for number, first in enumerate(self._source.firsts):
                sae = self._source.saes[number]
                if not sae.is_autoencoder or len(sae.widths) > 1:
                    say("no effects on the loss: a dictionary does not write the site it reads.")
                    continue
                own = (chosen.feature >= first) & (chosen.feature < first + sae.features)
                bench = _Bench(self._source, number, self._host)
                some = np.flatnonzero(wanted & own)
                feature = chosen.feature[some] - first
                given = some, chosen.context[some], ordinal[some], feature
                bench.measure(self._recipe, _Firings(*given), measured)
        finally:
            measured.save()
        return measured.effects


class _Measured:
    """Effects, [chosen], and the file that keeps them."""

    def __init__(self, path: Path, keys: NDArray[np.int64]) -> None:
        self._path, self._keys = path, keys
        self._saved_at = time.monotonic()
        self.effects = np.full(len(keys), np.nan, np.float32)

    def go_on(self, wanted: NDArray[np.bool_]) -> None:
        """Take what an earlier run has left of wanted effects."""
        with suppress(OSError, ValueError, EOFError):  # none yet, or half of one
            table = np.load(self._path, allow_pickle=False)
            known = dict(zip(*table.astype(np.float64).T.tolist(), strict=True))
            self.effects[wanted] = [known.get(key, np.nan) for key in self._keys[wanted].tolist()]

    def add(self, places: NDArray[np.int64], effects: NDArray[np.float64]) -> None:
        """Take in effects, and save them now and then."""
        self.effects[places] = effects
        if time.monotonic() - self._saved_at > SAVED_EVERY:
            self.save()

    def save(self) -> None:
        """Write what is known."""
        known = np.isfinite(self.effects)
        self._path.parent.mkdir(exist_ok=True)
        beside = self._path.with_name("writing.npy")
        np.save(beside, np.stack([self._keys[known], self.effects[known]], 1).astype(np.float64))
        beside.replace(self._path)
        self._saved_at = time.monotonic()


@dataclass(frozen=True)
class _Firings:
    """Firings to take out, [firings] each."""

    place: NDArray[np.int64]
    """Among the chosen."""
    context: NDArray[np.int64]
    ordinal: NDArray[np.int64]
    """Which of its context's rows."""
    feature: NDArray[np.int64]


def _ordinals(codes: Codes, chosen: Chosen, contexts: int) -> NDArray[np.int64]:
    """Return which of its context's rows each firing is on, [chosen]."""
    first = np.full(contexts, np.iinfo(np.int64).max)
    for part in codes.rows_of_parts():
        np.minimum.at(first, part.context, part.row)
    return chosen.row - first[chosen.context]


class _Bench:
    """A host, and the site of a dictionary whose firings are taken out."""

    def __init__(self, source: Source, number: int, host: Host) -> None:
        self._store, self._sae = source.store, source.saes[number]
        (self._site,) = source.sites[number]
        tokens = self._store.provenance["settings"]["tokens"]
        self._runs = Runs(host, host.find_sites([self._site]), self._store.kind, tokens)
        self._host = self._runs.host

    def measure(self, recipe: Recipe, firings: _Firings, into: _Measured) -> None:
        """Measure each of some firings."""
        wanted = np.zeros(self._store.contexts, np.bool_)
        wanted[firings.context] = True
        order = np.argsort(firings.context, kind="stable")
        lost = 0
        with progress("effects on the loss", len(order), "firings") as advance:
            some = held_batches(self._host, self._store, recipe, wanted, int(wanted.sum()))
            for _, batch in some:
                plain, keep = self._losses(batch), self._keep(batch)
                for places, inputs in _pieces(firings.context[order], batch):
                    if plain is None:
                        lost += len(places)
                    else:
                        few = some_of(batch, inputs.tolist())
                        given = few, keep[inputs], plain[inputs]
                        effects = self._effects(*given, firings, order[places])
                        into.add(firings.place[order[places]], effects)
                    advance(len(places))
        if lost:
            say(f"no effects on the loss of {lost} firings: the host has none on their inputs.")

    def _effects(
        self,
        few: Batch,
        keep: Tensor,
        plain: NDArray[np.float64],
        firings: _Firings,
        places: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """Return what the loss of each of a few inputs gains without one firing, [inputs]."""
        marked = torch.zeros_like(keep)
        is_last = np.zeros(len(places), np.bool_)
        for i, ordinal in enumerate(firings.ordinal[places].tolist()):
            rows = keep[i].nonzero()[:, 0]
            marked[i, rows[ordinal]] = True
            is_last[i] = few.keep is not None and ordinal + 1 == len(rows)
        if few.keep is not None:
            marked = marked[:, : few.keep.shape[1]]
        silenced = _Silenced(torch.from_numpy(firings.feature[places]))
        change = Splice(self._sae, silenced, keep_error=True)
        changed = self._losses(few, ReplaceRows(marked.to(self._host.device), change))
        # Half precision rounds by the shape of a batch.
        before = plain if self._host.dtype == torch.float32 else self._losses(few)
        if changed is None or before is None:
            return np.full(len(places), np.nan)
        return np.where(is_last, np.nan, changed - before)

    def _losses(
        self, batch: Batch, change: ReplaceRows | None = None
    ) -> NDArray[np.float64] | None:
        """Return each input's loss with rows of the site changed, [inputs]; None without a loss."""
        with ExitStack() as edits:
            if change is not None:
                edits.enter_context(edit(self._host, self._site, change))
            answers = answers_of(batch, self._host(batch.inputs))
        if answers is None:
            return None
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


@dataclass(frozen=True)
class _Silenced:
    """Codes, [rows, features], without one firing a row."""

    feature: Tensor

    def __call__(self, codes: Tensor) -> Tensor:
        codes[torch.arange(len(codes)), self.feature.to(codes.device)] = 0
        return codes


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
