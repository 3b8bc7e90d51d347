"""Analyse a dictionary on a store: its rows are encoded once, and everything comes from the codes.

A pass over the codes finds densities, the strongest firings, a sample, co-firing; a second fetches
what each feature did around the firings chosen. Memory grows with features, not with rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from probe_sae.analysis.codes import Codes, open_codes
from probe_sae.analysis.columns import columns_of
from probe_sae.analysis.contexts import ImageInputs, TextInputs
from probe_sae.analysis.counting import Counted, count
from probe_sae.analysis.encoding import write_codes
from probe_sae.analysis.examples import (
    choose,
    sampled_firings,
    with_surroundings,
)
from probe_sae.analysis.inputs import kept_inputs
from probe_sae.analysis.labels import BackgroundRows, Labels, SampledFirings, label_features
from probe_sae.analysis.loss_effects import LossMeter
from probe_sae.analysis.modules import Modules
from probe_sae.analysis.neurons import sampled_contexts
from probe_sae.analysis.pixels import pixels_of
from probe_sae.analysis.result import Analysis
from probe_sae.analysis.sampled import SAMPLE_ROWS, SampledRows, sampled_rows
from probe_sae.analysis.saved import load_analysis, save_analysis
from probe_sae.analysis.source import Source, source_of
from probe_sae.errors import SettingsError
from probe_sae.evaluation import Evaluation, finite
from probe_sae.host import Host, host_of, versions
from probe_sae.outputs import whole_folder
from probe_sae.recording import Recipe
from probe_sae.sae import SAE
from probe_sae.store import Store


def analyse(
    sae: SAE | str | Path | Sequence[SAE | str | Path],
    store: Store | str | Path,
    out: str | Path,
    *,
    host: Host | Any = None,
    dataset: Recipe | str | Path | None = None,
    evaluation: Evaluation | None = None,
    codes: Codes | str | Path | None = None,
    neurons: Sequence[str] | None = None,
    rows: str = "held_out",
    loss_examples: int = 0,
    seed: int = 0,
    device: str | None = None,
    resume: bool = False,
    force: bool = False,
) -> Analysis:
    """Analyse a dictionary, or several of sites recorded together, and write it to a folder.

    Several dictionaries are one to the analysis: their features are numbered one after the other,
    and modules and partners span the sites.

    Args:
        sae: the dictionary, or its folder; or several.
        store: the store, or its folder.
        out: folder for the analysis.
        host: with it, or what `load_host` takes, each feature's effect on the logits is computed.
        dataset: what the store was recorded from, as `capture` takes it, for `loss_examples`; by
            default the recipe of that name, if it comes with the package.
        evaluation: metrics to keep beside.
        codes: what `encode` made of the same; made on the way and dropped, by default.
        neurons: sites of the store whose dimensions are correlated with features; those that were
            encoded, by default.
        rows: `held_out`, rows that training never saw, or `all`.
        loss_examples: of how many of each feature's strongest examples the effect on the host's
            loss is measured: a run of the host for each.
        seed: of the sample of firings and of the map.
        device: where to encode; a GPU where there is one.
        resume: continue unfinished work: nothing is encoded or measured on the host again.
        force: replace what is in `out`.

    Raises:
        HostNotFound: there is no host of that name.
        ShapeError: the store's rows are not d_model long.
        StoreError: the store was shuffled.
        SettingsError: the codes are of something else, or host or dataset are not those that were
            recorded.
        OutputExists: `out` is there already.
    """
    source = source_of(sae, store, rows)
    if resume and Path(out).exists():
        finished = load_analysis(out)
        asked = {"seed": seed, "loss_examples": loss_examples}
        others = [name for name, now in asked.items() if finished.info.get(name, now) != now]
        source.check_finished(out, finished.info.get("made_of", source.same()), others)
        return finished
    neurons = [neurons] if isinstance(neurons, str) else neurons
    looked_at = source.store.find_sites(neurons or ()) or _own_sites(source)
    host = None if host is None else host_of(host, by_name=True)
    losses = LossMeter(source, host, dataset, loss_examples)
    given = None if codes is None else _checked(codes, source)
    how: dict[str, Any] = {
        "keep": "*/part-*",
        "marks": ("analysis.json",),
        "drop": ("codes", "losses"),
    }
    with whole_folder(out, force=force, resume=resume, **how) as folder:
        encoded = given or _encoded(source, folder / "codes", device)
        counted = _counted(source, encoded, seed)
        beside = _Beside(host, losses, folder / "losses", evaluation, looked_at)
        analysis = _analysis(source, encoded, counted, beside, seed)
        save_analysis(analysis, folder)
    return analysis


class _Beside(NamedTuple):
    """What an analysis has beside the codes."""

    host: Host | None
    losses: LossMeter
    kept_losses: Path
    """Folder for what it has measured, until the analysis is whole."""
    evaluation: Evaluation | None
    neurons: list[str]
    """Sites whose dimensions are correlated with features."""


def _checked(codes: Codes | str | Path, source: Source) -> Codes:
    opened = codes if isinstance(codes, Codes) else open_codes(codes)
    if wrong := source.differing(opened.info):
        raise SettingsError(
            f"{opened.folder} has codes of something else: {', '.join(wrong)} differ. Encode the "
            "same, or leave the codes out; unfinished work is dropped with --force."
        )
    return opened


def _encoded(source: Source, folder: Path, device: str | None) -> Codes:
    if not (folder / "codes.json").exists():
        folder.mkdir(exist_ok=True)
        write_codes(source, folder, device)
    return _checked(folder, source)


def _counted(source: Source, codes: Codes, seed: int) -> Counted:
    store = source.store
    if store.kind == "image":
        labels = [context.label for context in store.inputs()]
        tokens = max([-1, *labels]) + 1
        height, width = store.provenance.get("grid", (1, 1))
        classes = len(store.provenance.get("classes", []))
        return count(codes, max(tokens, classes), (int(height), int(width)), seed)
    return count(codes, len(store.vocabulary()), None, seed)


def _own_sites(source: Source) -> list[str]:
    return list(dict.fromkeys(site for sites in source.sites for site in sites))


@torch.no_grad()
def _analysis(
    source: Source,
    codes: Codes,
    counted: Counted,
    beside: _Beside,
    seed: int,
) -> Analysis:
    chosen = choose(counted.tally.strongest(), counted.tally.sample(), codes)
    sample = sampled_contexts(source.contexts, codes.rows, SAMPLE_ROWS, seed)
    drawn = sampled_firings(counted.tally.sample(), codes)
    shown = sample.copy()
    shown[chosen.context] = shown[drawn.context] = True
    inputs, place, numbers = kept_inputs(source.store, shown)
    losses = beside.losses.of(chosen, codes, beside.kept_losses)
    examples = with_surroundings(chosen, codes, place, numbers, losses)
    made = columns_of(source, codes, counted, beside.host, beside.neurons, seed)
    info = _info(source, codes, counted, beside.evaluation, made.modules)
    info |= {"seed": seed, "loss_examples": beside.losses.count, "made_of": source.same()}
    info |= {"neurons": {"sites": beside.neurons, "rows": made.neuron_rows}}
    info["structure"] |= made.structure
    single = len(source.saes) == 1
    rows = sampled_rows(codes, sample, place, numbers, seed)
    firings = SampledFirings(
        drawn.feature, numbers[drawn.context], place(drawn.context, drawn.pos), drawn.value
    )
    pixels = (
        pixels_of(source.saes[0], source.store, list(source.sites[0]), source.contexts)
        if single
        else None
    )
    return Analysis(
        finite(info),
        made.features,
        examples,
        inputs,
        made.pairs,
        rows,
        firings,
        _labels(firings, rows, inputs, made.features.density, seed),
        made.tree,
        pixels,
        _unit_directions(source.saes),
    )


def _unit_directions(saes: Sequence[SAE]) -> NDArray[np.float16] | None:
    """Return all directions as unit vectors, [features, d]; None where widths differ."""
    every = [sae.directions() for sae in saes]
    if len({some.shape[1] for some in every}) > 1:
        return None
    return torch.nn.functional.normalize(torch.cat(every).float(), dim=1).half().cpu().numpy()


def _labels(
    firings: SampledFirings,
    rows: SampledRows,
    inputs: TextInputs | ImageInputs,
    density: NDArray[np.float64],
    seed: int,
) -> Labels:
    whole = (rows.context, rows.position, rows.offsets, rows.feature)
    background = BackgroundRows(*(column.astype(np.int64) for column in whole))
    return label_features(firings, background, inputs, density, seed=seed)


def _info(
    source: Source,
    codes: Codes,
    counted: Counted,
    evaluation: Evaluation | None,
    modules: Modules,
) -> dict[str, Any]:
    store, sae = source.store, source.saes[0]
    return {
        "kind": store.kind,
        "site": " + ".join(_own_sites(source)),
        "host": store.provenance.get("host", {}),
        "dataset": store.provenance.get("dataset", {}),
        "store": {"rows": store.rows, "contexts": store.contexts},
        "sae": _described(sae, source.features),
        "parts": [
            {"site": " + ".join(sites), "first": first, **_described(one, one.features)}
            for one, sites, first in zip(source.saes, source.sites, source.firsts, strict=True)
        ],
        "split": {**(sae.provenance.get("split") or {}), "which": source.which},
        "rows": codes.rows,
        "contexts": int(source.contexts.sum()),
        "metrics": None if evaluation is None else evaluation.record(),
        "definitions": {} if evaluation is None else evaluation.definitions,
        "training": sae.log,
        "versions": versions(),
        "modules": modules.table(),
        "structure": modules.summary,
        "places": counted.tally.row_places.tolist(),
        "cofiring": {
            "is_exact": counted.cofiring.is_exact,
            "undercount": counted.cofiring.undercount,
        },
    }


def _described(sae: SAE, features: int) -> Mapping[str, Any]:
    settings = sae.settings
    return {
        "arch": settings.arch,
        "features": features,
        "d_model": sae.d_model,
        "k": getattr(settings, "k", None),
        "trainer": sae.provenance.get("trainer"),
        "input_scale": float(sae.input_scale.float().mean()),
        "settings": asdict(settings),
    }
