"""How faithful a dictionary is, on inputs that training never saw.

Two views: the reconstruction of the rows, and what the host loses when the reconstruction takes
their place.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from probe_sae.errors import SettingsError, ShapeError
from probe_sae.host import Host, ReplaceRows, Site, SiteWatch, constant, edit, zero
from probe_sae.progress import progress, say
from probe_sae.recording import Batch, Recipe, RowGatherer, as_recorded, batches, load_dataset
from probe_sae.sae import DEFINITIONS, SAE, ReconstructionMeter, load_sae
from probe_sae.store import (
    SitesStream,
    Store,
    StoreStream,
    held_out_contexts,
    open_store,
    stream_of,
)
from probe_sae.training import warn_of_scale

LOSS_CONTEXTS = 200
"""Contexts on which the host's loss is measured; four runs of the host each."""
BATCH_ROWS = 4096
SAMPLE_ROWS = 4096
"""Rows whose scale is compared with the dictionary's."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one dictionary; `definitions` says what each is."""

    metrics: dict[str, Any]
    definitions: dict[str, str]


def evaluate(
    sae: SAE | str | Path,
    store: Store | str | Path,
    *,
    host: Host | None = None,
    dataset: Recipe | None = None,
) -> Evaluation:
    """Measure a dictionary on the held-out rows of a store.

    Args:
        sae: the dictionary, or its folder.
        store: the store, or its folder.
        host: with it, the host's loss is measured too.
        dataset: the recipe that the store was recorded from; found by its name, by default.

    Raises:
        ShapeError: the store's rows are not d_model long.
        SettingsError: the host or the recipe is not the one recorded.
    """
    if not isinstance(sae, SAE):
        sae = load_sae(sae)
    opened = store if isinstance(store, Store) else open_store(store)
    sites = sites_of(sae, opened)
    held = held_out(sae, opened)
    meter = reconstruction(sae, stream_of(opened, sites, 0, held))
    metrics: dict[str, Any] = {
        "rows_evaluated": meter.rows,
        "fraction_unexplained": meter.fraction_unexplained,
        "l0": meter.l0,
        "dead_fraction": meter.dead_fraction,
        "dense_fraction": meter.dense_fraction,
    }
    if not sae.settings.is_scaled:
        metrics |= _in_own_units(sae, stream_of(opened, sites, 0, held))
    if host is not None and len(sites) > 1:
        say("the host's loss is measured for dictionaries of one site; this one has several.")
    elif host is not None:
        recipe = dataset or load_dataset(opened.provenance["dataset"]["name"])
        losses = host_losses(sae, opened, sites[0], host, recipe, held)
        if losses is not None:
            metrics["loss"] = losses
            metrics["loss_recovered"] = loss_recovered(losses)
    return Evaluation(metrics, {n: d for n, d in DEFINITIONS.items() if n in metrics})


def sites_of(sae: SAE, store: Store) -> list[str]:
    """Return the sites of a store that a dictionary was trained on; else its only one.

    Raises:
        SiteNotFound: the store lacks one of them.
        ShapeError: rows are not as long as those that the dictionary takes.
    """
    sites = [store.site(name) for name in sae.provenance.get("sites") or [None]]
    widths = tuple(site.width for site in sites)
    if widths != sae.widths:
        raise ShapeError(
            f"{', '.join(site.name for site in sites)} has rows of "
            f"{' + '.join(map(str, widths))}; the dictionary takes "
            f"{' + '.join(map(str, sae.widths))}."
        )
    return [site.name for site in sites]


def held_out(sae: SAE, store: Store) -> NDArray[np.bool_]:
    """Mark the contexts of a store that the dictionary's training never saw, [contexts].

    All of them, where the dictionary was trained on another store.
    """
    known = sae.provenance.get("store") or {}
    split = sae.provenance.get("split")
    if not known:
        say("it is not known which rows this dictionary was trained on; all are measured here.")
    if split is None or known.get("recording") != store.recording:
        return np.ones(store.contexts, dtype=np.bool_)
    if not split["held_out"]:
        say("training held nothing out: it saw every row of this store that is measured now.")
        return np.ones(store.contexts, dtype=np.bool_)
    held = held_out_contexts(store.contexts, split["held_out"], split["seed"])
    if not held.any():
        held[-1:] = True
    return held


@torch.no_grad()
def reconstruction(sae: SAE, stream: StoreStream | SitesStream) -> ReconstructionMeter:
    """Return the metrics of the reconstruction of every row of a stream."""
    meter = ReconstructionMeter(sae.features, sae.settings.fires_above)
    warn_of_scale(sae, stream.sample(SAMPLE_ROWS))
    with progress("evaluate", stream.rows) as advance:
        for rows in stream.in_order(BATCH_ROWS):
            x, target = sae.split(rows)
            codes = sae.encode_sparse(x)
            meter.add(target, sae.reconstruct(x, codes), codes)
            advance(len(rows))
    return meter


@torch.no_grad()
def _in_own_units(sae: SAE, stream: StoreStream | SitesStream) -> dict[str, Any]:
    """Return what is usually said of dictionaries whose rows are not scaled."""
    errors: list[float] = []
    sums = torch.zeros(sae.features, dtype=torch.float64)
    for rows in stream.in_order(128):
        codes = sae.encode(rows)
        errors.append(float((sae.reconstruct(rows, codes) - rows).double().square().mean()))
        sums += codes.double().sum(0)
    return {
        "test_mse": sum(errors) / len(errors),
        "mean_activation": (sums / stream.rows).tolist(),
    }


def loss_recovered(losses: dict[str, float]) -> float:
    """Return (mean-ablated - spliced) / (mean-ablated - original); NaN if ablation costs nothing.

    Source: "CE loss recovered" of SAEBench, with mean- instead of zero-ablation.
    """
    span = losses["mean_ablated"] - losses["original"]
    return (losses["mean_ablated"] - losses["spliced"]) / span if span else float("nan")


@torch.no_grad()
def host_losses(
    sae: SAE, store: Store, site: str, host: Host, recipe: Recipe, held: NDArray[np.bool_]
) -> dict[str, float] | None:
    """Return the host's mean loss in nats: original, spliced, mean_ablated, zero_ablated.

    Over up to `LOSS_CONTEXTS` held-out contexts. None where the host has no loss on these inputs.

    Raises:
        SettingsError: host or recipe are not those that were recorded.
    """
    _check_same(store, host, recipe)
    settings = store.provenance["settings"]
    mean = store.statistics(site).mean
    changes: dict[str, Callable[[Tensor], Tensor] | None] = {
        "original": None,
        "spliced": sae,
        "mean_ablated": constant(mean if mean is not None else torch.zeros(sae.d_model)),
        "zero_ablated": zero,
    }
    (found,) = host.find_sites([site])
    host = host.only([found], store.kind)
    gatherer = RowGatherer(host, [found], settings["tokens"])
    sums, count, left = dict.fromkeys(changes, 0.0), 0, LOSS_CONTEXTS
    for batch in batches(host, recipe, **as_recorded(settings)):
        if left <= 0 or batch.contexts[0].index >= store.contexts:
            break
        chosen = _only(batch, held, left)
        if chosen is None:
            continue
        left -= len(chosen.contexts)
        keep = (
            chosen.keep if chosen.keep is not None else _image_rows(host, found, chosen, gatherer)
        )
        for name, change in changes.items():
            loss = _loss(host, found, chosen, keep, change)
            if loss is None:
                return None
            sums[name] += float(loss.sum())
        count += int(loss.numel())  # type: ignore[union-attr]
    return {name: total / count for name, total in sums.items()} if count else None


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


def _only(batch: Batch, held: NDArray[np.bool_], most: int) -> Batch | None:
    """Return the batch's held-out contexts, at most `most`; None where there are none."""
    places = [i for i, c in enumerate(batch.contexts) if c.index < len(held) and held[c.index]][
        :most
    ]
    if not places:
        return None
    return Batch(
        {name: tensor[places] for name, tensor in batch.inputs.items()},
        [batch.contexts[i] for i in places],
        None if batch.keep is None else batch.keep[places],
        None if batch.positions is None else batch.positions[places],
        batch.labels[places],
        None if batch.documents is None else batch.documents[places],
    )


def _image_rows(host: Host, site: Site, batch: Batch, gatherer: RowGatherer) -> Tensor:
    """Return which positions of the site are rows, [batch, positions], from one run."""
    gatherer.expect(batch)
    with SiteWatch(host, [site], gatherer.see, stop=False).attached():
        host(batch.inputs)
    return gatherer.image_rows()


def _loss(
    host: Host, site: Site, batch: Batch, keep: Tensor, change: Callable[[Tensor], Tensor] | None
) -> Tensor | None:
    """Return the loss of each target in nats, [targets], with the site's rows changed."""
    if change is None:
        output = host(batch.inputs)
    else:
        with edit(host, site.name, ReplaceRows(keep.to(host.device), change)):
            output = host(batch.inputs)
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        return None
    if batch.keep is not None:
        wanted = batch.keep[:, 1:].to(logits.device)
        return cross_entropy(
            logits[:, :-1][wanted].float(),
            batch.inputs["input_ids"][:, 1:][wanted],
            reduction="none",
        )
    labels = batch.labels.to(logits.device)
    if logits.ndim != 2 or bool((labels < 0).any()) or int(labels.max()) >= logits.shape[1]:
        return None
    return cross_entropy(logits.float(), labels, reduction="none")


def finite(value: Any) -> Any:
    """Return `value` with every NaN and infinity as None, as JSON has neither."""
    if isinstance(value, dict):
        return {name: finite(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
