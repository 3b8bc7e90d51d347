"""Import the heavy libraries where they are used, and say what is wrong when they do not fit."""

import importlib
import importlib.metadata
from pathlib import Path
from typing import Any

from probe_sae.errors import EnvironmentProblem

BUNDLED = Path(__file__).parent / "bundled"
"""Where the bundled hosts are."""


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


def optional(name: str) -> Any:
    """Return a library that probe_sae does without, such as timm.

    Raises:
        EnvironmentProblem: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as problem:
        root = name.partition(".")[0]
        package = {"open_clip": "open_clip_torch"}.get(root, root)
        raise EnvironmentProblem(
            f"{name} cannot be imported ({problem}): pip install {package}."
        ) from problem


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
        "`pip install --upgrade torch torchvision`."
    )
