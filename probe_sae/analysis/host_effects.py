"""What a feature does to a host's output: taken out where it fires, or added everywhere.

Any change of a row moves the output somewhat. Beside each feature stands a control: another feature
that fires as often, or a random direction that moves the rows as far.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probe_sae.analysis.code_matrix import code_matrix
from probe_sae.analysis.effect_results import Effects, HostEffect, effect_of
from probe_sae.analysis.host_runs import Runs, batches_of, inputs_of, sites_for
from probe_sae.analysis.output_changes import Changes, outputs_of
from probe_sae.errors import SettingsError
from probe_sae.host import Ablate, Clamp, Host, ReplaceRows, Steer, edit, host_of
from probe_sae.interop import as_sae
from probe_sae.progress import progress
from probe_sae.recording import Batch, Recipe
from probe_sae.sae import SAE

CONTROLS = ("feature", "direction", "none")
MODES = ("add", "clamp")
Change = Callable[[Tensor], Tensor]
"""Rows, [rows, width] -> what they become."""


def ablation_effects(
    host: Host | Any,
    sae: SAE | str,
    features: int | Iterable[int],
    inputs: Any,
    site: str | None = None,
    *,
    control: str = "feature",
    top: int = 5,
    contexts: int = 32,
    tokens: str = "patch",
    batch_size: int = 8,
    seed: int = 0,
) -> Effects:
    """Return what becomes of the output where features are taken out of the rows they fire on.

    Only recorded rows are changed: no special tokens, no padding. Costs a run of the host for each
    batch, feature and control that fires in it.

    Args:
        host: a model that gives logits: a language model, or a classifier; or what `load_host`
            takes.
        sae: the dictionary, or its folder.
        features: which.
        inputs: texts, images, tensors, `Varied`, or a recipe (which knows the classes of images).
        site: where; the dictionary's own by default.
        control: `feature`, another one whose number of firings here is nearest; `direction`, a
            random one by which the same rows move as far; or `none`.
        top: outputs to name that become likelier, and less likely.
        contexts: how many of a recipe.
        tokens: which positions of an image count: `patch`, `cls` or `all`.
        batch_size: inputs that the host runs on at a time.
        seed: of the controls.

    Raises:
        SettingsError: a setting is out of range, or the dictionary reads another site than it
            writes.
        HostNotFound: there is no host of that name.
        SiteNotFound: the host has no such site.
        ShapeError: the site's rows are not what the dictionary takes, or there are no logits.
    """
    if control not in CONTROLS:
        raise SettingsError(f"control is {control!r}; expected {', '.join(CONTROLS)}.")
    host = host_of(host, by_name=True)
    bench = _Bench(host, sae, features, inputs, site, contexts, tokens, batch_size)
    trials = [_Trial(f, 0.0, Ablate(bench.sae, f), only_firing=f) for f in bench.features]
    controls: list[_Trial | None] = [None] * len(trials)
    if control == "feature":
        others = bench.as_frequent(seed)
        controls = [
            None if f is None else _Trial(f, 0.0, Ablate(bench.sae, f), only_firing=f)
            for f in others
        ]
    elif control == "direction":
        controls = [bench.random_direction(trial, seed) for trial in trials]
    return Effects("ablate", bench.site, tuple(bench.tried(trials, controls, top)))


def steering_effects(
    host: Host | Any,
    sae: SAE | str,
    features: int | Iterable[int],
    inputs: Any,
    site: str | None = None,
    *,
    scales: Sequence[float] = (2.0, 5.0, 10.0),
    mode: str = "add",
    control: str = "direction",
    top: int = 5,
    contexts: int = 32,
    tokens: str = "patch",
    batch_size: int = 8,
    seed: int = 0,
) -> Effects:
    """Return what becomes of the output where features are added to every recorded row.

    Args:
        host: a model that gives logits: a language model, or a classifier; or what `load_host`
            takes.
        sae: the dictionary, or its folder.
        features: which.
        inputs: texts, images, tensors, `Varied`, or a recipe (which knows the classes of images).
        site: where; the dictionary's own by default.
        scales: units of activation, each tried.
        mode: `add` them to what a row has, or `clamp`: have the activation be that much.
        control: `direction`, a random one by which the same rows move as far; or `none`.
        top: outputs to name that become likelier, and less likely.
        contexts: how many of a recipe.
        tokens: which positions of an image count: `patch`, `cls` or `all`.
        batch_size: inputs that the host runs on at a time.
        seed: of the controls.

    Raises:
        SettingsError: a setting is out of range, or the dictionary reads another site than it
            writes.
        HostNotFound: there is no host of that name.
        SiteNotFound: the host has no such site.
        ShapeError: the site's rows are not what the dictionary takes, or there are no logits.
    """
    if mode not in MODES or control not in CONTROLS[1:]:
        raise SettingsError(
            f"mode is {mode!r} and control {control!r}; expected {' or '.join(MODES)}, and "
            f"{' or '.join(CONTROLS[1:])}."
        )
    if not scales or not all(np.isfinite(scale) for scale in scales):
        raise SettingsError(f"scales are {tuple(scales)}; expected finite numbers.")
    host = host_of(host, by_name=True)
    bench = _Bench(host, sae, features, inputs, site, contexts, tokens, batch_size)
    kind = Steer if mode == "add" else Clamp
    trials = [
        _Trial(f, float(scale), kind(bench.sae, f, float(scale)))
        for f in bench.features
        for scale in scales
    ]
    controls: list[_Trial | None] = [None] * len(trials)
    if control == "direction":
        controls = [bench.random_direction(trial, seed) for trial in trials]
    return Effects(mode, bench.site, tuple(bench.tried(trials, controls, top)))


@dataclass(frozen=True)
class _Trial:
    """One edit."""

    feature: int
    """-1 for a random direction."""
    scale: float
    change: Change
    only_firing: int | None = None
    """Edit only rows on which this feature fires; all by default."""


class _Bench:
    """A host, a dictionary and inputs, and which feature fires where on them."""

    def __init__(
        self,
        host: Host,
        sae: SAE | str,
        features: int | Iterable[int],
        inputs: Any,
        site: str | None,
        contexts: int,
        tokens: str,
        batch_size: int,
    ) -> None:
        """Run the host once over the inputs."""
        self.sae = as_sae(sae)
        if not self.sae.is_autoencoder or len(self.sae.widths) > 1:
            raise SettingsError(
                "this dictionary does not write where it reads; effects need one of one site."
            )
        self.features = _checked(features, self.sae.features)
        sites = sites_for(host, self.sae, site)
        self.site, self._batches = sites[0].name, list[Batch]()
        kind = inputs.kind if isinstance(inputs, Recipe) else inputs_of(host, inputs).kind
        runs = Runs(host, sites, kind, tokens)
        self.host = runs.host
        self._keep: list[Tensor] = []
        self._codes: list[Any] = []
        for batch in batches_of(host, inputs, batch_size=batch_size, contexts=contexts):
            rows = runs.rows(batch)
            self._batches.append(batch)
            self._keep.append(batch.keep if batch.keep is not None else runs.gatherer.image_rows())
            self._codes.append(code_matrix(self.sae, runs.encoded(self.sae, rows)).tocsc())

    def tried(
        self, trials: list[_Trial], controls: list[_Trial | None], top: int
    ) -> list[HostEffect]:
        """Return the effect of each trial with that of its control."""
        both = [*trials, *(one for one in controls if one is not None)]
        changes = [Changes() for _ in both]
        with progress("effects", len(self._batches) * len(both)) as advance:
            for number, batch in enumerate(self._batches):
                original = outputs_of(self.host, batch, self._keep[number])
                for trial, into in zip(both, changes, strict=True):
                    where = self._rows(number, trial)
                    if bool(where.any()):
                        with edit(self.host, self.site, _at(where, trial.change, self.host)):
                            edited = outputs_of(self.host, batch, self._keep[number])
                        into.add(original, edited, where.to(original.at.device))
                    advance(1)
        found = [
            effect_of(self.host, trial.feature, trial.scale, into, top)
            for trial, into in zip(both, changes, strict=True)
        ]
        beside = iter(found[len(trials) :])
        return [
            effect if one is None else replace(effect, control=next(beside))
            for effect, one in zip(found, controls, strict=False)
        ]

    def as_frequent(self, seed: int) -> list[int | None]:
        """Return for each feature another whose number of firings here is nearest."""
        counts = np.sum([np.diff(codes.indptr) for codes in self._codes], 0)
        generator = np.random.default_rng([seed, 13])
        free = generator.permutation(np.setdiff1d(np.flatnonzero(counts), self.features))
        chosen: list[int | None] = []
        for feature in self.features:
            if not len(free) or not counts[feature]:
                chosen.append(None)
                continue
            place = int(np.abs(counts[free] - counts[feature]).argmin())
            chosen.append(int(free[place]))
            free = np.delete(free, place)
        return chosen

    def random_direction(self, trial: _Trial, seed: int) -> _Trial:
        """Return the trial that moves the same rows as far, in a direction drawn at random."""
        generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + trial.feature)
        drawn = torch.randn(self.sae.d_model, generator=generator)
        return replace(trial, feature=-1, change=_Elsewhere(trial.change, drawn / drawn.norm()))

    def _rows(self, number: int, trial: _Trial) -> Tensor:
        """Return which rows of a batch a trial edits, [batch, positions] bool."""
        keep = self._keep[number].cpu()
        if trial.only_firing is None:
            return keep
        codes = self._codes[number]
        part = slice(*codes.indptr[trial.only_firing : trial.only_firing + 2])
        fires = torch.zeros(codes.shape[0], dtype=torch.bool)
        fires[torch.from_numpy(codes.indices[part].astype(np.int64))] = True
        where = torch.zeros_like(keep)
        where[keep] = fires
        return where


@dataclass(frozen=True)
class _Elsewhere:
    """Move rows as far as a change does, in one direction of length 1."""

    change: Change
    direction: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        length = (self.change(rows) - rows).norm(dim=-1, keepdim=True)
        return rows + length * self.direction.to(rows)


def _at(where: Tensor, change: Change, host: Host) -> ReplaceRows:
    return ReplaceRows(where.to(host.device), change)


def _checked(features: int | Iterable[int], count: int) -> tuple[int, ...]:
    given: Iterable[Any] = [features] if isinstance(features, (int, np.integer)) else features
    wanted = tuple(dict.fromkeys(int(feature) for feature in given))
    for feature in wanted:
        if not 0 <= feature < count:
            raise SettingsError(f"no feature {feature}; the dictionary has 0 to {count - 1}.")
    if not wanted:
        raise SettingsError("no feature was named.")
    return wanted
