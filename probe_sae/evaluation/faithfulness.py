"""How faithful a dictionary is, on inputs that training never saw.

Two views: the reconstruction of the rows, and what the host loses when the reconstruction takes
their place. Each metric has an interval and stands beside baselines.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.evaluation.baselines import (
    SAMPLE_ROWS,
    Baseline,
    Codec,
    Constant,
    baselines_of,
    beside_of,
)
from probe_sae.evaluation.definitions import defined
from probe_sae.evaluation.formulas import Figures, densities, figures, nested, plain
from probe_sae.evaluation.held_rows import compare_hosts, held_out, mean_of, rows_of, sites_of
from probe_sae.evaluation.host_loss import LOSS_CONTEXTS, HostSums, host_figures, host_sums
from probe_sae.evaluation.intervals import Interval, intervals_of, resamples_of, row_intervals
from probe_sae.evaluation.recorded_inputs import recorded_recipe
from probe_sae.evaluation.row_sums import RowSums, blocks_of, fitting_blocks
from probe_sae.host import Host, host_of
from probe_sae.interop import as_sae
from probe_sae.progress import say
from probe_sae.recording import Recipe
from probe_sae.sae import SAE
from probe_sae.shown import Fact, Shown, as_text, flat
from probe_sae.store import Store, as_store, stream_of
from probe_sae.training import warn_of_scale

BASELINE_ROWS = 65_536
"""Held-out rows on which baselines are measured."""
_KEPT_VALUES = 1 << 26
"""Values of these rows that are kept in memory: 256 MiB."""


@dataclass(frozen=True, repr=False)
class Evaluation(Shown):
    """Metrics of one dictionary; `definitions` says what each is."""

    metrics: dict[str, Any]
    definitions: dict[str, str]
    intervals: dict[str, Interval] = field(default_factory=dict[str, Interval])
    """Name of a metric, nested ones as `outer.inner` -> where it lies, 95 %."""
    baselines: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    """Name of a baseline -> its metrics, those that are one number."""

    def _facts(self) -> list[Fact]:
        """Return each metric with its interval, what baselines have of it, and its definition."""
        found: list[Fact] = []
        for name, value in flat(self.metrics).items():
            text = as_text(value)
            if name in self.intervals:
                text += " ({} to {})".format(*map(as_text, self.intervals[name]))
            beside = self.baselines.items() if isinstance(value, float) else ()
            others = [(who, had[name]) for who, had in beside if name in had]
            text += "; " * bool(others) + ", ".join(f"{who} {as_text(had)}" for who, had in others)
            found.append(Fact(name, text, self.definitions.get(name, "")))
        return found

    def record(self) -> dict[str, Any]:
        """Return the metrics with intervals and baselines among them, as files hold them."""
        kept: dict[str, Any] = {
            "intervals": {name: list(interval) for name, interval in self.intervals.items()},
            "baselines": self.baselines,
        }
        return self.metrics | {name: value for name, value in kept.items() if value}


def evaluate(
    sae: SAE | str | Path,
    store: Store | str | Path,
    host: Host | Any = None,
    dataset: Recipe | str | Path | None = None,
    *,
    baselines: bool = True,
    beside: Mapping[str, SAE] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    contexts: int = LOSS_CONTEXTS,
) -> Evaluation:
    """Measure a dictionary on the held-out rows of a store, in one pass and in float64.

    Args:
        sae: the dictionary, or its folder.
        store: the store, or its folder.
        host: with it, or what `load_host` takes, the host's loss is measured too.
        dataset: what the store was recorded from, as `capture` takes it; by default the recipe of
            that name, if it comes with the package.
        baselines: measure these as well: the mean, principal components, an untrained dictionary,
            random directions.
        beside: other dictionaries of the same rows to measure like a baseline, by name.
        resamples: of contexts, for the intervals; 0 for none.
        seed: of resamples and baselines.
        contexts: held-out texts or images on which the host's loss is measured, at most.

    Raises:
        HostNotFound: there is no host of that name.
        ShapeError: the store's rows are not d_model long.
        SettingsError: the host or the recipe is not the one recorded, or a number makes no sense.
    """
    sae, opened = as_sae(sae), as_store(store)
    host = None if host is None else host_of(host, by_name=True)
    sites = sites_of(sae, opened)
    compare_hosts(sae, opened)
    held = held_out(sae, opened)
    ground = _Ground(opened, sites, held, mean_of(opened, sites), seed)
    warn_of_scale(sae, stream_of(opened, sites, 0, held).sample(SAMPLE_ROWS))
    with torch.no_grad():
        sums, kept = _gathered(sae, ground, few=baselines or bool(beside))
        found = _numbers(sums)
        metrics: dict[str, Any] = {"rows_evaluated": sums.rows} | nested(found)
        intervals = row_intervals(sums, resamples, seed) if resamples else {}
        if not sae.settings.is_scaled:
            metrics |= _in_own_units(sae, ground)
        others = _others(sae, ground, metrics["l0"], baselines, beside)
        measured = {name: _of_baseline(other, kept, ground, sae) for name, other in others.items()}
        in_host = _in_host(sae, ground, host, dataset, others, contexts)
    if in_host is not None:
        of_host = host_figures(in_host, "spliced")
        metrics |= nested(of_host) | {"host_positions": _positions(in_host)}
        intervals |= _host_intervals(in_host, resamples, seed)
        for name in measured:
            change = "mean_ablated" if name == "mean" else name
            if change in in_host.of:
                measured[name] |= plain(host_figures(in_host, change))
    result = Evaluation(metrics, {}, intervals, measured)
    return Evaluation(metrics, defined(result.record()), intervals, measured)


class _Ground(NamedTuple):
    """The rows to measure on."""

    store: Store
    sites: list[str]
    held: NDArray[np.bool_]
    mean: Tensor
    """Of all rows of the store, [sum of widths] float64."""
    seed: int

    def centre(self, codec: SAE | Codec) -> Tensor:
        """Return the mean of what is to be reconstructed, [d_out]."""
        return codec.split(self.mean[None])[1][0]


class _Kept(NamedTuple):
    """Rows kept from the pass, for baselines."""

    rows: list[Tensor]
    """Each [rows, sum of widths]."""


def _gathered(sae: SAE, ground: _Ground, *, few: bool) -> tuple[RowSums, _Kept]:
    """Return the sums over all held-out rows, and some of these rows."""
    blocks = blocks_of(ground.held, ground.seed, fitting_blocks(sae.features))
    sums = RowSums(sae.features, ground.centre(sae), blocks.count)
    most = min(BASELINE_ROWS, _KEPT_VALUES // len(ground.mean)) if few else 0
    wanted = _draw(ground, most)
    kept: list[Tensor] = []
    for rows, context in rows_of(ground.store, ground.sites, ground.held):
        block = torch.from_numpy(blocks.of_context[context])
        _take_in(sums, sae, rows, block)
        if most and wanted[context].any():
            kept.append(rows[torch.from_numpy(wanted[context])])
    return sums, _Kept(kept)


def _draw(ground: _Ground, rows: int) -> NDArray[np.bool_]:
    """Mark held-out contexts drawn at random that hold about so many rows, [contexts]."""
    measured = np.flatnonzero(ground.held)
    share = rows * len(ground.held) / max(1, ground.store.rows * len(measured))
    count = min(len(measured), math.ceil(share * len(measured)))
    drawn = np.random.default_rng([ground.seed, 3]).permutation(measured)[:count]
    marks = np.zeros(len(ground.held), dtype=np.bool_)
    marks[drawn] = True
    return marks


def _take_in(sums: RowSums, codec: SAE | Codec, rows: Tensor, block: Tensor | None = None) -> None:
    x, target = codec.split(rows)
    codes = codec.encode_sparse(x)
    fires = codec.fires(codes.values)
    sums.add(target, codec.reconstruct(x, codes), codes, fires=fires, block=block)


def _numbers(sums: RowSums) -> Figures:
    """Return every metric of sums over rows."""
    found = figures(sums.totals())
    if sums.fired.shape[1]:
        found |= densities(sums.fired.sum(0).numpy(), sums.rows)
    return found


def _others(
    sae: SAE, ground: _Ground, l0: float, baselines: bool, beside: Mapping[str, SAE] | None
) -> dict[str, Baseline]:
    """Return what the dictionary is measured beside."""
    found: dict[str, Baseline] = {}
    if baselines:
        if ground.held.all():
            say("baselines are fitted on the rows measured: none is known to be trained on.")
        seen = ~ground.held if not ground.held.all() else ground.held
        stream = stream_of(ground.store, ground.sites, ground.seed, seen)
        found["mean"] = Baseline(Constant(sae, ground.centre(sae)), runs_in_host=False)
        found |= baselines_of(sae, stream, ground.mean, l0, ground.seed)
    return found | beside_of(sae, beside, set(found))


def _of_baseline(other: Baseline, kept: _Kept, ground: _Ground, sae: SAE) -> dict[str, float]:
    """Return the metrics of a baseline on some of the rows."""
    sums = RowSums(other.codec.features, ground.centre(sae))
    left = other.most_rows
    total = sum(map(len, kept.rows))
    # Rows at even steps over all that were kept: the first of them would be of few contexts.
    step = max(1, -(-total // left))
    for rows in kept.rows:
        if len(some := rows[::step]):
            _take_in(sums, other.codec, some)
    return {"rows_evaluated": sums.rows} | plain(_numbers(sums))


def _in_host(
    sae: SAE,
    ground: _Ground,
    host: Host | None,
    dataset: Recipe | str | Path | None,
    others: Mapping[str, Baseline],
    contexts: int,
) -> HostSums | None:
    if host is None:
        return None
    if len(ground.sites) > 1:
        say("the host's loss is measured for dictionaries of one site; this one has several.")
        return None
    recipe = recorded_recipe(ground.store, dataset)
    changes = {name: other for name, other in others.items() if other.runs_in_host}
    return host_sums(
        Baseline(sae),
        ground.store,
        ground.sites[0],
        host,
        recipe,
        ground.held,
        baselines=changes,
        contexts=contexts,
    )


def _host_intervals(sums: HostSums, resamples: int, seed: int) -> dict[str, Interval]:
    count = len(sums.targets)
    if not resamples or count < 2:
        return {}
    return intervals_of(host_figures(sums, "spliced", resamples_of(count, resamples, seed)))


def _positions(sums: HostSums) -> dict[str, int]:
    return {
        "contexts": len(sums.targets),
        "replaced": sums.replaced,
        "untouched": sums.untouched,
        "scored": int(sums.targets.sum()),
    }


def _in_own_units(sae: SAE, ground: _Ground) -> dict[str, Any]:
    """Return what is usually said of dictionaries whose rows are not scaled."""
    errors: list[float] = []
    sums = torch.zeros(sae.features, dtype=torch.float64)
    stream = stream_of(ground.store, ground.sites, 0, ground.held)
    for rows in stream.in_order(128):
        codes = sae.encode(rows)
        errors.append(float((sae.reconstruct(rows, codes) - rows).double().square().mean()))
        sums += codes.double().sum(0)
    return {
        "test_mse": sum(errors) / len(errors),
        "mean_activation": (sums / stream.rows).tolist(),
    }


def finite(value: Any) -> Any:
    """Return `value` with every NaN and infinity as None, as JSON has neither."""
    if isinstance(value, dict):
        return {name: finite(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
