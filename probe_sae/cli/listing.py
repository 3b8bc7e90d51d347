"""`probe-sae list`."""

from typing import Annotated, Any

import typer

from probe_sae.cli import emit
from probe_sae.cli.options import Json

KINDS = ("hosts", "datasets", "archs", "hooks", "formats")


def listing(
    kind: Annotated[str, typer.Argument(help="hosts, datasets, archs, hooks or formats.")],
    as_json: Json = False,
) -> None:
    """List what there is.

    Example: `probe-sae list datasets`
    """
    from probe_sae.errors import SettingsError, near

    if kind not in KINDS:
        raise SettingsError(
            f"cannot list {kind!r}; there are {', '.join(KINDS)}.{near(kind, KINDS)}"
        )
    entries = _entries(kind)
    text = "\n".join(f"{name:<22} {about}" for name, about in entries.items())
    emit({kind: entries}, text, as_json=as_json)


def _entries(kind: str) -> dict[str, Any]:
    if kind == "datasets":
        from probe_sae.recording import recipe_names

        return recipe_names()
    if kind == "archs":
        from probe_sae.sae import ARCHITECTURES

        return {
            name: (settings.__doc__ or "").splitlines()[0]
            for name, settings in ARCHITECTURES.items()
        }
    if kind == "formats":
        from probe_sae.interop import FORMATS, WRITABLE

        ways = dict.fromkeys(FORMATS, "import")
        ways |= {name: "import and export" if name in FORMATS else "export" for name in WRITABLE}
        return ways | {"neuronpedia": "export, of an analysis"}
    from probe_sae.host import bundled_hosts, hook_maps

    if kind == "hosts":
        return {
            **dict.fromkeys(bundled_hosts(), "comes with probe_sae"),
            "pixels": "no network: an image's pixels are the activations, site `input`",
            "HUGGING-FACE-ID": "or a local folder with config.json and model.safetensors",
            "torchvision:NAME": "torchvision:NAME@weights.safetensors, torchvision:NAME@random",
            "timm:NAME": "timm:NAME@weights.safetensors, timm:NAME@random, where timm is installed",
            "python:module:factory": "your own nn.Module",
        }
    return {m.family: m.about for m in sorted(hook_maps(), key=lambda m: m.family)}
