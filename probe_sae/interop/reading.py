"""Read other libraries' files as if they were hostile: tensors, numbers and words, never code."""

import json
import math
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from probe_sae.archives import check_archive
from probe_sae.errors import FormatError
from probe_sae.interop.values import number

MOST_JSON = 64 << 20
"""Bytes of a configuration; more is none."""
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
_NUMBERS = (int, float, complex)
_PLAIN = (str, int, float, bool, type(None))


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        FormatError: it is missing, too large, or holds something else.
    """
    try:
        if path.stat().st_size > MOST_JSON:
            raise FormatError(f"{path} is {path.stat().st_size:,} bytes long; no configuration is.")
        found: Any = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as problem:
        raise FormatError(f"{path} is missing.") from problem
    except (OSError, ValueError, RecursionError) as problem:
        raise FormatError(f"{path} cannot be read: {problem}") from problem
    if not isinstance(found, dict):
        raise FormatError(f"{path} holds {type(found).__name__}, expected a JSON object.")
    return found


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, as they are.

    Raises:
        FormatError: it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as problem:
        raise FormatError(f"{path} cannot be read: {problem}") from problem


def safetensors_names(path: Path) -> set[str]:
    """Return the names in the header of a safetensors file; none where it is no such file."""
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    except (OSError, SafetensorError, ValueError):
        return set()


def read_torch(path: Path) -> dict[str, Any]:
    """Return the state dict in a file of `torch.save`: tensors, numbers and words by name.

    Nothing else is unpickled: `weights_only=True`, and what comes of it is checked.

    Raises:
        FormatError: it is no such file, holds anything else, or unpacks to far more than it holds.
    """
    try:
        check_archive(path, FormatError)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FormatError:
        raise
    except pickle.UnpicklingError as problem:
        raise FormatError(
            f"{path} holds more than tensors, and is not loaded: unpickling it could run any code. "
            "Where you trust it, load it in the library that wrote it and save its state_dict()."
        ) from problem
    except Exception as problem:  # whatever a damaged archive makes torch raise
        raise FormatError(f"{path} is no file of torch.save: {_first_line(problem)}") from problem
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise FormatError(f"{path} holds {type(found).__name__}, expected weights by name.")
    for name, value in found.items():
        _check_value(path, str(name), value)
    return dict(found)


def _check_value(path: Path, name: str, value: Any) -> None:
    if isinstance(value, Mapping):
        for inner, part in value.items():
            _check_value(path, f"{name}.{inner}", part)
    elif isinstance(value, Tensor):
        is_dense = value.layout == torch.strided and value.device.type == "cpu"
        if not is_dense or value.dtype not in _FLOATS + _WHOLE:
            raise FormatError(f"{path}: {name} is no plain tensor ({value.dtype}, {value.layout}).")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise FormatError(f"{path}: {name} claims more values than the file holds.")
    elif not isinstance(value, _PLAIN):
        raise FormatError(f"{path}: {name} is a {type(value).__name__}, expected a tensor.")


def read_npz(path: Path) -> dict[str, Tensor]:
    """Return the arrays of an .npz file.

    Raises:
        FormatError: it is none, is not whole, holds objects (which would be unpickled), or unpacks
            to far more than it holds.
    """
    try:
        check_archive(path, FormatError)
        with zipfile.ZipFile(path) as archive:
            for part in archive.infolist():
                with archive.open(part) as file:
                    _check_array(path, part, file)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except FormatError:
        raise
    except Exception as problem:  # zipfile, zlib and numpy raise many kinds
        raise FormatError(f"{path} cannot be read: {_first_line(problem)}") from problem


def _check_array(path: Path, part: zipfile.ZipInfo, file: Any) -> None:
    """Compare the shape that an array claims with the bytes that there are."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject or dtype.kind not in "fiub":
        raise FormatError(f"{path}: {part.filename} holds {dtype}, expected numbers.")
    if math.prod(shape) * dtype.itemsize + file.tell() != part.file_size:
        raise FormatError(f"{path}: {part.filename} is not as long as its shape {shape} says.")


def _first_line(problem: Exception) -> str:
    return (str(problem) or type(problem).__name__).splitlines()[0]


class Weights:
    """Tensors by name, each checked when it is taken."""

    def __init__(self, tensors: Mapping[str, Any], origin: Path) -> None:
        """Take what was read from `origin`."""
        self.tensors, self.origin = tensors, origin

    def __contains__(self, name: str) -> bool:
        return isinstance(self.tensors.get(name), Tensor)

    def take(self, name: str, *shape: int | None) -> Tensor:
        """Return a weight in float32.

        Args:
            name: as the file calls it.
            shape: expected; None where any length will do.

        Raises:
            FormatError: it is missing, of another shape, no float or not finite.
        """
        value = self.tensors.get(name)
        if not isinstance(value, Tensor):
            there = ", ".join(sorted(self.tensors))[:300]
            raise FormatError(f"{self.origin} has no {name}; there are {there}.")
        fits = len(value.shape) == len(shape) and all(
            wanted in (None, found) for wanted, found in zip(shape, value.shape, strict=True)
        )
        if not fits:
            expected = ", ".join("any" if part is None else str(part) for part in shape)
            raise FormatError(
                f"{self.origin}: {name} has shape {list(value.shape)}, expected [{expected}]."
            )
        if value.dtype not in _FLOATS:
            raise FormatError(f"{self.origin}: {name} is {value.dtype}, expected floats.")
        value = value.float()
        if not bool(torch.isfinite(value).all()):
            raise FormatError(f"{self.origin}: {name} holds values that are not finite.")
        return value

    def number(self, name: str) -> float | None:
        """Return a scalar, as a tensor or a number; None where it is missing.

        Raises:
            FormatError: it is not finite.
        """
        value = self.tensors.get(name)
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        return number(value, f"{self.origin}: {name}") if isinstance(value, _NUMBERS) else None
