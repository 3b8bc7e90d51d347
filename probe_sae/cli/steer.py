"""`probe-sae steer`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from probe_sae.cli import emit
from probe_sae.cli.options import HOST_HELP, Device, Json, Seed


def steer_command(
    host: Annotated[str, typer.Argument(help=HOST_HELP)],
    sae: Annotated[Path, typer.Argument(help="The dictionary's folder.")],
    feature: Annotated[int, typer.Option(help="Which feature.")],
    prompt: Annotated[str, typer.Option(help="Text to continue.")],
    scale: Annotated[
        float | None, typer.Option(help="Units of activation to add or clamp to; 10 by default.")
    ] = None,
    mode: Annotated[str, typer.Option(help="add, clamp, or ablate (take it out).")] = "add",
    site: Annotated[
        str | None, typer.Option(help="Where; by default the dictionary's own.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="How many tokens to write.")] = 40,
    temperature: Annotated[float, typer.Option(help="0 writes the likeliest token.")] = 0.0,
    seed: Seed = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Continue a prompt with and without a feature added, clamped or taken out.

    Example: `probe-sae steer gpt2 sae --feature 123 --scale 20 --prompt "I went to the"`
    """
    from probe_sae.evaluation import steer
    from probe_sae.host import load_host

    units = scale if scale is not None else 0.0 if mode == "ablate" else 10.0
    result = steer(
        load_host(host, device=device),
        sae,
        prompt,
        feature=feature,
        scale=units,
        mode=mode,
        site=site,
        tokens=tokens,
        temperature=temperature,
        seed=seed,
    )
    how = mode if mode == "ablate" else f"{mode} {units:g}"
    text = f"{prompt}{result.original}\n\n--- feature {feature}, {how} ---\n"
    emit(asdict(result), f"{text}{prompt}{result.steered}", as_json=as_json)
