"""Import the heavy libraries where they are used, and say what is wrong when they do not fit."""

import importlib.metadata
from typing import Any

from probe_sae.errors import EnvironmentProblem


def torchvision() -> Any:
    """Return torchvision.

    Raises:
        EnvironmentProblem: it is built for another torch.
    """
    try:
        import torchvision as library
    except (ImportError, RuntimeError, OSError, AttributeError) as problem:
        raise _mismatch(problem) from problem
    return library


def transformers() -> Any:
    """Return transformers, quiet.

    Raises:
        EnvironmentProblem: the installed torchvision, which it imports, is built for another torch.
    """
    if _version("torchvision"):
        torchvision()
    import transformers as library

    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library


def versions() -> dict[str, str]:
    """Return the versions of what a result depends on."""
    names = ("probe_sae", "torch", "transformers", "torchvision", "h5py", "numpy", "scikit-learn")
    return {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _mismatch(problem: Exception) -> EnvironmentProblem:
    first = (str(problem).splitlines() or [type(problem).__name__])[0]
    return EnvironmentProblem(
        f"torchvision {_version('torchvision') or '(missing)'} does not work with torch "
        f"{_version('torch')} ({first}). Install a pair that was built together, from one index: "
        "pip install --upgrade torch torchvision."
    )
