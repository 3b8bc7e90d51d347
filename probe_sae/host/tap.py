"""Tap a host: see what its sites hold while it runs, and stop it after the deepest of them."""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from probe_sae.errors import ShapeError, SiteNotFound
from probe_sae.host.hooks import StopForward, hooked
from probe_sae.host.host import Host
from probe_sae.host.layouts import image_size
from probe_sae.host.loading import host_of
from probe_sae.host.modules import modules_of
from probe_sae.host.sites import Site
from probe_sae.progress import say


class Seen(dict[str, Any]):
    """Site name -> what the module gave, calls concatenated along the batch.

    Where the calls' shapes differ (generation), or have no batch (a loss), a list of them. Other
    libraries' names of a site read it, too: `seen["blocks.6.hook_resid_post"]`.
    """

    def __init__(self, host: Host) -> None:
        """Begin empty; `host` knows the names."""
        super().__init__()
        self._host = host

    def __missing__(self, name: str) -> Any:
        """Return what the site holds that another name stands for."""
        try:
            sites = self._host.find_sites(name)
        except SiteNotFound as problem:
            raise KeyError(str(problem)) from None
        if len(sites) != 1 or sites[0].name not in self:
            raise KeyError(f"{name!r} was not tapped; there are {', '.join(self)}")
        return self[sites[0].name]

    def add(self, site: str, tensor: Tensor) -> None:
        """Take in one call's tensor."""
        before = self.get(site)
        if before is None:
            self[site] = tensor
        elif isinstance(before, Tensor) and _joins(before, tensor):
            self[site] = torch.cat([before, tensor])
        else:
            self[site] = [*before, tensor] if isinstance(before, list) else [before, tensor]


def _joins(before: Tensor, tensor: Tensor) -> bool:
    """Whether two calls' tensors have a batch to be joined along, and are alike but for it."""
    return before.ndim > 0 and tensor.ndim > 0 and before.shape[1:] == tensor.shape[1:]


@contextmanager
def tap(host: Host | Any, sites: str | Iterable[str], *, stop: bool = False) -> Generator[Seen]:
    """Gather what the sites hold while the block runs the host.

    Tensors are copies without gradient, as the modules gave them.

    Args:
        host: what `load_host` returned, or a model, wrapped or not, which is put into evaluation
            mode: then run it as you always do.
        sites: names, globs, braces, or raw paths (`path:layer3.1@out`).
        stop: end calls `host(...)` after the deepest site; they then return None. The first runs
            to its end: only then it is known which site is the deepest.

    Raises:
        SiteNotFound: before anything runs, if a name stands for nothing.
        ShapeError: at the end of the block, if the host ran and a site never fired.
    """
    looked_into = host_of(host)
    found = looked_into.find_sites(sites)
    seen = Seen(looked_into)

    def see(site: Site, tensor: Tensor) -> None:
        seen.add(site.name, tensor.detach().clone())

    watch = SiteWatch(looked_into, found, see, stop=stop)
    with watch.attached():
        yield seen
    watch.check_fired()


class SiteWatch:
    """Call `see` at each site of a running host, and stop the host after the deepest one.

    What `see` returns, if anything, takes the place of what the site held.

    Which is the deepest is learnt in the first run: the order in which sites fire is the host's
    business, not that of the list.
    """

    def __init__(
        self,
        host: Host,
        sites: list[Site],
        see: Callable[[Site, Tensor], Tensor | None],
        *,
        stop: bool,
    ) -> None:
        """Prepare; hooks are there only while `attached`."""
        self.host, self.sites, self._see, self._stop = host, sites, see, stop
        self.runs = 0
        self.fired: list[str] = []
        """The sites that fired in the run that just ended, in order."""
        self.image: tuple[int, int] | None = None
        """Height and width of the images that the host runs on."""
        self._ever: set[str] = set()
        self._last: tuple[str, int] | None = None
        """The deepest site, and how often it has fired when it is the last time of a run."""

    @contextmanager
    def attached(self) -> Generator[None]:
        """Have the hooks in place while the block runs."""
        if self.host.model.training:
            say(f"{self.host.name} is in training mode: dropout changes what is seen. Call eval().")
        root = self.host.entry
        starts = root.register_forward_pre_hook(self._begin, with_kwargs=True)
        try:
            with hooked(self.host.model, self.sites, self._at_site, root):
                ends = root.register_forward_hook(self._end)
                try:
                    yield
                finally:
                    ends.remove()
        finally:
            starts.remove()

    def check_fired(self) -> None:
        """Check all runs.

        Raises:
            ShapeError: the host ran, and a site never fired.
        """
        silent = [site for site in self.sites if site.name not in self._ever]
        if self.runs and silent:
            names = ", ".join(site.name for site in silent)
            raise ShapeError(f"the host ran, but {names} never fired in it.{self._why(silent[0])}")

    def check_fired_once(self) -> None:
        """Check the run that just ended.

        Raises:
            ShapeError: a site fired not exactly once in it.
        """
        for site in self.sites:
            if (times := self.fired.count(site.name)) != 1:
                why = (
                    self._why(site)
                    if not times
                    else (
                        f" Choose one of its calls, such as {site.name}#0."
                        if site.name.startswith("path:")
                        else ""
                    )
                )
                raise ShapeError(
                    f"{site.name} fired {times} times in one run of the host; rows need exactly "
                    f"one.{why}"
                )

    def _why(self, site: Site) -> str:
        """Return what is known of a module that did not fire, as an end of a message."""
        parent = modules_of(self.host.model).get(site.path.rpartition(".")[0])
        if isinstance(parent, nn.MultiheadAttention):
            return (
                f" {site.path} is a part of nn.MultiheadAttention, which uses its weights without "
                f"calling it; tap path:{site.path.rpartition('.')[0]}@out."
            )
        if site.call is not None:
            return f" Its module was not called {site.call + 1} times."
        return " The model does not call this module on such inputs."

    def _begin(self, _: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.image = image_size([*args, *named.values()])
        self.runs += 1
        self.fired = []

    def _end(self, *_: Any) -> None:
        if len(set(self.fired)) == len(self.sites):
            self._last = self.fired[-1], self.fired.count(self.fired[-1])

    def _at_site(self, site: Site, tensor: Tensor) -> Tensor | None:
        self.fired.append(site.name)
        self._ever.add(site.name)
        new = self._see(site, tensor)
        if self._stop and self.host.is_called and self._last is not None:
            name, times = self._last
            if site.name == name and self.fired.count(name) == times:
                raise StopForward
        return new
