"""Prove a hook map on a host: run it, and see whether every site is what its name says.

The proofs: every site fires exactly as declared, in the declared layout and width; what blocks add
to the residual stream adds up; what one block leaves the next one gets; `hidden_states` that the
model returns are the sites; heads re-assemble; an image's special positions do not see the image;
looking changes no bit of the output, nor does an edit that changes nothing; and an edit that does
change something reaches everything that reads the site.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from probe_sae.errors import ProbeSaeError
from probe_sae.host.check_edits import edits_reach, positions_mix, untouched
from probe_sae.host.check_heads import heads_assemble
from probe_sae.host.config_number import config_entry
from probe_sae.host.hooks import hooked
from probe_sae.host.host import Host
from probe_sae.host.layouts import as_rows, image_size, layout_of
from probe_sae.host.loading import host_of
from probe_sae.host.proof import Finding, Proof, Run, SiteProof, difference, terms_of
from probe_sae.host.resolve import Identity
from probe_sae.host.sites import Site
from probe_sae.host.tiny import example_inputs


def check(
    host: Host | Any, inputs: Mapping[str, Tensor] | None = None, *, edits: bool = True
) -> Proof:
    """Return what holds of a host's hook map, found by running the host on some inputs.

    Args:
        host: what `load_host` returned, or takes.
        inputs: what to call it with; random ones by default, two of each.
        edits: also edit sites, each in a run of its own: those of the first and last block.

    Raises:
        FormatError: nobody knows what the host takes; give inputs.
    """
    host = host_of(host, by_name=True)
    given = dict(inputs if inputs is not None else example_inputs(host))
    proof = Proof(host.name, host.hook_map.family if host.hook_map else None)
    for name in sorted(host.mapped.broken):
        proof.findings.append(Finding(name, False, detail=host.mapped.missing[name]))
    if not host.mapped.sites:
        return _check_raw(host, given, proof)
    run = Run(host, given)
    proof.findings += run.fired()
    if run.problem:
        return proof
    for site in host.sites.values():
        if site.name in run.seen:
            proof.sites[site.name] = _site_proof(host, site, run, proof.findings)
    proof.findings += _layouts(host, run, proof.sites)
    proof.findings += _identities(host, run, proof.sites)
    proof.findings += _hidden_states(host, run)
    proof.findings += _logits(host, run)
    proof.findings += heads_assemble(host, run)
    proof.findings += _special(host, run)
    proof.findings += untouched(host, run)
    if edits:
        proof.findings += edits_reach(host, run)
        proof.findings += positions_mix(host, run)
    return proof


def _site_proof(host: Host, site: Site, run: Run, findings: list[Finding]) -> SiteProof:
    """Return the site's shape and width; what contradicts the map goes into `findings`."""
    tensor = run.seen[site.name]
    layout, width = site.layout, site.width
    try:
        if layout != "pattern":
            layout = layout_of(site, host.model, tensor, image_size(run.inputs.values()))
            width = int(as_rows(tensor, layout).shape[-1])
            if site.width not in (None, width):
                detail = f"rows are {width} long; the map says {site.width}."
                findings.append(Finding(site.name, False, detail=detail))
        elif tensor.ndim != 4 or not _sums_to_one(tensor):
            detail = f"{tuple(tensor.shape)} is no attention pattern: its rows do not sum to 1."
            findings.append(Finding(site.name, False, detail=detail))
        if site.heads is not None and width and (site.heads < 1 or width % site.heads):
            detail = f"{site.heads} heads do not share a row of {width}."
            findings.append(Finding(site.name, False, detail=detail))
    except ProbeSaeError as problem:
        findings.append(Finding(site.name, False, detail=str(problem)))
    return SiteProof(site, tuple(tensor.shape), layout, width)


def _layouts(host: Host, run: Run, proofs: Mapping[str, SiteProof]) -> list[Finding]:
    """On images of other proportions, the rows of a feature map are as long as before."""
    image = next((name for name, x in run.inputs.items() if getattr(x, "ndim", 0) == 4), None)
    maps = {
        name: p
        for name, p in proofs.items()
        if p.layout in ("BCHW", "BHWC") and p.site.width is None
    }
    if image is None or not maps:
        return []
    pixels: Tensor = run.inputs[image]
    height, width = pixels.shape[2:]
    turned = pixels.transpose(2, 3) if height != width else pixels[:, :, : max(1, 3 * height // 4)]
    seen: dict[str, Tensor] = {}

    def see(site: Site, tensor: Tensor) -> None:
        seen[site.name] = tensor

    try:
        with hooked(host.model, [p.site for p in maps.values()], see, host.entry):
            host(run.inputs | {image: turned.contiguous()})
    except (RuntimeError, ValueError, AssertionError):
        return []  # a model of one size
    wrong = [
        f"{name} holds {tuple(seen[name].shape)} and before {p.shape}, so rows are not {p.layout}"
        for name, p in maps.items()
        if name in seen and as_rows(seen[name], p.layout).shape[-1] != p.width
    ]
    about = "rows are as long on images of other proportions"
    return [Finding(about, not wrong, compared=len(maps), detail="; ".join(wrong[:3]))]


def _sums_to_one(pattern: Tensor) -> bool:
    sums = pattern.float().sum(-1)
    return bool(((sums - 1).abs() < 1e-2).all())


def _identities(host: Host, run: Run, sites: dict[str, SiteProof]) -> list[Finding]:
    """Return one finding a rule; the largest error of each site's goes into `sites`."""
    rules: dict[str, list[tuple[Identity, float | None, bool, str]]] = {}
    for identity in host.mapped.identities:
        rules.setdefault(identity.rule, []).append((identity, *difference(identity, run.seen)))
    findings: list[Finding] = []
    for rule, results in rules.items():
        wrong = [f"{i.right.name}: {detail}" for i, _, holds, detail in results if not holds]
        errors = [error for _, error, _, _ in results if error is not None]
        for identity, error, _, _ in results:
            for site in terms_of(identity):
                if error is not None and site.name in sites:
                    known = sites[site.name].error
                    sites[site.name].error = max(error, known or 0.0)
        findings.append(
            Finding(rule, not wrong, max(errors, default=None), len(results), "; ".join(wrong[:3]))
        )
    if not findings:
        findings.append(Finding("the hook map states an identity", False, detail="it states none"))
    return findings


def _hidden_states(host: Host, run: Run) -> list[Finding]:
    """Compare the hidden states that the model returns with the sites, bit for bit."""
    findings: list[Finding] = []
    for entry, sites in host.mapped.states:
        states = config_entry(run.tapped, entry)
        if states is None or not sites:
            continue
        about = f"{entry} are {sites[0].name} to {sites[-1].name}, bit for bit"
        wrong = [
            f"{site.name} is not {entry}[{i}]"
            for i, site in enumerate(sites)
            if i >= len(states) or not torch.equal(run.seen[site.name], states[i])
        ]
        if len(states) == len(sites) + 1:
            last = _last_sites(host, sites[-1])
            same_shape = [x for x in last if run.seen[x.name].shape == states[-1].shape]
            if same_shape and not any(torch.equal(run.seen[x.name], states[-1]) for x in last):
                names = " nor ".join(site.name for site in last)
                wrong.append(f"the last of {entry} is neither {names}")
        error = None if wrong else 0.0
        findings.append(Finding(about, not wrong, error, len(sites), "; ".join(wrong[:3])))
    if host.mapped.states and not findings and getattr(host.config, "model_type", None):
        entries = ", ".join(entry for entry, _ in host.mapped.states)
        findings.append(Finding("hidden states are compared", False, detail=f"no {entries}"))
    return findings


def _last_sites(host: Host, before: Site) -> list[Site]:
    """Return what the last hidden state may be: the last block's output, or that normed."""
    tower = before.name.partition("blocks.")[0]
    block = before.name.rpartition(".")[0]
    names = (f"{tower}final_norm", f"{block}.resid_post")
    return [host.sites[name] for name in names if name in host.sites]


def _logits(host: Host, run: Run) -> list[Finding]:
    """The logits that the model returns are the site's, bit for bit."""
    logits = getattr(run.tapped, "logits", None)
    seen = [
        run.seen[name]
        for name in host.sites
        if name.split(".")[-1] == "logits" and name in run.seen
    ]
    if not isinstance(logits, Tensor) or not seen:
        return []
    return [Finding("logits are the model's, bit for bit", torch.equal(seen[0], logits), 0.0)]


def _special(host: Host, run: Run) -> list[Finding]:
    """The special positions of an embedding are the same for any image, the others are not."""
    findings: list[Finding] = []
    noise = torch.Generator().manual_seed(1)
    for tower in host.mapped.towers:
        site = host.sites.get(f"{tower.name}.embed" if tower.name else "embed")
        if tower.kind != "image" or site is None or site.name not in run.seen:
            continue
        if run.seen[site.name].ndim != 3:
            continue
        images = {
            name: torch.randn(x.shape, generator=noise).to(x) if getattr(x, "ndim", 0) == 4 else x
            for name, x in run.inputs.items()
        }
        same = (_held(host, site, run.inputs) == _held(host, site, images)).all(-1).all(0)
        wanted = site.special_prefix
        found = int(same.long().cumprod(0).sum())
        holds = found == wanted and not bool(same[wanted:].any())
        detail = "" if holds else f"{found} positions are the same for any image; expected {wanted}"
        about = f"{site.name}: {wanted} special positions before {len(same) - wanted} patches"
        findings.append(Finding(about, holds, detail=detail))
    return findings


def _held(host: Host, site: Site, inputs: Mapping[str, Any]) -> Tensor:
    """Return what a site holds in a run."""
    seen: list[Tensor] = []

    def see(_: Site, tensor: Tensor) -> None:
        seen.append(tensor.clone())

    with hooked(host.model, [site], see, host.entry):
        host(inputs)
    return seen[0]


def _check_raw(host: Host, inputs: dict[str, Tensor], proof: Proof) -> Proof:
    """Without a map there are no promises: say which modules can be tapped."""
    times: dict[str, int] = {}
    seen: dict[str, tuple[int, ...]] = {}
    handles = []
    for path, module in host.model.named_modules():

        def after(_: nn.Module, __: Any, output: Any, path: str = path) -> None:
            times[path] = times.get(path, 0) + 1
            if isinstance(output, Tensor):
                seen[path] = tuple(output.shape)

        handles.append(module.register_forward_hook(after))
    try:
        host.run(inputs)
    finally:
        for handle in handles:
            handle.remove()
    for path, _ in host.model.named_modules():
        if not path:
            continue
        count = times.get(path, 0)
        detail = "" if count == 1 else f"called {count} times"
        proof.findings.append(Finding(f"path:{path}@out", count >= 1, None, count, detail))
        if path in seen:
            name = f"path:{path}@out"
            proof.sites[name] = SiteProof(host.sites[name], seen[path], "auto", None)
    return proof
