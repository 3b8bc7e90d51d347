"""Where a foreign dictionary lies, what its owner says of it, and what is made of its weights."""

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probe_sae.errors import FormatError, SettingsError, near
from probe_sae.interop.reading import Weights, read_json, read_npz, read_safetensors, read_torch
from probe_sae.interop.release import Release, release_of
from probe_sae.interop.values import whole
from probe_sae.sae import Plain, PlainSAE

TORCH = (".pt", ".pth", ".bin")
WEIGHTS = (".safetensors", ".npz", *TORCH)
OPTIONS = ("activation", "k", "dict_class", "transcoder")
"""What an owner may say where the files do not."""
NOTE = "probe_sae.json"
"""Lies beside what was exported from here."""


class Source:
    """A file or a folder, read when asked for."""

    def __init__(self, path: Path, options: dict[str, Any]) -> None:
        """Take a path that exists, and what the owner says of it.

        Raises:
            SettingsError: an option that there is not.
        """
        for name in options:
            if name not in OPTIONS:
                known = ", ".join(OPTIONS)
                raise SettingsError(
                    f"an import has no option {name!r}; there are {known}.{near(name, OPTIONS)}"
                )
        self.path, self.options = path, options
        self.used: set[str] = set()
        self.folder = path if path.is_dir() else path.parent

    def has(self, *names: str) -> bool:
        """Return whether the folder has all of some files."""
        return all((self.folder / name).is_file() for name in names)

    def config(self, name: str = "config.json") -> dict[str, Any]:
        """Return a JSON file of the folder; empty where there is none."""
        return read_json(self.folder / name) if self.has(name) else {}

    @cached_property
    def file(self) -> Path | None:
        """The file of weights: the path itself, or the only one in the folder."""
        if self.path.is_file():
            return self.path
        files = [file for file in self.path.iterdir() if file.suffix in WEIGHTS and file.is_file()]
        return files[0] if len(files) == 1 else None

    @cached_property
    def weights(self) -> Weights:
        """What is in `file`; nothing where there is none."""
        if self.file is None:
            return Weights({}, self.path)
        if self.file.suffix not in WEIGHTS:
            raise FormatError(f"{self.file} is no file of weights ({', '.join(WEIGHTS)}).")
        read: Any = {".safetensors": read_safetensors, ".npz": read_npz}
        return Weights(read.get(self.file.suffix, read_torch)(self.file), self.file)

    def read(self, name: str) -> Weights:
        """Return the weights in a file of the folder."""
        file = self.folder / name
        return Weights((read_torch if file.suffix in TORCH else read_safetensors)(file), file)

    def option(self, name: str) -> Any:
        """Return what the owner says; None where that is nothing."""
        self.used.add(name)
        return self.options.get(name)

    @cached_property
    def release(self) -> Release:
        """What it is called; nothing where it was exported from here, to a name of any choice."""
        found = release_of(self.path)
        return found._replace(names=()) if self.has(NOTE) else found

    def k(self, known: Any = None) -> int:
        """Return the number of firings of a row, as the files, the owner or a name have it.

        Raises:
            FormatError: nothing says it.
        """
        if known is not None:
            return whole(known, f"{self.path}: k")
        if (given := self.option("k")) is not None:
            return whole(given, "k")
        say_it = "say it: `--set k=32`, or `load_sae(path, k=32)`."
        for name in reversed(self.release.names):
            if found := re.findall(r"(?<![A-Za-z])[Ll]0_(\d+)", name):
                self.release.say(f"k is {found[-1]}, as {name} has it. Where it is not, {say_it}")
                return int(found[-1])
        raise FormatError(f"{self.path} does not say how many features fire on a row; {say_it}")


@torch.no_grad()
def assemble(
    W_enc: Tensor,
    b_enc: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    *,
    activation: str = "relu",
    k: int = 0,
    normalise: str = "none",
    is_transcoder: bool = False,
    **more: Tensor | None,
) -> PlainSAE:
    """Return a dictionary of weights, whose shapes have been checked.

    Args:
        W_enc: [features, d_model].
        b_enc: [features].
        W_dec: [features, d_out].
        b_dec: [d_out].
        activation: see `Plain`.
        k: see `Plain`.
        normalise: see `Plain`.
        is_transcoder: whether it reconstructs another site than it reads.
        more: `centre`, `threshold`, `r_mag`, `b_mag`, `W_skip`, where there are.
    """
    (features, d_model), d_out = W_enc.shape, W_dec.shape[1]
    skip = more.get("W_skip") is not None
    settings = Plain(features, activation, k, normalise, skip)
    sae = settings.build((d_model, d_out) if is_transcoder else (d_model,))
    given = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec, **more}
    for name, weight in given.items():
        if weight is not None:
            sae.get_parameter(name).copy_(weight)
    if sae.threshold is not None:
        sae.threshold.clamp_min_(0)  # relu(pre) * [pre > threshold] is relu(pre) below 0
    return sae.eval()


def repeated(value: float, many: int) -> Tensor:
    """Return a number as a weight of `many` features; infinite where it is too large for one."""
    return torch.full((many,), value, dtype=torch.float64).float()


def measure_by_length(parts: dict[str, Tensor], origin: Path) -> None:
    """Let directions have length 1 and codes say more in return; reconstructions stay.

    Args:
        parts: `W_enc` [features, d_model], `b_enc` [features], `W_dec` [features, d_out]; changed.
        origin: whose they are.

    Raises:
        FormatError: a direction has length 0.
    """
    lengths = parts["W_dec"].norm(dim=1)
    if not bool((lengths > 0).all()):
        raise FormatError(f"{origin}: directions of length 0 cannot be rescaled.")
    parts["W_enc"], parts["b_enc"] = parts["W_enc"] * lengths[:, None], parts["b_enc"] * lengths
    parts["W_dec"] = parts["W_dec"] / lengths[:, None]


def provenance_of(
    words: dict[str, Any], *, host: Any = None, site: Any = None, site_out: Any = None
) -> dict[str, Any]:
    """Return provenance in our words from what a configuration says; all but text is left out."""
    found: dict[str, Any] = {"imported": words}
    if isinstance(host, str) and host:
        found["trained_on"] = {"host": host}
    hooks = [hook for hook in (site, site_out) if isinstance(hook, str) and hook]
    if hooks:
        found.setdefault("trained_on", {})["hooks"] = hooks
    return found
