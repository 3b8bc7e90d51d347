"""Names of sites: globs, braces, and what other libraries call the same places.

The one place where another library's name becomes ours. `probe-sae guide sites` has the table.
"""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from probe_sae.errors import SiteNotFound, near_names
from probe_sae.progress import say

_TRANSFORMER_LENS = {
    "resid_pre": ("hook_resid_pre", "hook_in"),
    "resid_mid": ("hook_resid_mid",),
    "resid_post": ("hook_resid_post", "hook_out"),
    "resid_cross": ("hook_resid_mid_cross",),
    "attn_out": ("hook_attn_out",),
    "cross_out": ("hook_cross_attn_out",),
    "mlp_out": ("hook_mlp_out",),
    "heads": ("attn.hook_z", "attn.o.hook_in"),
    "attn_pattern": ("attn.hook_pattern",),
    "mlp_post": ("mlp.hook_post", "mlp.out.hook_in"),
    "final_norm": ("ln_final.hook_normalized", "ln_final.hook_out"),
    "logits": ("hook_unembed", "unembed.hook_out"),
}
"""Last part of our name -> TransformerLens', HookedTransformer's first, then its bridge's."""
_BEFORE_WEIGHTS = "ln_final.hook_normalized"
"""The one name that is near ours in place, and not the same in value."""
_BY_LAYER = re.compile(r"blocks\.(\d+)\.(resid_pre|resid_post|attn_out|mlp_out)")
"""What dictionary_learning's examples call `resid_post_layer_8`."""


def other_names(name: str) -> list[str]:
    """Return what other libraries call our site `name`; a pattern with `{i}` gives patterns."""
    head, dot, last = name.rpartition(".")
    names = [f"{head}{dot}{other}" for other in _TRANSFORMER_LENS.get(last, ())]
    tower, blocks, rest = name.partition(".blocks.")
    if blocks:  # an encoder beside a decoder: encoder.3.hook_resid_post
        names += [f"{tower}.{other}" for other in other_names(rest)] if "." in rest else []
    if match := _BY_LAYER.fullmatch(name):
        names.append(f"{match[2]}_layer_{match[1]}")
    return names


def aliases(names: Iterable[str]) -> dict[str, str]:
    """Return what other libraries call sites -> our names of them."""
    return {other: name for name in names for other in other_names(name)}


def named(pattern: str, known: Iterable[str], others: Mapping[str, str] | None = None) -> list[str]:
    """Return the sites of `known` that a name or glob stands for, or another library's name.

    Args:
        pattern: without braces, which `expand_braces` takes apart.
        known: our names.
        others: other names -> ours; what `aliases` says of `known` by default.
    """
    listed = list(known)
    if found := [name for name in listed if name == pattern or fnmatchcase(name, pattern)]:
        return found
    pairs = (aliases(listed) if others is None else others).items()
    found = {name: ours for name, ours in pairs if fnmatchcase(name, pattern)}
    for name, ours in found.items():
        if name.endswith(_BEFORE_WEIGHTS) and ours in listed:
            say(
                f"{name} of TransformerLens comes before the norm's weights and bias; {ours}, "
                "which is taken for it, after them."
            )
    return list(dict.fromkeys(found.values()))


def near_sites(name: str, known: Iterable[str], others: Mapping[str, str] | None = None) -> str:
    """Return which of our sites a name may mean, as `errors.near` does.

    One that is near only by another library's name of it stands with that name. A module path that
    ends in a number (`layers.3`) is taken for a block, whose output is near.

    Args:
        name: what stands for nothing.
        known: our names.
        others: other names -> ours; what `aliases` says of `known` by default.
    """
    listed = list(known)
    block = re.fullmatch(r"(?:\w+\.)*[A-Za-z]\w*\.(\d+)", name)
    if block and (post := f"blocks.{block[1]}.resid_post") in listed:
        return f" Near it: {post}."
    theirs = aliases(listed) if others is None else others
    matches = near_names(name, [*listed, *theirs])
    found = {match: match for match in matches if match not in theirs}
    for match in matches:
        ours = theirs.get(match, match)
        found.setdefault(ours, ours if ours == match else f"{ours} ({match})")
    return f" Near it: {', '.join(found.values())}." if found else ""


def expand_braces(pattern: object) -> list[str]:
    """Return the patterns that `a.{0,2}.b` stands for.

    Raises:
        SiteNotFound: it is no text.
    """
    if not isinstance(pattern, str):
        raise SiteNotFound(f"{pattern!r} names no site; expected text, as blocks.6.resid_post.")
    inside = re.search(r"\{([^{}]*)\}", pattern)
    if inside is None:
        return [pattern]
    head, tail = pattern[: inside.start()], pattern[inside.end() :]
    return [
        name for part in inside[1].split(",") for name in expand_braces(head + part.strip() + tail)
    ]
