"""Edit a host while it runs: put something else in place of what a site holds.

Whatever the layout of a site, an edit works on its rows, [batch, positions, width]: what a
dictionary reads and writes. An edit that changes nothing changes no bit of the host's output.
"""

import math
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from probe_sae.errors import SettingsError, ShapeError
from probe_sae.host.host import Host
from probe_sae.host.layouts import as_rows, from_rows, layout_of
from probe_sae.host.loading import host_of
from probe_sae.host.patch import Patch
from probe_sae.host.sites import Site
from probe_sae.host.tap import SiteWatch

Edit = Callable[[Tensor], Tensor]
"""Rows of a site, [batch, positions, width] -> what it shall hold; the same shape."""
ROWS_AT_ONCE = 2048
"""Rows whose dense codes are held at a time."""


class Codec(Protocol):
    """Anything with `encode` and `decode` on [rows, d_model]; a dictionary is one."""

    def encode(self, x: Tensor) -> Tensor:
        """Return codes, [rows, features]."""
        ...

    def decode(self, codes: Any) -> Tensor:
        """Return reconstructions, [rows, d_model]."""
        ...


@contextmanager
def edit(host: Host | Any, sites: str | Iterable[str], change: Edit | Codec) -> Generator[None]:
    """Replace what sites hold by `change` of it while the block runs the host.

    Args:
        host: what `load_host` returned, or a model, wrapped or not, which is put into evaluation
            mode: then run it as you always do.
        sites: names, globs, braces or raw paths; each is changed.
        change: one of `Splice`, `Ablate`, `Clamp`, `Steer`, `Patch`, a dictionary (its
            reconstruction), or any function of rows, [batch, positions, width].

    Raises:
        SiteNotFound: before anything runs, if a name stands for nothing.
        SettingsError: a site is an attention pattern, which nothing reads again, or `change` is
            none of these.
        ShapeError: `change` returned another shape, or the host ran and a site never fired.
    """
    looked_into = host_of(host)
    found = looked_into.find_sites(sites)
    alter = cast(
        Edit, change if callable(change) and not _is_codec(change) else Splice(cast(Codec, change))
    )
    for site in found:
        if site.layout == "pattern":
            raise SettingsError(
                f"{site.name} is what the model reports of its attention, and nothing reads it "
                "again: an edit would change nothing. Edit the heads instead."
            )

    def see(at: Site, tensor: Tensor) -> Tensor:
        layout = layout_of(at, looked_into.model, tensor, watch.image)
        rows = as_rows(tensor, layout).clone()  # a change that writes into it writes into a copy
        new: Any = (change.laid_out(layout) if isinstance(change, Patch) else alter)(rows)
        if not isinstance(new, Tensor):
            raise ShapeError(
                f"the edit of {at.name} returned {type(new).__name__}; expected a tensor."
            )
        if new.shape != rows.shape:
            raise ShapeError(
                f"the edit of {at.name} turned {tuple(rows.shape)} into {tuple(new.shape)}."
            )
        return from_rows(new, layout, tensor).to(tensor.dtype)

    watch = SiteWatch(looked_into, found, see, stop=False)
    with watch.attached():
        yield
    watch.check_fired()


@dataclass(frozen=True)
class Splice:
    """Put the dictionary's reconstruction in place of every row.

    `change` edits the codes first; with `keep_error`, what the dictionary misses of a row stays in
    it: x + decode(changed codes) - decode(codes), so that rows whose codes stay are untouched.
    """

    sae: Codec
    change: Callable[[Tensor], Tensor] | None = None
    """Codes, [rows, features] -> codes."""
    keep_error: bool = False

    def __post_init__(self) -> None:
        _check_codec(self.sae)

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the changed rows, [..., width]."""
        flat = rows.flatten(0, -2)
        if self.keep_error and self.change is None:
            return rows
        parts = [self._part(part) for part in flat.split(ROWS_AT_ONCE)]
        return torch.cat(parts).reshape(rows.shape) if parts else rows

    def _part(self, rows: Tensor) -> Tensor:
        home = _home(self.sae, rows)
        codes = self.sae.encode(rows.to(home))
        changed = codes if self.change is None else self.change(codes.clone())
        if not self.keep_error:
            return _decoded(self.sae, rows.to(home), changed).to(rows)
        new = rows.clone()
        touched = (changed != codes).any(-1)
        if bool(touched.any()):
            some = rows.to(home)[touched]
            step = _decoded(self.sae, some, changed[touched])
            step = step - _decoded(self.sae, some, codes[touched])
            new[touched.to(rows.device)] += step.to(rows)
        return new


def Ablate(sae: Codec, features: int | Iterable[int]) -> Splice:  # noqa: N802
    """Return the edit that takes features out of every row; the rest of the row stays.

    Raises:
        SettingsError: when it runs, if the dictionary has no such feature.
    """
    wanted = list(features) if isinstance(features, Iterable) else [features]
    return Splice(sae, _SetCodes(tuple(map(int, wanted)), 0.0), keep_error=True)


def Clamp(sae: Codec, feature: int, value: float) -> Splice:  # noqa: N802
    """Return the edit that sets a feature's activation to `value` in every row.

    Raises:
        SettingsError: the value is no finite number; when it runs, if the dictionary has no such
            feature.
    """
    _check_finite("value", value)
    return Splice(sae, _SetCodes((int(feature),), float(value)), keep_error=True)


@dataclass(frozen=True)
class _SetCodes:
    features: tuple[int, ...]
    value: float

    def __call__(self, codes: Tensor) -> Tensor:
        for feature in self.features:
            _check_feature(feature, codes.shape[-1])
        codes[:, list(self.features)] = self.value
        return codes


@dataclass(frozen=True)
class Steer:
    """Add a feature's decoder direction to every row: `scale` units of activation of it."""

    sae: Codec
    feature: int
    scale: float
    _steps: dict[torch.device, Tensor] = field(
        default_factory=dict[torch.device, Tensor], repr=False, compare=False
    )

    def __post_init__(self) -> None:
        _check_codec(self.sae)
        _check_finite("scale", self.scale)

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the steered rows, [..., width]."""
        flat = rows.flatten(0, -2)
        if not len(flat):
            return rows
        if not getattr(self.sae, "is_same_for_all_rows", True):
            return rows + self._step(flat).reshape(rows.shape).to(rows)
        if rows.device not in self._steps:
            self._steps[rows.device] = self._step(flat[:1])[0]
        return rows + self._steps[rows.device].to(rows)

    def _step(self, rows: Tensor) -> Tensor:
        """Return what is added to each of some rows, [rows, width]."""
        at_home = rows.to(_home(self.sae, rows))
        one = torch.zeros_like(self.sae.encode(at_home[:1]))
        _check_feature(self.feature, one.shape[-1])
        codes = one.expand(len(rows), -1).clone()
        nothing = _decoded(self.sae, at_home, codes)
        codes[:, int(self.feature)] = float(self.scale)
        return (_decoded(self.sae, at_home, codes) - nothing).to(rows.device)


def _decoded(sae: Codec, rows: Tensor, codes: Tensor) -> Tensor:
    """Return the reconstruction of rows from codes; it may take more of a row than its codes."""
    whole: Callable[[Tensor, Tensor], Tensor] | None = getattr(sae, "reconstruct", None)
    return sae.decode(codes) if whole is None else whole(rows, codes)


@dataclass(frozen=True)
class ReplaceRows:
    """Replace chosen rows; others stay."""

    keep: Tensor
    """Which rows to replace, [batch, positions] bool."""
    new: Callable[[Tensor], Tensor]
    """Those rows, [rows, width] float32 -> the new ones."""

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the rows, [batch, positions, width], with the chosen ones replaced."""
        if rows.shape[:-1].numel() != self.keep.numel():
            raise ShapeError(
                f"the site holds {tuple(rows.shape)}; rows are marked as {tuple(self.keep.shape)}."
            )
        keep = self.keep.reshape(rows.shape[:-1])
        changed = rows.clone()
        changed[keep] = self.new(rows[keep].float()).to(rows.dtype)
        return changed


def constant(row: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function that puts `row`, [width], in place of every row."""
    return lambda rows: row.to(rows).expand_as(rows)


def zero(rows: Tensor) -> Tensor:
    """Return zeros in place of every row."""
    return torch.zeros_like(rows)


def _is_codec(given: object) -> bool:
    return hasattr(given, "encode") and hasattr(given, "decode")


def _check_codec(given: object) -> None:
    if not _is_codec(given):
        raise SettingsError(
            f"expected a dictionary, got {type(given).__name__} {repr(given)[:60]}: load one by "
            "ps.load_sae(folder), or give anything that encodes and decodes."
        )


def _check_feature(feature: int, count: int) -> None:
    if not 0 <= feature < count:
        raise SettingsError(f"no feature {feature}; the dictionary has 0 to {count - 1}.")


def _check_finite(what: str, value: float) -> None:
    if not math.isfinite(value):
        raise SettingsError(f"{what} is {value}; expected a finite number.")


def _home(sae: Any, rows: Tensor) -> Tensor:
    """Return a tensor that is where the dictionary computes, and of its dtype."""
    weight = getattr(sae, "W_dec", None)
    return weight if isinstance(weight, Tensor) else rows.float()
