"""The proof of every hook map on tiny random models, as a table for the documentation."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from probe_sae.host.check import Proof, check
from probe_sae.host.hook_map import HookMap
from probe_sae.host.libraries import versions
from probe_sae.host.tiny import OPTIONAL, example_inputs, tiny_host


@dataclass(frozen=True)
class FamilyProof:
    """What was proven of one hook map."""

    hook_map: HookMap
    proofs: list[Proof]
    """One a tiny model and way of attention."""

    @property
    def holds(self) -> bool:
        """Whether everything held, of at least one model."""
        return bool(self.proofs) and all(proof.holds for proof in self.proofs)


def needs_others(hook_map: HookMap) -> bool:
    """Tell whether a map's tiny models are all of libraries that probe_sae does without."""
    return all(tiny.model.partition(":")[0] in OPTIONAL for tiny in hook_map.tiny)


def prove(hook_map: HookMap) -> FamilyProof:
    """Return the proof of a map on each of its tiny models, with and without attention patterns.

    Raises:
        FormatError: the libraries here cannot make a model that the map names.
        EnvironmentProblem: a library that makes them is not here.
    """
    proofs: list[Proof] = []
    for tiny in hook_map.tiny:
        ways = (None, "eager") if tiny.model.startswith("transformers:") else (None,)
        for attention in ways:
            host = tiny_host(hook_map, tiny, attention)
            proofs.append(check(host, example_inputs(host, tiny)))
    return FamilyProof(hook_map, proofs)


def table(families: Iterable[FamilyProof]) -> str:
    """Return Markdown: every family and site with layout, module, largest error and versions."""
    parts = [_HEAD.format(**versions())]
    for family in families:
        parts.append("\n".join(_family(family)))
    return "\n\n".join(parts) + "\n"


_HEAD = """# Families

Every hook map, proven on tiny random models, in float32 on a CPU. This page was made by
`probe-sae check --maps --markdown` with transformers {transformers}, torchvision {torchvision} and
torch {torch}; `probe-sae check --maps` proves the maps with the versions that you have, and
`probe-sae check HOST` proves one of them on a real host.

*Error*: the largest absolute error of the residual identities that the site takes part in; 0 is
bit for bit. A dash: the site is in no identity, and is proven by where it fires, by its layout, by
what it depends on, by the model's own output, or by what an edit of it does. *Layout*: B batch, T
positions, D width, C channels; `probe-sae guide sites` explains all.

Maps of timm, open_clip and TransformerLens are proven where those libraries are installed."""


def _family(family: FamilyProof) -> Iterator[str]:
    hook_map = family.hook_map
    models = dict.fromkeys(tiny.model.partition(":")[2] for tiny in hook_map.tiny)
    yield f"## {hook_map.family}"
    yield ""
    names = ", ".join(f"`{name}`" for name in (*hook_map.model_types, *hook_map.classes))
    yield f"{hook_map.about} For {names}; checked on {', '.join(models)}: " + (
        "everything holds." if family.holds else "**not everything holds**."
    )
    yield ""
    identities = dict.fromkeys(
        finding.about
        for proof in family.proofs
        for finding in proof.findings
        if " == " in finding.about
    )
    yield from (f"- `{identity}`" for identity in identities)
    yield ""
    yield "| site | layout | module | error |"
    yield "|---|---|---|---|"
    rows: dict[str, tuple[str, str, float | None]] = {}
    for proof in family.proofs:
        for name, seen in proof.sites.items():
            glob = re.sub(r"\.\d+(?=\.|$)", ".*", name)
            layout, place, error = rows.get(glob, (seen.layout, seen.site.place, None))
            if seen.error is not None:
                error = max(error or 0.0, seen.error)
            rows[glob] = layout, place, error
    for glob, (layout, place, error) in rows.items():
        shown = "-" if error is None else f"{error:.2g}"
        yield f"| `{glob}` | {layout} | `{place}` | {shown} |"
