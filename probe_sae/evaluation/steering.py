"""What a language model writes when a feature is added to it, clamped or taken out."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from probe_sae.errors import SettingsError, ShapeError
from probe_sae.host import Ablate, Clamp, Host, Steer, edit, host_of
from probe_sae.interop import as_sae
from probe_sae.progress import say
from probe_sae.recording import frame_of
from probe_sae.sae import SAE
from probe_sae.shown import Shown, clean

MODES = ("add", "clamp", "ablate")


@dataclass(frozen=True, repr=False)
class Steered(Shown):
    """The same prompt continued twice."""

    prompt: str
    original: str
    """What the model writes by itself."""
    steered: str
    """What it writes under the edit."""


def steer(
    host: Host | Any,
    sae: SAE | str | Path,
    prompt: str,
    *,
    feature: int,
    scale: float = 0.0,
    mode: str = "add",
    site: str | None = None,
    tokens: int = 40,
    temperature: float = 0.0,
    seed: int = 0,
) -> Steered:
    """Return what a host writes with and without an edit of one feature at every position.

    Args:
        host: a language model, or what `load_host` takes.
        sae: the dictionary, or its folder.
        prompt: what to continue.
        feature: which one.
        scale: `add`: units of activation added to every row; `clamp`: the activation that every
            row has; `ablate` takes none.
        mode: `add`, `clamp`, or `ablate` (take the feature out).
        site: where; the dictionary's own by default.
        tokens: how many to write.
        temperature: 0 writes the likeliest token each time.
        seed: of the sampling, where there is one.

    Raises:
        HostNotFound: there is no host of that name.
        SettingsError: the host writes no text, or a setting is out of range.
        SiteNotFound: the host has no such site.
        ShapeError: the site's rows are not what the dictionary takes.
    """
    sae, host = as_sae(sae), host_of(host, by_name=True)
    _check(mode, scale, tokens, temperature)
    if not 0 <= feature < sae.features:
        raise SettingsError(f"no feature {feature}; the dictionary has 0 to {sae.features - 1}.")
    if host.tokenizer is None or not hasattr(host.model, "generate"):
        raise SettingsError(f"{host.name} writes no text: steering needs a causal language model.")
    where = site or _site(sae)
    for found in host.find_sites(where):
        if found.width not in (None, sae.d_model):
            raise ShapeError(
                f"{found.name} has rows of {found.width}; the dictionary takes {sae.d_model}."
            )
    _check_same_weights(host, sae)
    changes = {
        "add": Steer(sae, feature, scale),
        "clamp": Clamp(sae, feature, scale),
        "ablate": Ablate(sae, feature),
    }
    original = _written(host, prompt, tokens, temperature, seed)
    with edit(host, where, changes[mode]):
        steered = _written(host, prompt, tokens, temperature, seed)
    return Steered(prompt, original, steered)


def _check(mode: str, scale: float, tokens: int, temperature: float) -> None:
    if mode not in MODES:
        raise SettingsError(f"mode is {mode!r}; expected {', '.join(MODES)}.")
    if tokens < 1:
        raise SettingsError(f"tokens is {tokens}; expected at least 1.")
    if not 0 <= temperature < math.inf:
        raise SettingsError(f"temperature is {temperature}; expected a finite number from 0.")
    if mode == "ablate" and scale:
        raise SettingsError(
            f"mode ablate takes the feature out, whatever the scale, which is {scale:g}: drop the "
            "scale, or clamp to it."
        )


def _site(sae: SAE) -> str:
    sites = sae.named_sites
    if not sites:
        raise SettingsError("the dictionary does not say its site; give it with --site.")
    if len(sites) > 1:
        raise SettingsError("steering takes a dictionary of one site; this one is of several.")
    return sites[0]


def _check_same_weights(host: Host, sae: SAE) -> None:
    recorded = sae.provenance.get("host") or {}
    if recorded.get("digest") not in (None, host.digest):
        say(
            f"the dictionary was trained on {recorded.get('name')} with other weights than "
            f"{host.name} has here."
        )


def _written(host: Host, prompt: str, tokens: int, temperature: float, seed: int) -> str:
    """Return what the host writes after the prompt, framed as in recordings."""
    frame = frame_of(host.tokenizer)
    ids = [*frame.before, *host.tokenizer(clean(prompt), add_special_tokens=False)["input_ids"]]
    if not ids:
        raise SettingsError("the prompt is empty, and the tokenizer has no token to begin with.")
    longest = getattr(host.config, "max_position_embeddings", None)
    if isinstance(longest, int) and len(ids) + tokens > longest:
        raise SettingsError(
            f"{len(ids)} tokens of prompt and {tokens} to write are more than the {longest} that "
            f"{host.name} can read."
        )
    batch = torch.tensor([ids], device=host.device)
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0}
    pad = host.tokenizer.pad_token_id
    with torch.random.fork_rng(devices=[host.device] if host.device.type == "cuda" else []):
        torch.manual_seed(seed)
        out = host.generate(
            input_ids=batch,
            attention_mask=torch.ones_like(batch),
            max_new_tokens=tokens,
            pad_token_id=host.tokenizer.eos_token_id if pad is None else pad,
            **sampling,
        )
    return host.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
