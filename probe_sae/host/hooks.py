"""Forward hooks that leave nothing behind: the one place that touches a module's hooks.

Reading and replacing "the tensor" of a module whose input or output may be a tensor, a tuple, a
list, a dict or a transformers ModelOutput, given by position or by keyword.
"""

import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from probe_sae.errors import ShapeError, SiteNotFound
from probe_sae.host.modules import modules_of
from probe_sae.host.sites import Site
from probe_sae.host.switches import COMPILED, FAST_PATH

See = Callable[[Site, Tensor], Tensor | None]
"""Called with each site's tensor; what it returns, if anything, takes the tensor's place."""


class StopForward(BaseException):
    """Ends a forward pass early; no `except Exception` in a model swallows it, the host does."""


@contextmanager
def hooked(model: nn.Module, sites: list[Site], see: See, root: nn.Module) -> Generator[None]:
    """Call `see` at each site while the block runs; afterwards the model is as it was.

    Compiled modules run uncompiled meanwhile, and transformer encoders without PyTorch's fused
    path: in both, hooks set later never fire.

    Args:
        model: which the sites' paths are in.
        sites: where to look.
        see: what to do there.
        root: the module that is called; calls of a site's module are counted within its run.

    Raises:
        SiteNotFound: a module is not there.
    """
    modules = modules_of(model)
    calls: dict[str, int] = {}
    with ExitStack() as stack:
        stack.enter_context(_hooks_fire(modules.values()))

        def begin(*_: Any) -> None:
            calls.clear()

        stack.callback(root.register_forward_pre_hook(begin).remove)
        for site in sites:
            if site.path not in modules:
                raise SiteNotFound(f"{site.name}: the model has no module {site.path!r}.")
            handle = _register(modules[site.path], site, _of_call(site, see, calls))
            stack.callback(handle.remove)
        yield


@contextmanager
def _hooks_fire(modules: Any) -> Generator[None]:
    """Switch off, while the block runs, what passes hooks by."""
    with ExitStack() as stack:
        # whoever compiled the whole model holds it in a module or a function that it knows nothing
        # of, and compiled frames are not guarded against new hooks: so everything runs uncompiled
        if "torch._dynamo" in sys.modules:  # imported by the first torch.compile, in a second
            stack.enter_context(COMPILED.off())
        if any(isinstance(m, (nn.TransformerEncoder, nn.TransformerEncoderLayer)) for m in modules):
            stack.enter_context(FAST_PATH.off())
        yield


def _of_call(site: Site, see: See, calls: dict[str, int]) -> See:
    """Return `see` for the call that the site means, and nothing for the module's other calls."""
    if site.call is None:
        return see

    def see_one(at: Site, tensor: Tensor) -> Tensor | None:
        number = calls.get(site.name, 0)
        calls[site.name] = number + 1
        return see(at, tensor) if number == site.call else None

    return see_one


def _register(module: nn.Module, site: Site, see: See) -> Any:
    if site.io == "in":

        def before(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            where, key = _input_key(site, args, kwargs)
            tensor = where[key]
            new = see(site, tensor)
            if new is None or new is tensor:
                return None
            if site.in_place:
                tensor.copy_(new)
                return None
            if where is args:
                return (*args[:key], new, *args[key + 1 :]), kwargs
            return args, {**kwargs, key: new}

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def after(_: nn.Module, __: Any, output: Any) -> Any:
        if isinstance(output, Tensor) and site.select is None:
            return see(site, output)
        key = _output_key(site, output)
        new = see(site, output[key])
        return None if new is None else _replaced(output, key, new)

    return module.register_forward_hook(after)


def _input_key(site: Site, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Return where the site's tensor is, positional or named arguments, and under which key."""
    if isinstance(site.select, str) or not any(isinstance(value, Tensor) for value in args):
        wanted = site.select if isinstance(site.select, str) else "hidden_states"
        if isinstance(kwargs.get(wanted), Tensor):
            return kwargs, wanted
        if site.select is None:
            for key, value in kwargs.items():
                if isinstance(value, Tensor):
                    return kwargs, key
    else:
        for i, value in enumerate(args):
            if isinstance(value, Tensor) and site.select in (None, i):
                return args, i
    raise ShapeError(
        f"{site.name}: {site.path} was called without such a tensor, but with "
        f"{_described([*args, *kwargs.values()])}."
    )


def _output_key(site: Site, output: Any) -> Any:
    """Return the key of the site's tensor in a tuple, list or mapping."""
    items: list[tuple[Any, Any]] = []
    if isinstance(output, Mapping):
        items = list(output.items())
    elif isinstance(output, (tuple, list)):
        items = list(enumerate(output))
    for key, value in items:
        if isinstance(value, Tensor) and site.select in (None, key):
            return key
    wanted = "no tensor" if site.select is None else f"no tensor at {site.select!r}"
    raise ShapeError(
        f"{site.name}: {site.path or 'the model'} gives {_described(output)}, {wanted}."
    )


def _described(value: Any) -> str:
    """Return what a module gave, as types, for a message."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {type(item).__name__}" for key, item in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(type(item).__name__ for item in value) + ")"
    return type(value).__name__


def _replaced(output: Any, key: Any, new: Tensor) -> Any:
    """Return `output` with the tensor at `key` replaced, in the same structure."""
    if isinstance(output, Mapping):
        changed = dict(output) | {key: new}
        return changed if type(output) is dict else type(output)(**changed)
    items = [*output[:key], new, *output[key + 1 :]]
    return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
