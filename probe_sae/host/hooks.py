"""Forward hooks that leave nothing behind: the one place that touches a module's hooks.

Reading and replacing "the tensor" of a module whose input or output may be a tensor, a tuple, a
list, a dict or a transformers ModelOutput, given by position or by keyword.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from probe_sae.errors import ShapeError, SiteNotFound
from probe_sae.host.sites import Site

See = Callable[[Site, Tensor], Tensor | None]
"""Called with each site's tensor; what it returns, if anything, takes the tensor's place."""


class StopForward(BaseException):
    """Ends a forward pass early; no `except Exception` in a model swallows it, the host does."""


@contextmanager
def hooked(model: nn.Module, sites: list[Site], see: See) -> Generator[None]:
    """Call `see` at each site while the block runs; afterwards the model is as it was.

    Raises:
        SiteNotFound: the model is compiled (its hooks would never fire), or a module is not there.
    """
    if hasattr(model, "_orig_mod"):
        raise SiteNotFound("the model is compiled: its hooks would not fire. Use model._orig_mod.")
    modules = dict(model.named_modules())
    with ExitStack() as stack:
        for site in sites:
            if site.path not in modules:
                raise SiteNotFound(f"{site.name}: the model has no module {site.path!r}.")
            handle = _register(modules[site.path], site, see)
            stack.callback(handle.remove)
        yield


def _register(module: nn.Module, site: Site, see: See) -> Any:
    if site.io == "in":

        def before(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            key, tensor = _input_tensor(site, args, kwargs)
            new = see(site, tensor)
            if new is None:
                return None
            if isinstance(key, int):
                return (*args[:key], new, *args[key + 1 :]), kwargs
            return args, {**kwargs, key: new}

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def after(_: nn.Module, __: Any, output: Any) -> Any:
        new = see(site, first_tensor(site, output))
        return None if new is None else _replaced(output, new)

    return module.register_forward_hook(after)


def first_tensor(site: Site, output: Any) -> Tensor:
    """Return the first tensor in what a module gave.

    Raises:
        ShapeError: there is none.
    """
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output
    if isinstance(output, (Mapping, tuple, list)):
        for value in values:
            if isinstance(value, Tensor):
                return value
    raise ShapeError(
        f"{site.name}: {site.path} gives {type(output).__name__}, which has no tensor."
    )


def _input_tensor(site: Site, args: Any, kwargs: dict[str, Any]) -> tuple[int | str, Tensor]:
    for i, value in enumerate(args):
        if isinstance(value, Tensor):
            return i, value
    named = kwargs.get("hidden_states")
    if isinstance(named, Tensor):
        return "hidden_states", named
    for key, value in kwargs.items():
        if isinstance(value, Tensor):
            return key, value
    raise ShapeError(f"{site.name}: {site.path} was called without any tensor.")


def _replaced(output: Any, new: Tensor) -> Any:
    """Return `output` with its first tensor replaced, in the same structure."""
    if isinstance(output, Tensor):
        return new
    if isinstance(output, Mapping):
        key = next(key for key, value in output.items() if isinstance(value, Tensor))
        changed = dict(output) | {key: new}
        return changed if type(output) is dict else type(output)(**changed)
    place = next(i for i, value in enumerate(output) if isinstance(value, Tensor))
    items = [*output[:place], new, *output[place + 1 :]]
    return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
