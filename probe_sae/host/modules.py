"""Find the modules of a model by their paths."""

from collections.abc import Mapping
from typing import Any

from torch import nn


def modules_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return every module of a model by its path; shared ones once for each path.

    TransformerLens' models name their hook points in a table of their own (`hook_dict`), and those
    names are paths too: in its bridges, no other path says which block a hook point belongs to.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    table: Any = getattr(model, "hook_dict", None)
    if isinstance(table, Mapping):
        points: Mapping[Any, Any] = table
        modules |= {str(k): m for k, m in points.items() if isinstance(m, nn.Module)}
    return modules


def module_at(model: nn.Module, path: str) -> nn.Module:
    """Return the module at a path that `modules_of` knows."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        return modules_of(model)[path]
