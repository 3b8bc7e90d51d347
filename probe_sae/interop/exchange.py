"""Load any dictionary, import one into a folder of ours, export one of ours."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from probe_sae.errors import FormatError, SettingsError, near
from probe_sae.interop.formats import FORMATS, Write, format_named, format_of
from probe_sae.interop.reading import read_json
from probe_sae.interop.source import NOTE, Source
from probe_sae.outputs import refuse_partial, usual_permissions, whole_folder
from probe_sae.sae import SAE, PlainSAE, as_plain, save_sae
from probe_sae.sae import load_sae as load_ours
from probe_sae.sae.hub import fetch_folder
from probe_sae.sae.hub_ids import is_hub_id

OURS = "probe_sae.sae"
WRITABLE = ("plain", *(name for name, kind in FORMATS.items() if kind.write is not None))
"""Formats that a dictionary can be exported in."""


def load_sae(path: str | Path, *, sites: Sequence[str] = (), **options: Any) -> SAE:
    """Return the dictionary in a folder or file: ours, or another library's.

    Args:
        path: a folder as `train` writes it, or a checkpoint of SAELens, sparsify,
            dictionary_learning, Gemma Scope, OpenAI and others (`probe-sae guide exchange`); or
            one on the hub, `hf:user/name/folder@revision`, `saelens:RELEASE/ID`.
        sites: of a store, that it reads (a transcoder: and reconstructs), where it does not say.
        options: what the files of some do not say: `k`, `activation`, `dict_class`, `transcoder`.

    Raises:
        FormatError: there is none, or it is unfinished, damaged, hostile or of no known format.
        EndpointError: the hub has none, or cannot be reached.
        SettingsError: an option that there is not.
    """
    path = _at_hand(path)
    if _is_ours(path):
        if options:
            raise SettingsError(
                f"{path} is one of ours, and says {', '.join(options)} itself; options are for "
                "other libraries' files."
            )
        sae = load_ours(path)
    else:
        sae = read_foreign(path, None, options)
    _say_sites(sae, sites)
    return sae


def as_sae(sae: object) -> SAE:
    """Return a dictionary that is given, or that lies where a path says.

    Raises:
        SettingsError: it is neither.
        FormatError: see `load_sae`.
    """
    if isinstance(sae, SAE):
        return sae
    if not isinstance(sae, (str, Path)):
        raise SettingsError(f"expected a dictionary, or its folder; got {type(sae).__name__}.")
    return load_sae(sae)


def _say_sites(sae: SAE, sites: Sequence[str]) -> None:
    """Let a dictionary say which sites of a store it reads, where a caller does."""
    if not sites:
        return
    names = [sites] if isinstance(sites, str) else list(sites)
    known = sae.provenance.get("sites") or names
    if list(known) != names:
        raise SettingsError(
            f"the dictionary was trained on {', '.join(known)}, not on {', '.join(names)}."
        )
    if len(names) != len(sae.widths):
        raise SettingsError(
            f"the dictionary takes {len(sae.widths)} site{'s' * (len(sae.widths) > 1)}; got "
            f"{len(names)}: {', '.join(names)}."
        )
    sae.provenance["sites"] = names


def _at_hand(path: str | Path) -> Path:
    """Return the local path of a dictionary; one of the hub is downloaded."""
    if is_hub_id(str(path)):
        return fetch_folder(str(path))
    path = refuse_partial(path)
    if not path.exists():
        raise FormatError(f"there is no {path}. One on the Hugging Face hub is hf:USER/NAME.")
    return path


def _is_ours(path: Path) -> bool:
    config = path / "config.json"
    if not path.is_dir():
        return False
    if not config.is_file():
        return not any(path.iterdir())  # whose message says what was expected
    return read_json(config).get("format") == OURS


def read_foreign(path: Path, named: str | None, options: dict[str, Any]) -> PlainSAE:
    """Return another library's dictionary.

    Args:
        path: a file or folder.
        named: its format; looked for when absent.
        options: see `load_sae`.

    Raises:
        FormatError: it is missing, damaged, hostile or of no known format.
        SettingsError: an option that there is not.
    """
    source = Source(path, options)
    kind = format_named(named or format_of(source))
    if named is not None and not kind.is_it(source):
        raise FormatError(f"{path} is not of the format {named}; it is {format_of(source)}.")
    try:
        sae = kind.read(source)
    except SettingsError as problem:
        if options:  # which may be what is wrong
            raise
        raise FormatError(f"{path}: {problem}") from problem
    _check_finite(sae, path)
    if unused := [name for name in options if name not in source.used]:
        raise SettingsError(
            f"{path} says {', '.join(unused)} itself, or has no use for it; leave it out."
        )
    sae.provenance["imported"]["from"] = path.name
    if source.has(NOTE):  # written by us, and says what its sites are here
        sites = source.config(NOTE).get("sites")
        if isinstance(sites, list) and sites and all(isinstance(site, str) for site in sites):
            sae.provenance.setdefault("trained_on", {})["hooks"] = sites
    return sae


def _check_finite(sae: PlainSAE, path: Path) -> None:
    """Check what became of weights that were finite: scales and logarithms went into them."""
    lost = [name for name, weight in sae.named_parameters() if not bool(weight.isfinite().all())]
    if lost:
        raise FormatError(
            f"{path}: brought to raw rows by the numbers in its files, {', '.join(lost)} would "
            "hold values that are not finite."
        )


def import_sae(
    path: str | Path,
    out: str | Path,
    *,
    format: str | None = None,
    sites: Sequence[str] = (),
    force: bool = False,
    **options: Any,
) -> PlainSAE:
    """Read another library's dictionary, write it as one of ours, and return it.

    Args:
        path: its file or folder.
        out: the folder to write.
        format: its format, where it is not to be looked for.
        sites: see `load_sae`.
        force: replace a finished `out`.
        options: see `load_sae`.

    Raises:
        FormatError: see `load_sae`.
        OutputExists: `out` is there already.
    """
    path = _at_hand(path)
    if _is_ours(path) and (path / "config.json").is_file():
        raise FormatError(f"{path} is a dictionary of ours already; use it as it is.")
    sae = read_foreign(path, format, options)
    _say_sites(sae, sites)
    with whole_folder(out, force=force, marks=("config.json",)) as folder:
        save_sae(folder, sae)
    return sae


def export_sae(
    sae: SAE | str | Path,
    out: str | Path,
    format: str,
    *,
    force: bool = False,
) -> None:
    """Write a dictionary in another library's format.

    Codes and reconstructions stay as they are on raw activations; the input scale is folded into
    the weights, which the files say.

    Args:
        sae: a dictionary, or where one lies.
        out: the folder to write.
        format: `saelens`, `sparsify`, `dictionary_learning`, `gemma_scope`, `openai`; or `plain`,
            a folder of ours with weights for raw activations.
        force: replace a finished `out`.

    Raises:
        FormatError: no such format.
        SettingsError: the format has nothing like this dictionary.
        OutputExists: `out` is there already.
    """
    sae = as_sae(sae)
    format = format.lower()
    if format not in WRITABLE:
        what = "is read only" if format in FORMATS else "is no format"
        raise FormatError(
            f"{format!r} {what}; written are {', '.join(WRITABLE)}, and analyses for neuronpedia "
            f"(write_neuronpedia).{near(format, WRITABLE)}"
        )
    with torch.no_grad():
        plain, words = as_plain(sae.cpu()), _words(sae)
        with whole_folder(out, force=force, marks=(NOTE, "config.json")) as folder:
            if format == "plain":
                save_sae(folder, plain)
                return
            try:
                _written(format)(plain, folder, words)
            except SettingsError as problem:
                kind, there = sae.settings.arch, plain.settings.activation
                became = "" if kind in ("plain", there) else f" ({kind} becomes {there} there.)"
                raise SettingsError(f"{problem}{became}") from problem
            (folder / NOTE).write_text(json.dumps(words["written"], indent=1))
            for file in folder.glob("*.safetensors"):
                usual_permissions(file)


def _written(format: str) -> Write:
    write = FORMATS[format].write
    if write is None:
        raise FormatError(f"{format!r} is read only.")
    return write


def _words(sae: SAE) -> dict[str, Any]:
    """Return what formats say of a dictionary's origin, in their words."""
    from probe_sae import __version__

    known, trained_on = sae.provenance, sae.provenance.get("trained_on") or {}
    sites = known.get("sites") or trained_on.get("hooks") or ["unknown"]
    host = known.get("host") or {}
    name = host.get("name") if isinstance(host, dict) else None
    layer = re.search(r"\d+", str(sites[0]))
    scale = sae.input_scale.flatten()
    written = {
        "format": "probe_sae.export",
        "version": __version__,
        "arch": sae.settings.arch,
        "folded_input_scale": float(scale[0]) if len(scale) == 1 else None,
        "formula": "weights take raw activations; codes are those of the dictionary written",
        "sites": [str(site) for site in sites],
    }
    return {
        "host": str(name or trained_on.get("host") or "unknown"),
        "hooks": [_hook(str(site)) for site in sites],
        "layer": int(layer.group()) if layer else 0,
        "written": written,
    }


def _hook(site: str) -> str:
    """Return TransformerLens' name of a site, where ours differs from it by a prefix only."""
    return re.sub(
        r"^(blocks\.\d+\.)(resid_pre|resid_mid|resid_post|attn_out|mlp_out)$", r"\1hook_\2", site
    )
