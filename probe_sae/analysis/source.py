"""What an analysis is of: dictionaries, a store, and which of its contexts count."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.errors import SettingsError, StoreError
from probe_sae.evaluation import held_out, sites_of
from probe_sae.evaluation.held_rows import compare_hosts
from probe_sae.interop import as_sae
from probe_sae.progress import say
from probe_sae.sae import SAE
from probe_sae.store import Store, as_store


@dataclass(frozen=True)
class Source:
    """What is encoded: one dictionary, or several whose features are numbered one after the other.

    Several are of sites that were recorded together, so that they have their rows in common.
    """

    saes: tuple[SAE, ...]
    store: Store
    sites: tuple[tuple[str, ...], ...]
    """Of each dictionary, the sites that it was trained on."""
    contexts: NDArray[np.bool_]
    """[contexts] which count."""
    which: str
    """`held_out` or `all`."""

    @property
    def features(self) -> int:
        """Number of features of all dictionaries."""
        return sum(sae.features for sae in self.saes)

    @property
    def firsts(self) -> list[int]:
        """Number of the first feature of each dictionary."""
        return np.cumsum([0, *(sae.features for sae in self.saes)])[:-1].tolist()

    def same(self) -> dict[str, Any]:
        """Return what codes must have been made from to be those of this source."""
        return {
            "recording": self.store.recording,
            "store_rows": self.store.rows,
            "sites": [list(sites) for sites in self.sites],
            "weights": [_digest(sae) for sae in self.saes],
            "features": self.features,
            "which": self.which,
            "contexts": int(self.contexts.sum()),
        }

    def differing(self, info: Mapping[str, Any]) -> list[str]:
        """Return, in words, what was otherwise when something was made."""
        return [_MEANT[name] for name, value in self.same().items() if info.get(name) != value]

    def check_finished(
        self, out: str | Path, info: Mapping[str, Any], others: Sequence[str] = ()
    ) -> None:
        """Say that there is nothing to do, as `out` is finished.

        Args:
            out: where.
            info: what it was made of, see `same`.
            others: settings that were otherwise when it was made.

        Raises:
            SettingsError: it was made of something else.
        """
        if wrong := [*self.differing(info), *others]:
            raise SettingsError(
                f"{out} is finished, and was made of something else: {', '.join(wrong)} differ. "
                "Choose another folder, or replace it with --force."
            )
        say(f"{out} is finished already; nothing to do.")


def source_of(
    saes: SAE | str | Path | Sequence[SAE | str | Path],
    store: Store | str | Path,
    rows: str = "held_out",
) -> Source:
    """Return what is to be encoded.

    Args:
        saes: a dictionary or its folder; or several, of sites of the same store.
        store: the store, or its folder.
        rows: `held_out`, rows that no training has seen, or `all`.

    Raises:
        ShapeError: the store's rows are not as long as those that a dictionary takes.
        SiteNotFound: the store lacks a dictionary's site.
        StoreError: the store was shuffled.
        SettingsError: `rows` is something else; no dictionary; two of the same site.
    """
    if rows not in ("held_out", "all"):
        raise SettingsError(f"rows is {rows!r}; expected held_out or all.")
    many: Any = saes
    given = list(many) if isinstance(many, list | tuple) else [many]
    loaded = tuple(as_sae(sae) for sae in given)
    opened = as_store(store)
    if not loaded:
        raise SettingsError("no dictionary was given; expected one, or several of one store.")
    if opened.is_shuffled:
        raise StoreError(
            f"the rows of {opened.folder} lie in random order, and examples need their contexts; "
            "analyse the store that it was shuffled from."
        )
    chosen = np.ones(opened.contexts, np.bool_)
    if rows == "held_out":
        for sae in loaded:
            chosen &= held_out(sae, opened)
        if not chosen.any():
            say("no context was held out of every training; all rows are looked at instead.")
            chosen[:] = True
    sites = tuple(tuple(sites_of(sae, opened)) for sae in loaded)
    for sae in loaded:
        compare_hosts(sae, opened)
    if len(set(sites)) < len(sites):
        raise SettingsError(
            f"{', '.join(' + '.join(some) for some in sites)}: two of the dictionaries are of the "
            "same site, and are not layers; `report --compare` and `ps.compare` set them beside "
            "each other."
        )
    return Source(loaded, opened, sites, chosen, rows)


def _digest(sae: SAE) -> str:
    """Return a hash of a dictionary's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(sae.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()


_MEANT = {
    "recording": "the store",
    "store_rows": "the store's number of rows",
    "sites": "the sites",
    "weights": "the dictionary",
    "features": "the number of features",
    "which": "the choice of rows (--rows held_out or all)",
    "contexts": "the contexts chosen",
}
"""What each mark of a source means to a person."""
