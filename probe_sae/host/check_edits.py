"""What only edits can prove: that they reach everything that reads a site, and nothing else."""

from contextlib import ExitStack

import torch
from torch import Tensor

from probe_sae.errors import ProbeSaeError
from probe_sae.host.edit import edit
from probe_sae.host.hooks import hooked
from probe_sae.host.host import Host
from probe_sae.host.layouts import as_rows
from probe_sae.host.proof import Finding, Run, difference, same, terms_of
from probe_sae.host.sites import Site


def untouched(host: Host, run: Run) -> list[Finding]:
    """Neither taps nor edits that change nothing change a bit of the output."""
    findings = [
        Finding("a tap changes no bit of the output", same(run.plain, run.tapped)),
    ]
    editable = [site.name for site in host.sites.values() if site.layout != "pattern"]
    try:
        with edit(host, editable, torch.clone):
            edited = host(run.inputs)
        findings.append(
            Finding(
                "an edit that changes nothing changes no bit of the output",
                same(run.plain, edited),
                compared=len(editable),
            )
        )
    except (ProbeSaeError, RuntimeError) as problem:
        findings.append(Finding("every site can be edited", False, detail=str(problem)))
    return findings


def edits_reach(host: Host, run: Run) -> list[Finding]:
    """An edit of a site changes the output, and reaches everything that reads the site.

    The identities that the site is a part of hold with its new value.
    """
    compared, wrong = 0, list[str]()
    for site in _first_and_last(host, run):
        about = [i for i in host.mapped.identities if site.name in {term.name for term in i.left}]
        seen: dict[str, Tensor] = {}

        def see(at: Site, tensor: Tensor, seen: dict[str, Tensor] = seen) -> None:
            seen[at.name] = tensor.detach().clone()

        terms = {term.name: term for identity in about for term in terms_of(identity)}
        try:
            with ExitStack() as stack:
                stack.enter_context(edit(host, site.name, _moved))
                stack.enter_context(hooked(host.model, list(terms.values()), see, host.entry))
                edited = host(run.inputs)
        except (ProbeSaeError, RuntimeError) as problem:
            wrong.append(f"{site.name} cannot be edited: {problem}")
            continue
        if same(run.plain, edited):
            wrong.append(f"an edit of {site.name} changes nothing")
        for identity in about:
            _, holds, detail = difference(identity, seen)
            compared += 1
            if not holds:
                end = identity.right.name
                wrong.append(f"an edit of {site.name} does not reach {end}: {detail}")
    what = "an edit reaches everything that reads the site"
    return [Finding(what, not wrong, compared=compared, detail="; ".join(wrong[:3]))]


_MIXING = ("heads", "attn_out", "mixer_out")
_POINTWISE = ("mlp_post", "mlp_out")


def positions_mix(host: Host, run: Run) -> list[Finding]:
    """Attention carries one position's change to others, an MLP does not: each is what it says."""
    compared, wrong = 0, list[str]()
    for pre in _first_and_last(host, run):
        block, _, last = pre.name.rpartition(".")
        if last != "resid_pre" or run.seen[pre.name].ndim != 3:
            continue
        middle = host.sites.get(f"{block}.resid_mid", pre)
        for start, names, mixes in ((pre, _MIXING, True), (middle, _POINTWISE, False)):
            sites = [host.sites[n] for name in names if (n := f"{block}.{name}") in run.seen]
            if start.name not in run.seen:
                continue
            changed = _changed_positions(host, run, start, sites)
            for site in sites:
                if site.layout == "windows":
                    continue
                compared += 1
                there, elsewhere = changed[site.name]
                if not there:
                    wrong.append(f"{site.name} does not see a change of {start.name}")
                elif elsewhere != mixes:
                    does = "carries" if elsewhere else "does not carry"
                    wrong.append(f"{site.name} {does} a position's change to others")
    if not compared:
        return []
    about = "attention mixes positions, MLPs do not"
    return [Finding(about, not wrong, compared=compared, detail="; ".join(wrong[:3]))]


def _changed_positions(
    host: Host, run: Run, start: Site, sites: list[Site]
) -> dict[str, tuple[bool, bool]]:
    """Change one position of `start`; return which sites change there, and elsewhere.

    The position is the first one after the special ones, which a causal model shows to all others.
    """
    at = start.special_prefix
    seen: dict[str, Tensor] = {}

    def change(rows: Tensor) -> Tensor:
        shaped = rows.reshape(run.batch, -1, rows.shape[-1]).clone()
        shaped[:, at] = shaped[:, at].flip(-1) * 1.5 + 0.25
        return shaped.reshape(rows.shape)

    def see(site: Site, tensor: Tensor) -> None:
        seen[site.name] = tensor.detach().clone()

    with edit(host, start.name, change), hooked(host.model, sites, see, host.entry):
        host(run.inputs)
    changed: dict[str, tuple[bool, bool]] = {}
    for site in sites:
        if site.layout == "windows":
            continue
        before, after = (
            as_rows(t, site.layout, run.batch) for t in (run.seen[site.name], seen[site.name])
        )
        least = 16 * torch.finfo(before.dtype).eps * float(before.abs().max())  # rounding: experts
        moved = ((before - after).abs() > least).any(-1)
        elsewhere = torch.ones(moved.shape[1], dtype=torch.bool)
        elsewhere[at] = False
        changed[site.name] = bool(moved[:, at].all()), bool(moved[:, elsewhere].any())
    return changed


def _moved(rows: Tensor) -> Tensor:
    """Return rows changed so that nobody can miss it."""
    return rows * 1.5 + 0.25


def _first_and_last(host: Host, run: Run) -> list[Site]:
    """Return the sites of the first and the last block of each kind, and those without blocks."""
    groups: dict[str, list[Site]] = {}
    for site in host.sites.values():
        if site.layout != "pattern" and site.name in run.seen:
            key = "".join("#" if char.isdigit() else char for char in site.name)
            groups.setdefault(key, []).append(site)
    return [site for group in groups.values() for site in dict.fromkeys((group[0], group[-1]))]
