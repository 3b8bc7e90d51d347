"""Analyse a dictionary on a store: two passes over the codes, then the structure of the features.

The first pass finds densities, the strongest firings, a sample, co-firing; the second fetches what
each feature did around the firings chosen. Memory grows with features, not with rows.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.analysis.codes import firings
from probe_sae.analysis.cofiring import CoFiring, partners, phi_of_pairs
from probe_sae.analysis.examples import Best, lottery, strongest_of_contexts, with_surroundings
from probe_sae.analysis.inputs import kept_inputs
from probe_sae.analysis.pixels import pixels_of
from probe_sae.analysis.result import Analysis, Examples, Features
from probe_sae.analysis.saved import save_analysis
from probe_sae.analysis.structure import feature_map, logit_effects, modules, nearest
from probe_sae.analysis.tally import Tally
from probe_sae.errors import StoreError
from probe_sae.evaluation import Evaluation, finite, held_out, sites_of
from probe_sae.host import Host, versions
from probe_sae.outputs import whole_folder
from probe_sae.sae import SAE, load_sae
from probe_sae.store import Store, open_store

TOP_EXAMPLES = 20
RANDOM_EXAMPLES = 40


def analyse(
    sae: SAE | str | Path,
    store: Store | str | Path,
    out: str | Path,
    *,
    host: Host | None = None,
    evaluation: Evaluation | None = None,
    rows: str = "held_out",
    seed: int = 0,
    force: bool = False,
) -> Analysis:
    """Analyse a dictionary and write the result to a folder.

    Args:
        sae: the dictionary, or its folder.
        store: the store, or its folder.
        out: folder for the analysis.
        host: with it, each feature's effect on the logits is computed too.
        evaluation: metrics to keep beside.
        rows: `held_out`, rows that training never saw, or `all`.
        seed: of the sample of firings and of the map.
        force: replace what is in `out`.

    Raises:
        ShapeError: the store's rows are not d_model long.
        StoreError: the store was shuffled.
        OutputExists: `out` is there already.
    """
    if not isinstance(sae, SAE):
        sae = load_sae(sae)
    opened = store if isinstance(store, Store) else open_store(store)
    if opened.is_shuffled:
        raise StoreError(
            f"the rows of {opened.folder} lie in random order, and examples need their contexts; "
            "analyse the store that it was shuffled from."
        )
    sites = sites_of(sae, opened)
    chosen = np.ones(opened.contexts, np.bool_) if rows == "all" else held_out(sae, opened)
    with whole_folder(out, force=force, marks=("analysis.json",)) as folder:
        with torch.no_grad():
            tally, cofiring, examples = _passes(sae, opened, sites, chosen, seed)
            features = _features(sae, tally, cofiring, host, sites, seed)
        inputs, place, numbers = kept_inputs(opened, examples.contexts())
        shown = examples.shown(sae, opened, sites, place, numbers)
        info = _info(sae, opened, sites, rows, tally.rows, int(chosen.sum()), evaluation)
        drawn = pixels_of(sae, opened, sites, chosen)
        analysis = Analysis(info, features, shown, inputs, drawn)
        save_analysis(analysis, folder)
    return analysis


class _Choice:
    """The firings chosen in the first pass, and what the second makes of them."""

    def __init__(self, sae: SAE, contexts: int, labels: NDArray[np.int64] | None) -> None:
        self.top = Best(sae.features, TOP_EXAMPLES)
        self.random = Best(sae.features, RANDOM_EXAMPLES)
        self._contexts, self._labels = contexts, labels

    def contexts(self) -> NDArray[np.bool_]:
        """Mark the contexts of the firings chosen, [contexts]."""
        mask = np.zeros(self._contexts, np.bool_)
        mask[self.top.result().context] = True
        mask[self.random.result().context] = True
        return mask

    def shown(
        self, sae: SAE, store: Store, sites: list[str], place: Any, numbers: NDArray[np.int64]
    ) -> Examples:
        """Return the examples with their surroundings; the second pass."""
        blocks = firings(sae, store, sites, self.contexts(), self._labels, what="examples")
        return with_surroundings(
            self.top.result(), self.random.result(), blocks, self._contexts, place, numbers
        )


def _passes(
    sae: SAE, store: Store, sites: list[str], chosen: NDArray[np.bool_], seed: int
) -> tuple[Tally, CoFiring, _Choice]:
    """Go once over the codes of the chosen contexts."""
    labels = None
    tokens = len(store.vocabulary())
    if store.kind == "image":
        labels = np.array([context.label for context in store.inputs()], np.int64)
        tokens = max(int(labels.max(initial=-1)) + 1, len(store.provenance.get("classes", [])))
    tally, cofiring = Tally(sae.features, tokens), CoFiring(sae.features)
    choice = _Choice(sae, store.contexts, labels)
    for block in firings(sae, store, sites, chosen, labels):
        tally.add(block)
        cofiring.add(block)
        choice.top.add(strongest_of_contexts(block))
        choice.random.add(lottery(block, seed))
    return tally, cofiring, choice


def _features(
    sae: SAE, tally: Tally, cofiring: CoFiring, host: Host | None, sites: list[str], seed: int
) -> Features:
    columns: dict[str, NDArray[Any]] = tally.columns()
    pairs = phi_of_pairs(cofiring)
    together = partners(pairs, sae.features)
    directions = sae.directions()
    close = nearest(directions)
    places = feature_map(directions, tally.count > 0, seed)
    effects = logit_effects(directions, _unembedding(host, sites))
    columns |= {
        "nearest_ids": close.ids,
        "nearest_cosines": close.cosines,
        "cofiring_ids": together.ids,
        "cofiring_phis": together.phis,
        "cofiring_counts": together.counts,
        "decoder_norm": directions.norm(dim=1).numpy(),
        "x": places.x,
        "y": places.y,
        "cluster": places.cluster,
        "module": modules(pairs, sae.features, seed),
        **effects._asdict(),
    }
    kinds = {
        "firings": np.int64,
        "density": np.float64,
        "histogram": np.int64,
        "cofiring_counts": np.int64,
    }
    whole = {"cluster", "module"} | {name for name in columns if name.endswith("ids")}
    for name, column in columns.items():
        kind = kinds.get(name, np.int32 if name in whole else np.float32)
        columns[name] = column.astype(kind, copy=False)
    return Features(**columns)


def _unembedding(host: Host | None, sites: list[str]) -> Tensor | None:
    """Return the host's unembedding where features write to its residual stream."""
    parts = ("resid", "embed", "attn_out", "mlp_out")
    on_stream = len(sites) == 1 and any(part in sites[0] for part in parts)
    return host.unembedding() if host is not None and on_stream else None


def _info(
    sae: SAE,
    store: Store,
    sites: list[str],
    which: str,
    rows: int,
    contexts: int,
    evaluation: Evaluation | None,
) -> Mapping[str, Any]:
    settings = sae.settings
    return finite(
        {
            "kind": store.kind,
            "site": " + ".join(sites),
            "host": store.provenance["host"],
            "dataset": store.provenance["dataset"],
            "store": {"rows": store.rows, "contexts": store.contexts},
            "sae": {
                "arch": settings.arch,
                "features": settings.features,
                "d_model": sae.d_model,
                "k": getattr(settings, "k", None),
                "trainer": sae.provenance.get("trainer"),
                "input_scale": float(sae.input_scale.float().mean()),
                "settings": asdict(settings),
            },
            "split": {**(sae.provenance.get("split") or {}), "which": which},
            "rows": rows,
            "contexts": contexts,
            "metrics": None if evaluation is None else evaluation.record(),
            "definitions": {} if evaluation is None else evaluation.definitions,
            "training": sae.log,
            "versions": versions(),
        }
    )
