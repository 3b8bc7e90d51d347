"""A job: host, data, site, dictionary and report in one TOML file."""

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import torch

from probe_sae.errors import FormatError, ProbeSaeError, SettingsError, near
from probe_sae.recording import CaptureSettings
from probe_sae.sae import Settings
from probe_sae.training import TrainSettings, openers_for, split_settings

_TEXTS: dict[str, set[str]] = {
    "host": {"name", "dtype", "device", "revision"},
    "data": {"name", "root"},
    "evaluate": {"name"},
    "report": {"labels"},
}
"""Section -> its keys whose values are text."""
_OTHERS: dict[str, set[str]] = {
    "data": {"rows", "max_length"},
    "capture": {"sites", "batch_size", "dtype", "tokens", "stride", "pack"},
    "train": set(),
    "analyse": {"rows", "seed", "loss_examples"},
}
"""Section -> its keys whose values are checked by what takes them; those of [train] are the fields
of architecture and trainer, and `track`."""


@dataclass(frozen=True)
class Job:
    """What to run, checked before anything runs."""

    host: str
    data: str
    sites: tuple[str, ...]
    arch: Settings
    trainer: TrainSettings
    capture: CaptureSettings = field(default_factory=CaptureSettings)
    dtype: str = "float32"
    """Of the host's weights."""
    device: str | None = None
    revision: str | None = None
    root: str | None = None
    """Folder of a dataset that is downloaded otherwise."""
    evaluate_on: str | None = None
    """A dataset of its own to evaluate and analyse on, such as test images; by default, what
    training holds out of the first one."""
    analyse_rows: str = "held_out"
    analyse_seed: int = 0
    loss_examples: int = 0
    """Of how many examples of each feature the effect on the host's loss is measured."""
    labels: Path | None = None
    """A file of labels to bake into the report."""
    track: tuple[str, ...] = ()
    """Trackers of the training."""

    def __post_init__(self) -> None:
        """Refuse what would fail only after hours."""
        dtype = getattr(torch, self.dtype, None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise SettingsError(
                f"[host] dtype: no dtype {self.dtype!r}; expected float32, bfloat16 or float16."
            )
        if self.analyse_rows not in ("held_out", "all"):
            raise SettingsError(
                f"[analyse] rows is {self.analyse_rows!r}; expected held_out or all."
            )
        for name, given in (("seed", self.analyse_seed), ("loss_examples", self.loss_examples)):
            if type(given) is not int or given < 0:
                raise SettingsError(
                    f"[analyse] {name} is {given!r}; expected a whole number from 0 on."
                )


def read_job(path: str | Path) -> Job:
    """Return the job in a TOML file.

    Raises:
        FormatError: it cannot be read, a section or key is unknown or missing, or a name no text.
        SettingsError: a value is out of range or of the wrong type.
    """
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except OSError as problem:
        raise FormatError(f"cannot read the job {path}: {problem.strerror}.") from problem
    except (ValueError, RecursionError) as problem:
        raise FormatError(f"{path} is no TOML: {problem}") from problem
    return job_from(raw, str(path))


def job_from(raw: dict[str, Any], where: str) -> Job:
    """Return the job in a parsed TOML; see `read_job`."""
    _check_keys(raw, where)
    host, data, record = raw["host"], raw["data"], dict(raw["capture"])
    sites = record.pop("sites")
    wanted = {f.name for f in fields(CaptureSettings)}
    recorded = {k: v for k, v in {**data, **record}.items() if k in wanted}
    learn = dict(raw.get("train", {}))
    track = learn.pop("track", ())
    openers_for(track)  # before hours of recording, not after
    track = (track,) if isinstance(track, str) else tuple(track)
    arch, trainer = split_settings(learn)
    report, analysis = raw.get("report", {}), raw.get("analyse", {})
    try:
        return Job(
            host["name"],
            data["name"],
            (sites,) if isinstance(sites, str) else tuple(sites),
            arch,
            trainer,
            CaptureSettings(**recorded),
            host.get("dtype", "float32"),
            host.get("device"),
            host.get("revision"),
            data.get("root"),
            raw.get("evaluate", {}).get("name"),
            analysis.get("rows", "held_out"),
            analysis.get("seed", 0),
            analysis.get("loss_examples", 0),
            Path(report["labels"]) if "labels" in report else None,
            track,
        )
    except ProbeSaeError as problem:
        raise type(problem)(f"{where}: {problem}") from problem


def _check_keys(raw: dict[str, Any], where: str) -> None:
    """Raise unless a parsed TOML has the sections and keys of a job, and text where text belongs.

    Raises:
        FormatError: it has not; the message says which.
    """
    sections = {*_TEXTS, *_OTHERS}
    for section, values in raw.items():
        if section not in sections:
            raise FormatError(f"{where}: no section [{section}].{near(section, sections)}")
        if not isinstance(values, dict):
            raise FormatError(f"{where}: {section} is no section; write [{section}].")
        texts = _TEXTS.get(section, set())
        keys = texts | _OTHERS.get(section, set())
        for key, value in cast("dict[str, Any]", values).items():
            if key not in keys and section != "train":
                raise FormatError(f"{where}: [{section}] has no key {key!r}.{near(key, keys)}")
            if key in texts and not isinstance(value, str):
                raise FormatError(
                    f"{where}: [{section}] {key} is {value!r}; expected text in quotes."
                )
    for section, key in (("host", "name"), ("data", "name"), ("capture", "sites")):
        if key not in raw.get(section, {}):
            raise FormatError(f"{where}: [{section}] {key} is missing.")
    sites = raw["capture"]["sites"]
    names: list[Any] = sites if isinstance(sites, list) else [sites]
    if not names or not all(isinstance(name, str) for name in names):
        raise FormatError(
            f"{where}: [capture] sites is {sites!r}; expected names of sites, as "
            '["blocks.6.resid_post"].'
        )
