"""What a proof of a hook map is made of: findings, the run they come from, how they compare."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from probe_sae.errors import ProbeSaeError
from probe_sae.host.host import Host
from probe_sae.host.resolve import Identity
from probe_sae.host.sites import Site
from probe_sae.host.tap import SiteWatch
from probe_sae.shown import Fact, Shown

TOLERANCE = 16
"""Errors up to this many units in the last place of the largest value count as rounding."""


@dataclass(frozen=True)
class Finding:
    """One thing that was proven, or was not."""

    about: str
    """What, as a rule over all blocks."""
    holds: bool
    error: float | None = None
    """Largest absolute difference, where two numbers were compared."""
    compared: int = 1
    """Number of places where it was looked at."""
    detail: str = ""
    """What is wrong."""


@dataclass
class SiteProof:
    """What is known of one site after the run."""

    site: Site
    shape: tuple[int, ...]
    layout: str
    width: int | None
    error: float | None = None
    """Largest error of the identities that it takes part in; None where there are none."""


@dataclass(repr=False)
class Proof(Shown):
    """What `check` found."""

    host: str
    family: str | None
    findings: list[Finding] = field(default_factory=list[Finding])
    sites: dict[str, SiteProof] = field(default_factory=dict[str, SiteProof])

    def _facts(self) -> list[Fact]:
        known = {"host": self.host, "hook map": self.family, "sites": len(self.sites)}
        return [
            *(Fact(name, value) for name, value in known.items()),
            Fact("holds", self.holds, "Whether the sites are what their names say."),
            Fact("max_error", self.max_error, "Largest error of an identity."),
            *(Fact("NO" if not f.holds else "ok", f.about, f.detail) for f in self.findings),
        ]

    @property
    def holds(self) -> bool:
        """Whether everything held."""
        return all(finding.holds for finding in self.findings)

    @property
    def max_error(self) -> float:
        """Largest error of an identity."""
        return max((f.error for f in self.findings if f.error is not None), default=0.0)


class Run:
    """One run of the host with and one without a tap at every site."""

    def __init__(self, host: Host, inputs: Mapping[str, Tensor]) -> None:
        """Run the host twice."""
        self.host = host
        self.inputs: dict[str, Any] = dict(inputs)
        self.batch = len(next(iter(inputs.values())))
        if getattr(host.config, "model_type", None):
            self.inputs["output_hidden_states"] = True
        self.plain = host.run(self.inputs)
        extra = [site for identity in host.mapped.identities for site in terms_of(identity)]
        self.wanted = {site.name: site for site in [*host.sites.values(), *extra]}
        self.seen: dict[str, Tensor] = {}
        self.order: list[str] = []
        self.tapped: Any = None
        self.problem = ""
        self._tap()

    def _tap(self) -> None:
        def see(site: Site, tensor: Tensor) -> None:
            self.seen[site.name] = tensor.detach().clone()

        watch = SiteWatch(self.host, list(self.wanted.values()), see, stop=False)
        with watch.attached():
            try:
                self.tapped = self.host(self.inputs)
            except ProbeSaeError as problem:
                self.problem = str(problem)
        self.order = watch.fired

    def fired(self) -> list[Finding]:
        """Return whether the host ran, and every site fired once."""
        if self.problem:
            return [Finding("the host runs with a tap at every site", False, detail=self.problem)]
        wrong = [
            f"{name} fired {times} times"
            for name in self.host.sites
            if (times := self.order.count(name)) != 1
        ]
        about = "every site fires exactly once"
        return [Finding(about, not wrong, compared=len(self.host.sites), detail="; ".join(wrong))]


def terms_of(identity: Identity) -> list[Site]:
    """Return the sites of both sides."""
    return [*identity.left, identity.right]


def difference(identity: Identity, seen: Mapping[str, Tensor]) -> tuple[float | None, bool, str]:
    """Return an identity's largest error, whether that is rounding, and what is wrong."""
    silent = [site.name for site in terms_of(identity) if site.name not in seen]
    if silent:
        return None, False, f"{', '.join(silent)} did not fire"
    left = [seen[site.name] for site in identity.left]
    right = seen[identity.right.name]
    try:
        return compared(_combined(identity.function, left, right), right)
    except RuntimeError as problem:
        return None, False, str(problem)


def _combined(function: str, left: list[Tensor], right: Tensor) -> Tensor:
    if function == "cat":
        axis = 1 if left[0].ndim == 4 and left[0].shape[2:] == right.shape[2:] else -1
        return torch.cat(left, axis)
    total = left[0]
    for tensor in left[1:]:
        total = total + (tensor.reshape(total.shape) if tensor.numel() == total.numel() else tensor)
    return total.relu() if function == "relu" else total


def compared(made: Tensor, right: Tensor) -> tuple[float | None, bool, str]:
    """Return the largest absolute error, whether that is rounding, and what is wrong."""
    if made.shape != right.shape and made.numel() == right.numel():
        made = made.reshape(right.shape)
    if made.shape != right.shape:
        return None, False, f"{tuple(made.shape)} is not {tuple(right.shape)}"
    error = float((made.double() - right.double()).abs().max()) if right.numel() else 0.0
    scale = float(right.double().abs().max()) if right.numel() else 0.0
    eps = torch.finfo(right.dtype).eps if right.is_floating_point() else 0.0
    holds = error <= TOLERANCE * eps * max(scale, 1.0)
    return error, holds, "" if holds else f"differs by {error:.3g} of {scale:.3g}"


def same(one: Any, other: Any) -> bool:
    """Tell whether two outputs hold the same tensors, bit for bit."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, Mapping):
        return (
            isinstance(other, Mapping)
            and one.keys() == other.keys()
            and all(same(one[k], other[k]) for k in one)
        )
    if isinstance(one, (tuple, list)):
        return (
            isinstance(other, (tuple, list))
            and len(one) == len(other)
            and all(same(a, b) for a, b in zip(one, other, strict=True))
        )
    return True
