"""Rows for training straight from a host, without a disk: the host runs while it trains.

Contexts are mixed while they are still tokens or pixels, which take a thousandth of the room of
their rows; a buffer of rows then takes apart those of one context. An epoch can begin at any batch:
the host runs only from the filling of the buffer that the batch is in.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from probe_sae.errors import DatasetError, SettingsError, ShapeError
from probe_sae.host import Host, SiteWatch, host_of
from probe_sae.recording.batches import Batch, as_recorded, batches
from probe_sae.recording.recipe import Recipe, as_recipe
from probe_sae.recording.recorder import CaptureSettings, provenance_of, recording_of
from probe_sae.recording.rows import RowGatherer
from probe_sae.shown import Fact, Shown
from probe_sae.store import is_held_out

T = TypeVar("T")
BUFFER_BYTES = 1 << 29
"""Of the buffer of rows, float32."""
MIXED_CONTEXTS = {"text": 4096, "image": 1024}
"""Contexts among which the next is drawn; they wait as tokens or pixels."""
SAMPLED_CONTEXTS = 1024
"""The same of samples, which must not wait for so many."""
_SAMPLE = 1 << 32
"""The epoch that samples are drawn from."""


class _Share(NamedTuple):
    """Which contexts: those held out by `is_held_out`, or the others."""

    share: float
    seed: int
    is_held_out: bool


class HostStream(Shown):
    """The rows of one site of a host over a recipe, as shuffled batches."""

    def __init__(
        self,
        host: Host | Any,
        recipe: Recipe | str | Path,
        site: str,
        settings: CaptureSettings | None = None,
        *,
        seed: int = 0,
        buffer_rows: int | None = None,
    ) -> None:
        """Prepare; the host runs on a first batch, to see how long a row is.

        Args:
            host: what `load_host` returned, or takes.
            recipe: what `load_dataset` returned, or takes.
            site: one site.
            settings: contexts and tokens, as for `capture`; rows, dtype and compress do not count.
            seed: of the order.
            buffer_rows: rows mixed with each other; by default, what fits into half a gigabyte.

        Raises:
            SiteNotFound: no such site.
            SettingsError: the site's name stands for several.
            DatasetError: the recipe does not fit the host.
        """
        host = host_of(host, by_name=True)
        found = host.find_sites(site)
        if len(found) != 1:
            raise SettingsError(f"{site} stands for {len(found)} sites; a stream is of one.")
        self._site, self._settings = found[0], settings or CaptureSettings()
        self._recipe = as_recipe(recipe)
        self._host = host.only(found, self._recipe.kind)
        self._seed, self._share = seed, None
        provenance = provenance_of(self._host, self._recipe, found, self._settings)
        self.provenance: dict[str, Any] = {
            "sites": [self._site.name],
            "store": {"recording": recording_of(provenance)},
            **{name: provenance[name] for name in ("host", "dataset", "versions")},
        }
        self._gatherer = RowGatherer(self._host, found, self._settings.tokens)
        first = next(self._rows(None), None)
        if first is None:
            raise DatasetError(f"dataset {self._recipe.name} holds nothing to train on.")
        self.width = first.shape[1]
        self.widths = (self.width,)
        self._context_rows = len(first) / max(1, self._contexts_seen)
        self._buffer_rows = buffer_rows or BUFFER_BYTES // (4 * self.width)

    def _facts(self) -> list[Fact]:
        return [
            Fact("host", self._host.name),
            Fact("dataset", self._recipe.name),
            Fact("site", self._site.name),
            Fact("width", self.width, "Length of a row."),
            Fact("buffer", self._buffer_rows, "Rows that are mixed at once."),
        ]

    def split(self, share: float, seed: int) -> tuple["HostStream", "HostStream"]:
        """Return a stream without the held-out contexts, and one of them; see `is_held_out`."""
        return self._of(_Share(share, seed, False)), self._of(_Share(share, seed, True))

    def epoch(self, number: int, batch: int, start: int = 0) -> Iterator[Tensor]:
        """Yield [batch, width] float32: each row once, in an order drawn from seed and `number`.

        Args:
            number: which epoch.
            batch: rows of a batch; the last may be shorter.
            start: batches to leave out, as an earlier run has seen them.
        """
        size = max(1, self._buffer_rows // batch) * batch
        fill, skip = divmod(start * batch, size)
        source = self._rows(number, fill * size)
        left: list[Tensor] = []
        while True:
            count = sum(map(len, left))
            while count < size and (rows := next(source, None)) is not None:
                left.append(rows)
                count += len(rows)
            if not count:
                return
            rows = torch.cat(left)
            mine, left = rows[:size], [rows[size:]] if count > size else []
            order = np.random.default_rng([self._seed, number, fill]).permutation(len(mine))
            for begin in range(skip, len(mine), batch):
                yield mine[torch.from_numpy(order[begin : begin + batch])]
            fill, skip = fill + 1, 0

    def sample(self, count: int) -> Tensor:
        """Return up to `count` rows of contexts from all over the first ones, [rows, width]."""
        parts: list[Tensor] = []
        for rows in self._rows(_SAMPLE):
            parts.append(rows)
            if sum(map(len, parts)) >= 2 * count:
                break
        if not parts:
            raise DatasetError(f"dataset {self._recipe.name} is too small to hold contexts out.")
        rows = torch.cat(parts)
        order = np.random.default_rng([self._seed, _SAMPLE]).permutation(len(rows))[:count]
        return rows[torch.from_numpy(order)]

    def companions(self, batch: int) -> float:
        """Return how many rows of its own context a batch's row meets, on average; about."""
        return (self._context_rows - 1) * (batch - 1) / max(1, max(self._buffer_rows, batch) - 1)

    def _of(self, share: _Share) -> "HostStream":
        other = object.__new__(HostStream)
        other.__dict__ |= self.__dict__ | {"_share": share}
        return other

    def _rows(self, epoch: int | None, start: int = 0) -> Iterator[Tensor]:
        """Yield the rows of an epoch, batch by batch of the host, from row `start` on.

        The host does not run on what lies before. Without an epoch, in the recipe's order.
        """
        taken = 0
        settings = as_recorded(asdict(self._settings))
        arranged = None
        if epoch is not None:
            among = SAMPLED_CONTEXTS if epoch == _SAMPLE else MIXED_CONTEXTS[self._recipe.kind]
            arranged = _Arranged(self._seed, epoch, among, self._share)
        watch = SiteWatch(self._host, [self._site], self._gatherer.see, stop=True)
        for batch in batches(self._host, self._recipe, **settings, arrange=arranged):
            expected = self._expected(batch)
            if expected is not None and taken + expected <= start:
                taken += expected
                continue
            self._gatherer.expect(batch)
            with watch.attached():
                self._host.run(batch.inputs)
            watch.check_fired_once()
            rows = self._gatherer.rows().sites[self._site.name]
            self._contexts_seen = len(batch.contexts)
            if expected not in (None, len(rows)):
                raise ShapeError(
                    f"{self._site.name} gives {len(rows)} rows of {len(batch.contexts)} inputs, "
                    f"expected {expected}: inputs must be of one size. Capture them into a store."
                )
            self._image_rows = len(rows) // max(1, len(batch.contexts))
            yield rows[max(0, start - taken) :]
            taken += len(rows)

    def _expected(self, batch: Batch) -> int | None:
        """Return how many rows a batch gives, where that can be told before the host runs."""
        if batch.keep is not None:
            return int(batch.keep.sum())
        if not hasattr(self, "_image_rows"):
            return None
        return self._image_rows * len(batch.contexts)


class _Arranged:
    """Chooses contexts and mixes them: each is drawn among the next few thousand."""

    def __init__(self, seed: int, epoch: int, among: int, share: _Share | None) -> None:
        self._generator = np.random.default_rng([seed, epoch])
        self._among, self._share = among, share

    def __call__(self, items: Iterator[tuple[int, T]]) -> Iterator[tuple[int, T]]:
        """Yield the wanted items, each once."""
        waiting: list[tuple[int, T]] = []
        for item in items:
            if self._share is not None:
                held = bool(is_held_out(item[0], self._share.share, self._share.seed))
                if held != self._share.is_held_out:
                    continue
            if len(waiting) < self._among:
                waiting.append(item)
                continue
            place = int(self._generator.integers(len(waiting)))
            yield waiting[place]
            waiting[place] = item
        for place in self._generator.permutation(len(waiting)):
            yield waiting[place]
