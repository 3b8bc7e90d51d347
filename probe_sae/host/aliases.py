"""What other libraries call a host's sites, where that depends on the host."""

from collections.abc import Iterable

from torch import nn

from probe_sae.host.modules import modules_of
from probe_sae.host.resolve import Identity
from probe_sae.host.sites import Site
from probe_sae.site_names import aliases

_SUMS = {"resid_mid": ("resid_pre", "attn_out"), "resid_post": ("resid_mid", "mlp_out")}


def host_aliases(
    sites: dict[str, Site], identities: Iterable[Identity], model: nn.Module
) -> dict[str, str]:
    """Return other libraries' names of sites -> ours; a raw path where we have no name for it.

    TransformerLens means by `hook_resid_mid` and `hook_resid_post` the sums themselves. Where a
    family norms each sum (BERT), ours are what comes after the norm, and its names are those of the
    norm's input. Its `hook_embed` is the tokens' embedding alone, without positions. In a model of
    TransformerLens itself, a name of a hook point that no site of ours is at is that hook point's.
    """
    modules = modules_of(model)
    found = {
        other: ours
        for other, ours in aliases(sites).items()
        if other not in modules or modules[other] is modules[sites[ours].path]
    }
    for identity in identities:
        right = identity.right.name
        block, _, last = _sum_of(identity)
        if last and right != (ours := f"{block}.{last}"):
            for other in [other for other, name in found.items() if name == ours]:
                del found[other]
            found[f"{block}.hook_{last}"] = right
            if ours in sites:
                found[f"{block}.hook_normalized_{last}"] = ours
    if "hook_embed" not in modules and (path := _embedding(model)):
        at = next((s.name for s in sites.values() if (s.path, s.io) == (path, "out")), "")
        found |= dict.fromkeys(("hook_embed", "embed.hook_out"), at or f"path:{path}@out")
    return found


def _sum_of(identity: Identity) -> tuple[str, str, str]:
    """Return block and name of the stream that an identity adds up; empty if it is no such sum."""
    names = {term.name.rpartition(".")[0::2] for term in identity.left}
    for last, terms in _SUMS.items():
        block = next(iter(names))[0]
        if identity.function == "sum" and names == {(block, term) for term in terms}:
            return block, ".", last
    return "", "", ""


def _embedding(model: nn.Module) -> str:
    """Return the path of the module that embeds tokens; empty where the model names none."""
    get = getattr(model, "get_input_embeddings", None)
    try:
        wanted = get() if callable(get) else None
    except (NotImplementedError, AttributeError):  # a model of images
        return ""
    return next((path for path, module in model.named_modules() if module is wanted), "")
