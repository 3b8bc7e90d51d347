"""Inputs of a person's own through a host: framed, preprocessed and gathered as in recordings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probe_sae.analysis.varied import Varied
from probe_sae.analysis.varied_images import as_image
from probe_sae.errors import SettingsError, ShapeError
from probe_sae.host import Host, Site, SiteWatch
from probe_sae.progress import say
from probe_sae.recording import Batch, Recipe, RowGatherer, batches, dataset_from
from probe_sae.sae import SAE
from probe_sae.store import ContextInput, RecordedRows

_ENDLESS = 10**9


@dataclass(frozen=True)
class Inputs:
    """Inputs of one kind."""

    kind: str
    """`text`, `image` ([height, width, channels] uint8 arrays) or `tensor`."""
    items: tuple[Any, ...]


def inputs_of(host: Host, given: Any) -> Inputs:
    """Return inputs as they were given: a text, image or tensor, several of them, or `Varied`.

    A tensor of uint8 pixels is an image where the host takes images; any other tensor is what the
    model takes, with its batch axis (a list: without).

    Raises:
        SettingsError: there are none, or they are not what the host takes.
    """
    kind, items = (given.kind, list(given.inputs)) if isinstance(given, Varied) else _told(given)
    if not items:
        raise SettingsError("there is no input.")
    if kind != "tensor" and kind not in host.kinds:
        raise SettingsError(
            f"the inputs are {kind}s; {host.name} takes {' and '.join(host.kinds)}s."
        )
    if kind == "text":
        for i, text in enumerate(items):
            if not isinstance(text, str) or not text.strip():
                raise SettingsError(f"input {i} is {text!r}; expected a text.")
    return Inputs(kind, tuple(items))


def _told(given: Any) -> tuple[str, list[Any]]:
    """Return the kind of inputs, told from their type, and each of them."""
    if isinstance(given, Tensor) and given.dtype != torch.uint8:
        return "tensor", list(given)
    if isinstance(given, (Tensor, np.ndarray)):
        items = [given] if given.ndim < 4 else list(given)
    else:
        several = isinstance(given, Sequence) and not isinstance(given, str)
        items = list(given) if several else [given]
    first = items[0] if items else None
    if isinstance(first, str):
        return "text", items
    if isinstance(first, Tensor) and first.dtype != torch.uint8:
        return "tensor", items
    images = [as_image(item).permute(1, 2, 0) for item in items]
    return "image", [image.contiguous().numpy() for image in images]


def batches_of(
    host: Host, inputs: Any, *, batch_size: int, contexts: int | None = None
) -> Iterator[Batch]:
    """Yield inputs in batches as a recording has them, in their order.

    Args:
        host: which tokenises or preprocesses them.
        inputs: see `inputs_of`; or a recipe, of which the first contexts are taken.
        batch_size: inputs of a batch.
        contexts: how many of a recipe.

    Raises:
        SettingsError: there are none, they do not fit the host, or a text is longer than it reads.
    """
    for name, count in (("batch_size", batch_size), ("contexts", contexts)):
        if count is not None and (not isinstance(count, int) or count < 1):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SettingsError(f"{name} is {count!r}; expected a whole number from 1 on.")
    if isinstance(inputs, Recipe):
        left = contexts or batch_size
        for batch in batches(host, inputs, batch_size=min(batch_size, left)):
            yield first_of(batch, left)
            left -= len(batch.contexts)
            if left <= 0:
                return
        return
    known = inputs_of(host, inputs)
    if known.kind == "tensor":
        yield from _tensor_batches(host, known.items, batch_size)
        return
    recipe = dataset_from(lambda: known.items, name="inputs", kind=known.kind)
    for batch in batches(host, recipe, batch_size=batch_size, max_length=_ENDLESS):
        for context in batch.contexts:
            if context.start:
                raise SettingsError(
                    f"text {context.document} is longer than {host.name} reads at once; cut it."
                )
        yield batch


def first_of(batch: Batch, count: int) -> Batch:
    """Return the first contexts of a batch."""
    if len(batch.contexts) <= count:
        return batch
    return Batch(
        {name: tensor[:count] for name, tensor in batch.inputs.items()},
        batch.contexts[:count],
        None if batch.keep is None else batch.keep[:count],
        None if batch.positions is None else batch.positions[:count],
        batch.labels[:count],
        None if batch.documents is None else batch.documents[:count],
    )


def sites_for(host: Host, sae: SAE, site: str | None) -> list[Site]:
    """Return the sites whose rows a dictionary reads: those it was trained on, or the one named.

    Raises:
        SettingsError: neither is known.
        SiteNotFound: the host has no such site.
        ShapeError: their rows are not as long as those that the dictionary takes.
    """
    known = sae.named_sites
    names = [site] if site is not None else known
    if site is not None and known and known != [site]:
        say(f"the dictionary was trained on {', '.join(known)}; it reads {site} here.")
    if not names:
        raise SettingsError("the dictionary does not say its site; give it, with site=...")
    sites = host.find_sites(names)
    widths = [found.width for found in sites]
    if len(sites) != len(sae.widths) or any(
        width not in (None, wanted) for width, wanted in zip(widths, sae.widths, strict=True)
    ):
        raise ShapeError(
            f"{', '.join(found.name for found in sites)} have rows of {widths}; the dictionary "
            f"takes {list(sae.widths)}."
        )
    digest = (sae.provenance.get("host") or {}).get("digest")
    if digest not in (None, host.digest):
        say(f"the dictionary was trained on other weights than {host.name} has here.")
    return sites


class Runs:
    """Run a host on batches and gather what its sites hold, up to the deepest of them."""

    def __init__(self, host: Host, sites: list[Site], kind: str, tokens: str) -> None:
        """Prepare; `tokens` chooses among an image's positions as in recordings."""
        self.host = host.only(sites, kind)
        self._sites = sites
        self.gatherer = RowGatherer(self.host, sites, tokens)
        self._watch = SiteWatch(self.host, sites, self.gatherer.see, stop=True)

    def rows(self, batch: Batch) -> RecordedRows:
        """Return the rows of one batch.

        Raises:
            ShapeError: the host does not run on it, or a site did not fire exactly once.
        """
        self.gatherer.expect(batch)
        with self._watch.attached():
            self.host.run(batch.inputs)
        self._watch.check_fired_once()
        return self.gatherer.rows()

    def encoded(self, sae: SAE, rows: RecordedRows) -> Tensor:
        """Return what the dictionary encodes of rows, [rows, d_model]."""
        return sae.split(torch.cat([rows.sites[site.name] for site in self._sites], 1))[0]


def _tensor_batches(host: Host, items: tuple[Any, ...], batch_size: int) -> Iterator[Batch]:
    shapes = {tuple(item.shape) for item in items}
    if len(shapes) > 1:
        raise ShapeError(f"the tensors have shapes {sorted(shapes)}; expected one shape.")
    for start in range(0, len(items), batch_size):
        some = torch.stack(items[start : start + batch_size]).to(host.device)
        if some.is_floating_point():
            some = some.to(host.dtype)
        contexts = [
            ContextInput(start + i, start + i, f"input {start + i}") for i in range(len(some))
        ]
        yield Batch({host.first_input: some}, contexts, None, None, torch.full((len(some),), -1))
