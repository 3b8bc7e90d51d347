"""`probe-sae check`."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from probe_sae.cli import emit
from probe_sae.cli.options import HOST_HELP, Json
from probe_sae.errors import EnvironmentProblem, FormatError, SettingsError, near


def check_command(
    host: Annotated[str | None, typer.Argument(help=HOST_HELP)] = None,
    maps: Annotated[
        bool, typer.Option("--maps", help="Prove every hook map on tiny random models.")
    ] = False,
    family: Annotated[
        list[str] | None, typer.Option("--family", help="With --maps: only this one.")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="With --maps: print the table of the guide.")
    ] = False,
    attention: Annotated[
        str | None, typer.Option(help="eager: with attention patterns, where the model has them.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Prove that the sites of a host are what their names say.

    Runs the host and sees whether residual identities hold, every site fires exactly as declared,
    layouts and widths agree, heads re-assemble, MLPs keep positions apart and attention mixes them,
    and edits reach what reads the site. Exit code 2 if something does not hold.

    Example: `probe-sae check bundled:code-lm`
    """
    if maps == (host is not None):
        raise SettingsError("give a HOST, or --maps; see probe-sae check --help.")
    if maps:
        _check_maps(family or [], markdown=markdown, as_json=as_json)
        return
    from probe_sae.host import check, load_host

    proof = check(load_host(str(host), device="cpu", attention=attention))
    lines = [
        f"{'ok ' if f.holds else 'NO '} {f.about}"
        + (f"   max error {f.error:.3g}" if f.error is not None else "")
        + (f"   {f.compared} places" if f.compared > 1 else "")
        + (f"   {f.detail}" if f.detail else "")
        for f in proof.findings
    ]
    family_name = proof.family or "none, so nothing is promised: these modules can be tapped"
    head = f"{proof.host}: hook map {family_name}, {len(proof.sites)} sites"
    verdict = "everything holds" if proof.holds else "not everything holds"
    emit(_as_json(proof), "\n".join([head, *lines, verdict]), as_json=as_json)
    if proof.family and not proof.holds:
        raise typer.Exit(2)


def _as_json(proof: Any) -> dict[str, Any]:
    return {
        "host": proof.host,
        "family": proof.family,
        "holds": proof.holds,
        "max_error": proof.max_error,
        "findings": [asdict(finding) for finding in proof.findings],
        "sites": [
            asdict(seen.site) | {"layout": seen.layout, "width": seen.width, "error": seen.error}
            for seen in proof.sites.values()
        ],
    }


def _check_maps(families: list[str], *, markdown: bool, as_json: bool) -> None:
    from probe_sae.host.hook_map_file import hook_maps
    from probe_sae.host.proof_table import needs_others, prove, table
    from probe_sae.progress import progress

    known = {hook_map.family: hook_map for hook_map in hook_maps()}
    for name in families:
        if name not in known:
            raise FormatError(f"no hook map {name!r}.{near(name, known)} probe-sae list hooks.")
    wanted = [known[name] for name in families or sorted(known)]
    proven, lacking = [], dict[str, str]()
    with progress("check", len(wanted), unit="maps") as advance:
        for hook_map in wanted:
            try:
                proven.append(prove(hook_map))
            except EnvironmentProblem as problem:
                if families or not needs_others(hook_map):
                    raise
                lacking[hook_map.family] = str(problem)
            advance(1)
    lines = [
        f"{'ok ' if p.holds else 'NO '} {p.hook_map.family:<28} {len(p.proofs)} models   max error "
        f"{max((proof.max_error for proof in p.proofs), default=0.0):.3g}"
        for p in proven
    ]
    for p in proven:
        if not p.proofs:
            lines.append(f"    {p.hook_map.family} brings no [[tiny]] model to be proven on.")
        for proof in p.proofs:
            lines += [f"    {f.about}: {f.detail}" for f in proof.findings if not f.holds]
    lines += [f"--  {family:<28} not checked: {why}" for family, why in lacking.items()]
    summary = {
        "not_checked": lacking,
        "holds": all(p.holds for p in proven),
        "families": {p.hook_map.family: [_as_json(proof) for proof in p.proofs] for p in proven},
    }
    emit(summary, table(proven).rstrip() if markdown else "\n".join(lines), as_json=as_json)
    if not summary["holds"]:
        raise typer.Exit(2)
