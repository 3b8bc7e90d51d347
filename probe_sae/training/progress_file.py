"""The state of an unfinished training, in one file that is there whole or not at all."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from probe_sae.errors import FormatError, SettingsError
from probe_sae.outputs import sync_folder, usual_permissions

NAME = "training.safetensors"
"""Tensors, and beside them what is no tensor, as JSON in the file's header."""
_VERSION = 1


def save_state(folder: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write the state of a training, in place of the one before."""
    beside = folder / f"{NAME}.writing"
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(kept, beside, {"probe_sae.training": json.dumps({"version": _VERSION, **facts})})
    usual_permissions(beside)
    with beside.open("rb+") as file:
        os.fsync(file.fileno())
    beside.replace(folder / NAME)
    sync_folder(folder)


def drop_others(folder: Path) -> None:
    """Remove what a killed process left half written beside the state."""
    for path in folder.iterdir():
        if path.name not in (NAME, ".lock"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def load_state(
    folder: Path, runs: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Tensor], Any] | None:
    """Return tensors and facts of the training that was begun in a folder; None where none was.

    Args:
        folder: where it was begun.
        runs: what each dictionary depends on; `facts["runs"]` must be the same.

    Raises:
        SettingsError: the training that was begun is another one; the message says in what.
        FormatError: the file is damaged.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["probe_sae.training"])
            # Cloned, so that they lie in memory as a run's own do: some kernels round by alignment.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        before = list(facts["runs"])
        if facts["version"] != _VERSION:
            raise FormatError(f"{path} is of version {facts['version']}; start anew with --force.")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as problem:
        raise FormatError(f"{path} is damaged: {problem}; start anew with --force.") from problem
    others = {
        _told(name, now, then)
        for now, then in zip(runs, before, strict=False)
        for name in differing(now, then)
    }
    if others or len(runs) != len(before):
        what = ", ".join(sorted(others)) or f"number of dictionaries ({len(before)})"
        raise SettingsError(
            f"{folder} was begun otherwise ({what}). Finish it as it was begun, or drop it and "
            "start anew with --force."
        )
    return tensors, facts


def differing(run: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Return what a run depends on and an earlier one had otherwise."""
    now, then = (json.loads(json.dumps(dict(facts))) for facts in (run, before))
    return [name for name in now if now[name] != then.get(name)]


def _told(name: str, now: Mapping[str, Any], then: Mapping[str, Any]) -> str:
    """Return what differs in a fact, setting by setting where it is a table."""
    mine, theirs = json.loads(json.dumps(now[name])), then.get(name)
    if not isinstance(mine, dict) or not isinstance(theirs, dict):
        return name
    table, other = cast("dict[str, Any]", mine), cast("dict[str, Any]", theirs)
    return ", ".join(
        f"{key} {other.get(key)!r} there, {table.get(key)!r} here"
        for key in table | other
        if table.get(key) != other.get(key)
    )


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of an optimiser as named tensors."""
    states = optimiser.state_dict()["state"]
    return {
        f"optimiser.{parameter}.{name}": value
        for parameter, state in states.items()
        for name, value in state.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give an optimiser the state that `optimiser_tensors` returned."""
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        kind, *place = name.split(".")
        if kind == "optimiser":
            states.setdefault(int(place[0]), {})[place[1]] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": states, "param_groups": groups})
