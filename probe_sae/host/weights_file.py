"""Weights of a model from a file: tensors and nothing else; nothing in it is run."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probe_sae.archives import check_archive
from probe_sae.errors import HostNotFound


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors or torch file, by name.

    Raises:
        HostNotFound: there is no such file, or it holds something else than tensors, or unpacks to
            far more than it holds.
        SafetensorError: a safetensors file is damaged.
    """
    if not path.is_file():
        raise HostNotFound(f"no weights file {path}.")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    check_archive(path, HostNotFound)
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError) as problem:
        raise HostNotFound(
            f"{path} is no file of plain tensors; nothing in it was run."
        ) from problem
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise HostNotFound(f"{path} holds no table of tensors.")
    return {str(name).removeprefix("module."): tensor for name, tensor in state.items()}
