"""The model looked into: load it, name its sites, prove them, tap and edit them."""

from probe_sae.host.check import Proof, check
from probe_sae.host.edit import (
    Ablate,
    Clamp,
    ReplaceRows,
    Splice,
    Steer,
    constant,
    edit,
    zero,
)
from probe_sae.host.hook_map_file import hook_maps
from probe_sae.host.host import Host
from probe_sae.host.libraries import versions
from probe_sae.host.loading import bundled_hosts, host_of, load_host
from probe_sae.host.patch import Patch
from probe_sae.host.sites import Site
from probe_sae.host.tap import SiteWatch, tap

__all__ = [
    "Ablate",
    "Clamp",
    "Host",
    "Patch",
    "Proof",
    "ReplaceRows",
    "Site",
    "SiteWatch",
    "Splice",
    "Steer",
    "bundled_hosts",
    "check",
    "constant",
    "edit",
    "hook_maps",
    "host_of",
    "load_host",
    "tap",
    "versions",
    "zero",
]
