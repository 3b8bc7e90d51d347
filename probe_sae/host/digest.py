"""One number for all weights of a model: tells two checkpoints apart."""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from probe_sae.errors import EnvironmentProblem


def digest_of(model: nn.Module) -> str:
    """Return SHA-256 over names and values of all weights.

    Raises:
        EnvironmentProblem: weights are offloaded, and accelerate is not there to read them.
    """
    digest = hashlib.sha256()
    for name, value in sorted(_weights(model).items()):
        digest.update(name.encode())
        if isinstance(value, Tensor) and not value.is_quantized:
            plain = value.detach().cpu().contiguous().flatten()
            digest.update(plain.view(torch.uint8).numpy().data)
        else:  # a packed weight of a quantised module, or a setting of one
            digest.update(repr(value).encode())
    return digest.hexdigest()


def _weights(model: nn.Module) -> dict[str, Any]:
    """Return the state of a model, with what accelerate keeps elsewhere read back."""
    state = dict(model.state_dict())
    if not any(isinstance(v, Tensor) and v.device.type == "meta" for v in state.values()):
        return state
    try:
        from accelerate.utils.modeling import get_state_dict_offloaded_model
    except ImportError as problem:
        raise EnvironmentProblem(
            "the model's weights are offloaded; reading them needs accelerate: "
            "pip install accelerate."
        ) from problem
    return dict(get_state_dict_offloaded_model(model))
