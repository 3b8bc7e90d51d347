"""Rows that a dictionary's training never saw, with the context of each."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.errors import SettingsError, ShapeError, SiteNotFound, StoreError
from probe_sae.progress import progress, say
from probe_sae.sae import SAE
from probe_sae.shown import name_in
from probe_sae.site_names import named
from probe_sae.store import Store, held_out_contexts
from probe_sae.training.alarms import name_bad_rows

BATCH_ROWS = 4096


def sites_of(sae: SAE, store: Store) -> list[str]:
    """Return the sites of a store that a dictionary was trained on; else its only one.

    Raises:
        SiteNotFound: the store lacks one of them.
        ShapeError: rows are not as long as those that the dictionary takes.
    """
    sites = [store.site(name) for name in _names_of(sae, store)]
    widths = tuple(site.width for site in sites)
    if widths != sae.widths:
        raise ShapeError(
            f"{', '.join(site.name for site in sites)} has rows of "
            f"{' + '.join(map(str, widths))}; the dictionary takes "
            f"{' + '.join(map(str, sae.widths))}."
        )
    return [site.name for site in sites]


def compare_hosts(sae: SAE, store: Store) -> None:
    """Say it where a store was recorded from another host than the rows of a training were."""
    one, other = sae.provenance.get("host") or {}, store.provenance.get("host") or {}
    digests = one.get("digest"), other.get("digest")
    if None not in digests and digests[0] != digests[1]:
        same = one.get("name") == other.get("name")
        say(
            f"warning: the dictionary was trained on {one.get('name')}, the store was recorded "
            f"from {'other weights of it' if same else other.get('name')}."
        )


def _names_of(sae: SAE, store: Store) -> list[str | None]:
    """Return the names of sites as a store has them; None for its only one."""
    names = sae.named_sites
    if sae.provenance.get("sites"):
        return [*names]
    found = [ours for name in names for ours in named(name, store.sites)]
    if found and len(found) == len(sae.widths):
        return [*found]
    theirs = f"it names {', '.join(names)}" if names else "it does not say"
    if len(store.sites) > 1:
        raise SiteNotFound(
            f"{store.folder} has {len(store.sites)} sites: {', '.join(store.sites)}; which of them "
            f"this dictionary is of: {theirs}. Say it: load_sae(path, sites=[...]), or `probe-sae "
            "import ... --site`."
        )
    if names:
        say(f"of the dictionary's sites {theirs}; rows of {', '.join(store.sites)} are read here.")
    return [None]


def check_same_sites(a: SAE, b: SAE) -> None:
    """Refuse dictionaries of different sites: their directions lie in different spaces.

    Raises:
        SettingsError: both say their sites, and they differ.
    """
    one, other = a.provenance.get("sites"), b.provenance.get("sites")
    if one and other and list(one) != list(other):
        raise SettingsError(
            f"one dictionary is of {', '.join(one)}, the other of {', '.join(other)}: rows of "
            "different sites cannot be set beside each other. `analyse` takes both together."
        )


def held_out(sae: SAE, store: Store) -> NDArray[np.bool_]:
    """Mark the contexts of a store that the dictionary's training never saw, [contexts].

    All of them, where the dictionary was trained on another store.
    """
    known = sae.provenance.get("store") or {}
    split = sae.provenance.get("split")
    if not known:
        say("it is not known which rows this dictionary was trained on; all are measured here.")
    if split is None or known.get("recording") != store.recording:
        here, there = (name_in(p.get("dataset")) for p in (store.provenance, sae.provenance))
        if split is not None and here is not None and here == there:
            say(
                f"the dictionary was trained on another recording of {here}: all rows are measured "
                "here, and it may have seen some of them."
            )
        return np.ones(store.contexts, dtype=np.bool_)
    if not split["held_out"]:
        say("training held nothing out: it saw every row of this store that is measured now.")
        return np.ones(store.contexts, dtype=np.bool_)
    held = held_out_contexts(store.contexts, split["held_out"], split["seed"])
    if not held.any():
        held[-1:] = True
    return held


class SomeRows(NamedTuple):
    """A few rows."""

    rows: Tensor
    """[rows, sum of widths]"""
    context: NDArray[np.int64]
    """[rows]"""


def rows_of(
    store: Store, sites: list[str], contexts: NDArray[np.bool_], *, what: str = "evaluate"
) -> Iterator[SomeRows]:
    """Yield the rows of marked contexts in the order in which they were recorded, in batches.

    Batches are uneven: a context is not cut in two, and what is not marked is left out.

    Args:
        store: where the rows are.
        sites: of which sites, one after the other in each row.
        contexts: which contexts, [contexts].
        what: the work, for the progress bar.

    Raises:
        StoreError: a row holds NaN or infinity.
    """
    with progress(what, store.rows) as advance:
        for block in store.blocks(BATCH_ROWS):
            context = block.columns["context"]
            wanted = contexts[context]
            if wanted.any():
                parts = [store.read(site, block.start, block.stop) for site in sites]
                rows = torch.cat(parts, 1)[torch.from_numpy(wanted)]
                check_finite(store, rows, block.start + np.flatnonzero(wanted))
                yield SomeRows(rows, context[wanted])
            advance(block.stop - block.start)


def check_finite(store: Store, rows: Tensor, numbers: NDArray[np.int64]) -> None:
    """Check rows that were read from a store, which takes in none that are not finite.

    Args:
        store: whose they are.
        rows: [rows, width].
        numbers: of the rows in the store, [rows].

    Raises:
        StoreError: one holds NaN or infinity.
    """
    bad = name_bad_rows(rows, 0, lambda row: int(numbers[row]))
    if bad is not None:
        raise StoreError(f"{store.folder} is damaged: {bad} `probe-sae store verify` says more.")


def mean_of(store: Store, sites: list[str]) -> Tensor:
    """Return the mean of a store's rows, [sum of widths] float64."""
    means = [(store.statistics(site).mean, store.site(site).width) for site in sites]
    return torch.cat(
        [torch.zeros(width, dtype=torch.float64) if m is None else m for m, width in means]
    )
