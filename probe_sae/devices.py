"""Where tensors are computed with, from the word that a user gives."""

import torch

from probe_sae.errors import SettingsError


def device_for(name: str | torch.device | None) -> torch.device:
    """Return the device of a name; by default a GPU where there is one.

    Raises:
        SettingsError: there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as problem:
        there = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        reason = str(problem).splitlines()[0]
        raise SettingsError(
            f"device {str(name)!r} cannot be used here: {reason.rstrip('.')}. "
            f"There is {' and '.join(there)}."
        ) from problem
    return device
