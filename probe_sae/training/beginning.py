"""What a training is called by: `train` and `train_several`, with outputs that can be resumed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from probe_sae.devices import device_for
from probe_sae.errors import SettingsError
from probe_sae.outputs import whole_folder
from probe_sae.progress import say
from probe_sae.sae import SAE, BatchTopK, Settings, load_sae, save_sae
from probe_sae.store import SitesStream, StoreStream, Stream, TensorStream, open_store
from probe_sae.training import progress_file
from probe_sae.training.loop import Training
from probe_sae.training.runs import Run, named
from probe_sae.training.settings import TrainSettings
from probe_sae.training.sources import Data, check_given, sources
from probe_sae.training.tracking import Track, openers_for, told_of, tracked


def train(
    data: Data | str | Path,
    settings: Settings | None = None,
    trainer: TrainSettings | None = None,
    *,
    site: str | Sequence[str] | None = None,
    out: str | Path | None = None,
    device: str | torch.device | None = None,
    resume: bool = False,
    force: bool = False,
    track: Track | Sequence[Track] = (),
) -> SAE:
    """Learn a dictionary and return it; with `out`, write it there as well.

    A run with `out` can be interrupted or killed, and resumed: on a CPU, the result is the same to
    the bit.

    Args:
        data: a store or its path, a stream of batches, a tensor [rows, d_model], or a tuple of
            tensors, one for each site of a transcoder or crosscoder.
        settings: architecture and size; BatchTopK by default.
        trainer: length of the run, learning rate, seed.
        site: which site of a store that has several; for architectures that take several, a list.
        out: folder for the dictionary.
        device: a GPU where there is one, by default.
        resume: continue what was begun in `out`; with a finished dictionary, do nothing.
        force: replace what is in `out`.
        track: where numbers go while it runs: `tensorboard`, `wandb`, `mlflow`, or a function that
            is called with (run, line) for each line of the log; several as a list. One that fails
            is left alone, and the training goes on.

    Raises:
        SettingsError: a setting is out of range, no rows are left to train on, rows are not finite,
            the training to continue is another one, or a tracker cannot begin.
        SiteNotFound: the store has no such site.
        OutputExists: `out` is there already.
    """
    trainer, settings = trainer or TrainSettings(), settings or BatchTopK()
    check_given(data, [settings], trainer)
    runs = [Run(settings, trainer.seed)]
    how: dict[str, Any] = {"resume": resume, "force": force, "track": track}
    (sae,) = _train(data, runs, trainer, site, out, device, **how)
    return sae


def train_several(
    data: Data | str | Path,
    settings: Sequence[Settings],
    trainer: TrainSettings | None = None,
    *,
    seeds: Sequence[int] | None = None,
    site: str | Sequence[str] | None = None,
    out: str | Path | None = None,
    device: str | torch.device | None = None,
    resume: bool = False,
    force: bool = False,
    track: Track | Sequence[Track] = (),
) -> dict[str, SAE]:
    """Learn several dictionaries from one stream of batches; return them by name.

    Rows are read once for all; each dictionary is the one that `train` would have returned with the
    same order of rows. With `out`, each is written to `out/NAME`.

    Args:
        data: see `train`.
        settings: one for each dictionary.
        trainer: common to all; its seed is that of the order of rows and of the split.
        seeds: of the weights; every settings is trained with each. The trainer's by default.
        site: see `train`.
        out: folder for the dictionaries.
        device: see `train`.
        resume: see `train`.
        force: see `train`.
        track: see `train`; each dictionary is a run of its own.

    Raises:
        SettingsError: see `train`; or two dictionaries are the same.
    """
    trainer = trainer or TrainSettings()
    check_given(data, settings, trainer)
    runs = named([Run(s, seed) for s in settings for seed in seeds or [trainer.seed]])
    how: dict[str, Any] = {"resume": resume, "force": force, "track": track}
    saes = _train(data, runs, trainer, site, out, device, **how)
    return {run.name: sae for run, sae in zip(runs, saes, strict=True)}


def _train(
    data: Data | str | Path,
    runs: list[Run],
    trainer: TrainSettings,
    site: str | Sequence[str] | None,
    out: str | Path | None,
    device: str | torch.device | None,
    *,
    resume: bool,
    force: bool,
    track: Track | Sequence[Track],
) -> list[SAE]:
    openers, device = openers_for(track), device_for(device)
    if resume and out is None:
        raise SettingsError("there is nothing to resume without out=, the folder it was begun in.")
    if isinstance(data, (str, Path)):
        data = open_store(data)
    sites = [site] if isinstance(site, str) else site
    training, unseen, provenance = sources(data, sites, trainer)
    provenance |= {"trainer": asdict(trainer), "device": device.type}
    whats = [
        {"arch": r.settings.arch, "settings": asdict(r.settings), "weights_seed": r.seed}
        | provenance
        for r in runs
    ]
    told, trainer = told_of(runs, whats, out), _fitted(trainer, training)
    if out is None:
        with tracked(openers, told) as tracking:
            learning = Training(training, unseen, runs, trainer, device, tracking)
            return _with_provenance(learning.run(), whats)
    folders = [Path(out) / run.name for run in runs]
    if resume and Path(out).exists():
        return [_finished(f, what) for f, what in zip(folders, whats, strict=True)]
    state = progress_file.NAME
    marks = ("config.json", "*/config.json")
    how: dict[str, Any] = {"keep": state, "marks": marks, "drop": (state,)}
    with whole_folder(out, force=force, resume=resume, **how) as folder:
        progress_file.drop_others(folder)
        begun = progress_file.load_state(folder, whats)
        with tracked(openers, told, begun and begun[1].get("tracked")) as tracking:
            learning = Training(training, unseen, runs, trainer, device, tracking)
            saes = learning.run(folder, whats, begun)
        probe = unseen.sample(8)
        for run, sae in zip(runs, _with_provenance(saes, whats), strict=True):
            (folder / run.name).mkdir(exist_ok=True)
            save_sae(folder / run.name, sae, probe)
    return saes


def _fitted(trainer: TrainSettings, training: Stream) -> TrainSettings:
    """Return settings with as many steps as it takes to consume the rows asked for.

    The last batch of an epoch is shorter than others, and none is longer than the epoch.
    """
    if not isinstance(training, (StoreStream, SitesStream, TensorStream)):
        return trainer  # who knows how many rows an epoch of it has
    epoch = training.rows
    batch = min(trainer.batch_size, epoch)
    if batch < trainer.batch_size:
        say(f"a batch is of {batch:,} rows instead of {trainer.batch_size:,}: there are no more.")
    epochs, rest = divmod(trainer.rows, epoch)
    steps = epochs * -(-epoch // batch) + -(-rest // batch)
    return replace(trainer, batch_size=batch, rows=steps * batch)


def _with_provenance(saes: list[SAE], whats: Sequence[Mapping[str, Any]]) -> list[SAE]:
    for sae, what in zip(saes, whats, strict=True):
        sae.provenance = {n: v for n, v in what.items() if n not in ("arch", "settings")}
    return saes


def _finished(out: Path, what: dict[str, Any]) -> SAE:
    """Return the dictionary that a run has left already.

    Raises:
        SettingsError: it is that of another run.
    """
    sae = load_sae(out)
    before = {"arch": sae.settings.arch, "settings": asdict(sae.settings), **sae.provenance}
    if differing := progress_file.differing(what, before):
        raise SettingsError(
            f"{out} is finished, and was trained with another {', '.join(differing)}; train into "
            "another folder, or replace it with --force."
        )
    say(f"{out} is finished already; nothing to do.")
    return sae
