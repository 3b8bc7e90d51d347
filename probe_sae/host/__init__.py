"""The model looked into: load it, name its sites, tap and edit them."""

from probe_sae.host.edit import ReplaceRows, Steer, constant, edit, zero
from probe_sae.host.hook_map import hook_maps
from probe_sae.host.libraries import versions
from probe_sae.host.loading import Host, bundled_hosts, load_host
from probe_sae.host.sites import Site
from probe_sae.host.tap import SiteWatch, tap

__all__ = [
    "Host",
    "ReplaceRows",
    "Site",
    "SiteWatch",
    "Steer",
    "bundled_hosts",
    "constant",
    "edit",
    "hook_maps",
    "load_host",
    "tap",
    "versions",
    "zero",
]
