"""A job: host, data, site, dictionary and report in one TOML file."""

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from probe_sae.errors import FormatError, ProbeSaeError, SettingsError, near
from probe_sae.recording import CaptureSettings
from probe_sae.sae import Settings
from probe_sae.training import TrainSettings, openers_for, split_settings

_SECTIONS: dict[str, set[str]] = {
    "host": {"name", "dtype", "device", "revision"},
    "data": {"name", "root", "rows", "max_length"},
    "capture": {"sites", "batch_size", "dtype", "tokens", "stride", "pack"},
    "train": set(),
    "evaluate": {"name"},
    "analyse": {"rows", "seed", "loss_examples"},
    "report": {"labels"},
}
"""Section -> its keys; those of [train] are the fields of architecture and trainer, and `track`."""


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
        FormatError: it cannot be read, or a section or key is unknown or missing.
        SettingsError: a value is out of range.
    """
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except OSError as problem:
        raise FormatError(f"cannot read the job {path}: {problem.strerror}.") from problem
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise FormatError(f"{path} is no TOML: {problem}") from problem
    return job_from(raw, str(path))


def job_from(raw: dict[str, Any], where: str) -> Job:
    """Return the job in a parsed TOML; see `read_job`."""
    for section, values in raw.items():
        if section not in _SECTIONS:
            raise FormatError(f"{where}: no section [{section}].{near(section, _SECTIONS)}")
        if not isinstance(values, dict):
            raise FormatError(f"{where}: {section} is no section; write [{section}].")
        for key in values if section != "train" else ():
            if key not in _SECTIONS[section]:
                hint = near(key, _SECTIONS[section])
                raise FormatError(f"{where}: [{section}] has no key {key!r}.{hint}")
    for section, key in (("host", "name"), ("data", "name"), ("capture", "sites")):
        if key not in raw.get(section, {}):
            raise FormatError(f"{where}: [{section}] {key} is missing.")
    host, data, record = raw["host"], raw["data"], dict(raw["capture"])
    sites = record.pop("sites")
    sites = (sites,) if isinstance(sites, str) else tuple(sites)
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
            str(host["name"]),
            str(data["name"]),
            sites,
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
    except TypeError as problem:
        raise FormatError(f"{where}: a value has the wrong type: {problem}") from problem
