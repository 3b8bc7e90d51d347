"""A dictionary on disk: a folder of `config.json` and `sae.safetensors`, checked at every load.

The weights file also holds a few rows and the codes that they had when it was written (the
fingerprint): a load that does not reproduce them is an error, never a silent wrong number.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from probe_sae.errors import FormatError, ProbeSaeError
from probe_sae.outputs import refuse_partial, usual_permissions, write_whole
from probe_sae.sae.architectures import saved_settings
from probe_sae.sae.dictionary import SAE
from probe_sae.sae.provenance import checked_provenance

FORMAT = "probe_sae.sae"
VERSION = 2
_FINGERPRINT_ROWS = 8
_SCALES = ("input_scale", "output_scale")
_OF_OTHERS = ("cfg.json", "ae.pt", "params.npz", "params.safetensors", "sae_weights.safetensors")
_SUFFIXES = (".npz", ".pt", ".pth", ".safetensors")
"""What dictionaries of other libraries are called; `probe_sae.load_sae` looks into them."""


def save_sae(folder: Path, sae: SAE, probe: Tensor | None = None) -> None:
    """Write a dictionary into `folder`, which exists.

    Args:
        folder: where to.
        sae: the dictionary.
        probe: raw activations for the fingerprint, [rows, d_model]; drawn at random when absent or
            empty.
    """
    if probe is None or not len(probe):
        generator = torch.Generator().manual_seed(0)
        probe = torch.randn(_FINGERPRINT_ROWS, sae.d_model, generator=generator)
        probe = probe / sae.input_scale.cpu()
    probe = probe[:, : sae.d_model]
    probe = probe[:_FINGERPRINT_ROWS].detach().float().cpu()
    with torch.no_grad():
        expected = sae.cpu().encode(probe)
    tensors = sae.state_dict() | {"fingerprint.rows": probe, "fingerprint.codes": expected}
    kept = {n: (t.float() if t.is_floating_point() else t) for n, t in tensors.items()}
    kept = {name: tensor.detach().contiguous() for name, tensor in kept.items()}
    save_file(kept, folder / "sae.safetensors")
    usual_permissions(folder / "sae.safetensors")
    config = {
        "weights": _digest(folder / "sae.safetensors"),
        "format": FORMAT,
        "version": VERSION,
        "arch": sae.settings.arch,
        "widths": sae.widths,
        "settings": asdict(sae.settings),
        "provenance": sae.provenance,
    }
    write_whole(folder / "config.json", json.dumps(config, indent=1, sort_keys=True))
    lines = "".join(json.dumps(line, sort_keys=True) + "\n" for line in sae.log)
    write_whole(folder / "log.jsonl", lines)


def load_sae(path: str | Path) -> SAE:
    """Return the dictionary in a folder.

    Raises:
        FormatError: there is none, it is damaged, unfinished, or from a newer version, or it does
            not reproduce its fingerprint.
    """
    folder = refuse_partial(path)
    config = _read_config(folder)
    try:
        settings = saved_settings(config["arch"], config["settings"])
        widths = _widths(config["widths"])
        provenance = checked_provenance(config["provenance"])
        with torch.device("meta"):  # takes no memory: sizes are checked first
            sae = settings.build(widths)
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as problem:
        raise FormatError(f"{folder}/config.json is damaged: {problem!r}") from problem
    except FormatError:
        raise
    except ProbeSaeError as problem:
        raise FormatError(f"{folder}/config.json: {problem}") from problem
    expected = {name: (list(t.shape), t.dtype) for name, t in sae.state_dict().items()}
    weights = folder / "sae.safetensors"
    tensors = _read_tensors(weights, expected)
    if config.get("weights", "") not in ("", _digest(weights)):
        raise FormatError(f"{weights} is not the file that was saved with {folder}/config.json.")
    # Copied, so that weights lie in memory as a trained dictionary's do: some kernels round by
    # alignment, and codes are the same bits before and after saving only so.
    sae = sae.to_empty(device="cpu")
    sae.load_state_dict({name: tensors[name] for name in expected})
    sae.requires_grad_(False).eval()
    _check_fingerprint(sae, tensors, folder)
    sae.provenance, sae.log = provenance, _read_log(folder / "log.jsonl")
    return sae


def _widths(found: Any) -> tuple[int, ...]:
    is_list = isinstance(found, list) and found
    if not is_list or not all(type(width) is int and width > 0 for width in found):
        raise ValueError(f"widths are {found!r:.60}, expected whole numbers over 0")
    return tuple(found)


def _digest(path: Path) -> str:
    """Return the hash of a file; older dictionaries have none to compare it with."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as problem:
        raise FormatError(
            f"{folder} holds no dictionary: there is no config.json.{_hint(folder)}"
        ) from problem
    except (OSError, ValueError, RecursionError) as problem:
        raise FormatError(f"{path} cannot be read: {problem}{_hint(folder)}") from problem
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise FormatError(f"{path} is not the config of a dictionary of probe_sae.{_hint(folder)}")
    version = config.get("version")
    if version != VERSION:
        older = isinstance(version, int) and version < VERSION
        raise FormatError(
            f"{folder} is a dictionary of version {version}; this probe_sae reads version "
            f"{VERSION}. {'Train it again' if older else 'Update probe_sae'}."
        )
    return config


def _hint(path: Path) -> str:
    """Say that a file or folder looks like another library's, where it has a name of theirs."""
    if path.is_file():
        is_known = path.suffix in _SUFFIXES and path.name != "sae.safetensors"
        names = [path.name] if is_known else []
    else:
        names = [name for name in _OF_OTHERS if (path / name).is_file()]
    if not names:
        return ""
    return (
        f" It looks like another library's ({names[0]}): probe_sae.load_sae reads those, and "
        "`probe-sae import` turns them into a folder of ours."
    )


def _read_tensors(
    path: Path, expected: dict[str, tuple[list[int], torch.dtype]]
) -> dict[str, Tensor]:
    """Read the tensors of a file after comparing the header's shapes with those expected."""
    try:
        with safe_open(path, framework="pt") as file:
            for name, (shape, _) in expected.items():
                found = file.get_slice(name).get_shape()
                if found != shape:
                    raise FormatError(f"{path}: {name} is {found}, expected {shape}.")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as problem:
        raise FormatError(f"{path} cannot be read: {problem}") from problem
    for name, (_, dtype) in expected.items():
        if tensors[name].dtype.is_floating_point != dtype.is_floating_point:
            raise FormatError(f"{path}: {name} is {tensors[name].dtype}, expected {dtype}.")
        if name != "threshold" and not torch.isfinite(tensors[name]).all():
            raise FormatError(f"{path}: {name} holds values that are not finite.")
        if name in _SCALES and not bool((tensors[name] > 0).all()):
            raise FormatError(f"{path}: {name} is not over 0 everywhere.")
    return tensors


def _check_fingerprint(sae: SAE, tensors: dict[str, Tensor], folder: Path) -> None:
    rows, expected = tensors.get("fingerprint.rows"), tensors.get("fingerprint.codes")
    are_saved = rows is not None and rows.ndim == 2 and rows.shape[1] == sae.d_model and len(rows)
    if rows is None or expected is None or not are_saved:
        raise FormatError(f"{folder}/sae.safetensors has no fingerprint to check the load by.")
    if {rows.dtype, expected.dtype} != {torch.float32}:
        raise FormatError(
            f"{folder}/sae.safetensors: the fingerprint is of {rows.dtype} and {expected.dtype}, "
            "expected torch.float32."
        )
    codes = sae.encode(rows)
    if codes.shape != expected.shape or not torch.allclose(codes, expected, rtol=1e-3, atol=1e-4):
        raise FormatError(
            f"{folder}: the dictionary does not give the codes that it gave when it was saved; "
            "its files do not belong together."
        )


def _read_log(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        lines: list[Any] = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    except (ValueError, RecursionError) as problem:
        raise FormatError(f"{path} is damaged: {problem}") from problem
    for line in lines:
        if not isinstance(line, dict):
            raise FormatError(f"{path} is damaged: {line!r:.60} is a line, expected an object.")
    return lines
