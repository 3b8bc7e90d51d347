"""Prove sites of heads: their parts, one by one, sum to what the output projection gives."""

from typing import Any

import torch
from torch import Tensor

from probe_sae.host.host import Host
from probe_sae.host.modules import module_at
from probe_sae.host.proof import Finding, Run, compared


def heads_assemble(host: Host, run: Run) -> list[Finding]:
    """Each head's own part of the output projection sums to what the projection gives."""
    errors: list[float] = []
    wrong: list[str] = []
    for site in host.sites.values():
        if site.heads is None or site.name not in run.seen:
            continue
        module: Any = module_at(host.model, site.path)
        z = run.seen[site.name]
        if type(module).__name__ == "HookPoint":  # of TransformerLens, beside no projection
            if site.layout == "BTHD" and z.shape[2:3] != (site.heads,):
                wrong.append(f"{site.name}: {tuple(z.shape)} are not {site.heads} heads")
            continue
        fits = site.heads > 0 and z.shape[-1] % site.heads == 0 and site.io == "in"
        if not fits or getattr(module, "weight", None) is None:
            wrong.append(f"{site.name}: {site.path} is no projection of {site.heads} heads")
            continue
        total, whole = _by_head(module, z, site.heads)
        error, _, detail = compared(total, whole)
        errors.append(error or 0.0)
        if error is None or error > 1e-2 * max(1.0, float(whole.abs().max())):
            wrong.append(f"{site.name}: {detail}")
    if not errors and not wrong:
        return []
    return [
        Finding(
            "heads re-assemble to the output projection",
            not wrong,
            max(errors, default=None),
            len(errors),
            "; ".join(wrong[:3]),
        )
    ]


@torch.no_grad()
def _by_head(projection: Any, z: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Return the sum of what each head's part gives alone, and what the whole row gives."""
    whole = projection(z)
    bias = getattr(projection, "bias", None)
    parts = z.unflatten(-1, (heads, -1))
    total = torch.zeros_like(whole) if bias is None else torch.zeros_like(whole) + bias
    for head in range(heads):
        only = torch.zeros_like(parts)
        only[..., head, :] = parts[..., head, :]
        total = total + projection(only.flatten(-2)) - (0 if bias is None else bias)
    return total, whole
