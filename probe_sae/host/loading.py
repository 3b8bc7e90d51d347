"""Load a host: a bundled one, one of Hugging Face, of torchvision, or any `nn.Module`."""

import importlib
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from probe_sae.devices import device_for
from probe_sae.errors import HostNotFound, ProbeSaeError, near
from probe_sae.host.hook_map_file import hook_map_for
from probe_sae.host.host import Host
from probe_sae.host.libraries import BUNDLED, optional, torchvision, transformers
from probe_sae.host.pixels import pixels
from probe_sae.host.weights_file import read_weights
from probe_sae.host.wrapped import unwrapped
from probe_sae.progress import say

_UNREADABLE = (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError)
"""What reading a model's files raises when they are missing, damaged or of another model."""


@dataclass(frozen=True)
class _Wanted:
    """How a model is to be loaded."""

    dtype: torch.dtype
    revision: str | None
    attention: str | None
    device_map: Any
    tokenizer: Any
    processor: Any


def load_host(
    name: str | Path | nn.Module | Any,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    attention: str | None = None,
    device_map: Any = None,
    tokenizer: Any = None,
    processor: Any = None,
) -> Host:
    """Load a host.

    Args:
        name: `bundled:NAME`, a Hugging Face id or local folder, `torchvision:NAME[@weights]`,
            `timm:NAME[@weights]`, `python:module:factory`, or a module, which stays where it is.
            Weights are a file, or `random`: the same in each process.
            A model that is wrapped by nnsight, PEFT, a transformers pipeline, torch.compile or
            DataParallel is a module, too; TransformerLens' are modules with sites of their own.
        device: where to put it; a GPU where there is one, by default.
        dtype: of its weights; a module keeps its own.
        revision: of a Hugging Face id.
        attention: transformers' `attn_implementation`; `eager` gives attention patterns.
        device_map: spread the model over devices, as transformers does it (needs accelerate).
        tokenizer: for text, where the model comes without one: one of transformers'.
        processor: for images, where the model comes without one: one of transformers', or a
            function of one image, uint8 [channels, height, width], such as torchvision's
            transforms. Without any, a model of your own gets images as float32
            [batch, channels, height, width], 0 to 1.

    Raises:
        HostNotFound: there is no such host, or it cannot be loaded; code from a repository is
            never run.
        EnvironmentProblem: torchvision does not fit torch.
    """
    if not isinstance(name, (str, Path)):
        inside = unwrapped(name, "the model given").model
        host = _of_module(name, type(inside).__name__, tokenizer, processor)
        return _moved(host, device) if device is not None else host
    wanted = _Wanted(dtype, revision, attention, device_map, tokenizer, processor)
    host = _load_named(str(name), wanted)
    host.model.requires_grad_(False)
    if device_map is not None:
        return host
    return _moved(host, device_for(device))


def host_of(model: Any, *, by_name: bool = False) -> Host:
    """Return a host as it is; of a model, wrapped or not, the host that `load_host` makes of it.

    Args:
        model: a host or a model.
        by_name: take a name, too: not where the caller is to run the model himself.

    Raises:
        HostNotFound: it is a name that is not taken, or nothing with a module.
    """
    if isinstance(model, Host):
        return model
    if isinstance(model, (str, Path)) and not by_name:
        raise HostNotFound(f"expected a host or a model, got {str(model)!r}: load_host it first.")
    return load_host(model)


def bundled_hosts() -> list[str]:
    """Return the names of the hosts that come with probe_sae."""
    return sorted(f"bundled:{path.name}" for path in BUNDLED.iterdir() if path.is_dir())


def _moved(host: Host, device: str | torch.device) -> Host:
    if getattr(host.model, "is_quantized", False):
        return host  # its library has put it where it runs, and refuses to move it
    try:
        host.model.to(device)
    except (RuntimeError, AssertionError) as problem:
        raise HostNotFound(f"cannot use device {device}: {problem}") from problem
    return host


def _of_module(model: Any, name: str, tokenizer: Any, processor: Any) -> Host:
    plain = Host(model, name, tokenizer=tokenizer, processor=processor)
    hook_map = hook_map_for(plain.model, plain.config)
    if hook_map is None:
        return plain
    found: dict[str, Any] = {"tokenizer": plain.tokenizer, "processor": plain.processor}
    return Host(plain.model, name, **found, hook_map=hook_map)


def _load_named(name: str, wanted: _Wanted) -> Host:
    if name == "pixels":
        return pixels()
    scheme, _, rest = name.partition(":")
    if scheme == "bundled":
        if rest not in {path.name for path in BUNDLED.iterdir()}:
            known = ", ".join(bundled_hosts())
            raise HostNotFound(f"no bundled host {name!r}; there are {known}.")
        return _from_hugging_face(str(BUNDLED / rest), name, wanted)
    if scheme == "torchvision":
        return _from_torchvision(rest, name, wanted)
    if scheme == "timm":
        return _from_timm(rest, name, wanted)
    if scheme == "python":
        return _from_python(rest, name, wanted)
    return _from_hugging_face(name, name, wanted)


def _from_hugging_face(where: str, name: str, wanted: _Wanted) -> Host:
    library = transformers()
    options: dict[str, Any] = {"revision": wanted.revision, "trust_remote_code": False}
    try:
        config = library.AutoConfig.from_pretrained(where, **options)
        model, info = _model_class(library, config).from_pretrained(
            where,
            dtype=wanted.dtype,
            use_safetensors=True,
            output_loading_info=True,
            **({"attn_implementation": wanted.attention} if wanted.attention else {}),
            **({"device_map": wanted.device_map} if wanted.device_map is not None else {}),
            **options,
        )
    except Exception as problem:  # whatever a library makes of a damaged folder
        raise HostNotFound(_not_found(name, problem)) from problem
    if lacking := sorted(info["missing_keys"]):
        raise HostNotFound(
            f"{name}: its file has no weights for {', '.join(lacking[:3])}"
            f"{' and others' if len(lacking) > 3 else ''}; they would be random."
        )
    if unused := sorted(info["unexpected_keys"]):
        say(f"{name}: {len(unused)} weights of its file are not used, such as {unused[0]}.")
    hook_map = hook_map_for(model, config)
    if hook_map is not None:
        kinds = hook_map.kinds
    else:
        kinds = ("text",) if getattr(config, "vocab_size", None) else ("image",)
    tokenizer, processor = wanted.tokenizer, wanted.processor
    if "text" in kinds and tokenizer is None:
        tokenizer = _preprocessing(library.AutoTokenizer, where, name, options, kinds)
    if "image" in kinds and processor is None:
        processor = _preprocessing(library.AutoImageProcessor, where, name, options, kinds)
    return Host(model, name, tokenizer=tokenizer, processor=processor, hook_map=hook_map)


def _model_class(library: Any, config: Any) -> Any:
    """Return the class that the checkpoint was saved from, or the plain model of its family."""
    for architecture in config.architectures or []:
        cls = getattr(library, str(architecture), None)
        if isinstance(cls, type) and issubclass(cls, library.PreTrainedModel):
            return cls
    return library.AutoModel


def _preprocessing(
    kind: Any, where: str, name: str, options: dict[str, Any], kinds: tuple[str, ...]
) -> Any:
    """Return a tokenizer or image processor; None where a host of several kinds lacks one."""
    what = "tokenizer" if "Tokenizer" in kind.__name__ else "image processor"
    try:
        made = kind.from_pretrained(where, **options)
        if getattr(made, "vocab_size", None) == 0:  # made of nothing, where its files are missing
            raise ValueError("the folder holds no tokens.")
        return made
    except _UNREADABLE as problem:
        message = f"{name} has a model but no readable {what}: {_first_line(problem)}"
        if len(kinds) == 1:
            raise HostNotFound(
                f"{message} Give one: load_host(…, {what.split()[-1]}=…)."
            ) from problem
        say(message)
        return None


def _not_found(name: str, problem: Exception) -> str:
    known = [*bundled_hosts(), "torchvision:resnet18", "python:module:factory"]
    return (
        f"no host {name!r}: {_first_line(problem)} Expected {', '.join(bundled_hosts())}, a "
        "Hugging Face id or a folder with config.json and model.safetensors, torchvision:NAME, "
        f"timm:NAME, or python:module:factory.{near(name, known)}"
    )


def _first_line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]


def _from_torchvision(rest: str, name: str, wanted: _Wanted) -> Host:
    """Load a torchvision model: its own weights, or a file's, or (`@random`) ones of no use."""
    library = torchvision()
    kind, _, weights = rest.partition("@")
    known = library.models.list_models()
    if kind not in known:
        raise HostNotFound(f"torchvision has no model {kind!r}.{near(kind, known)}")
    try:
        if not weights:
            model = library.models.get_model(kind, weights="DEFAULT")
        else:
            with _same_each_time():
                model = library.models.get_model(kind, weights=None)
            if weights != "random":
                model.load_state_dict(read_weights(Path(weights)))
    except _UNREADABLE as problem:
        raise HostNotFound(f"{name}: its weights cannot be loaded: {problem}") from problem
    processor = wanted.processor or library.models.get_model_weights(kind).DEFAULT.transforms()
    return _of_module(model.to(wanted.dtype), name, None, processor)


def _from_timm(rest: str, name: str, wanted: _Wanted) -> Host:
    """Load a timm model with its own weights, a file's, or (`@random`) none, as torchvision's."""
    library = optional("timm")
    kind, _, weights = rest.partition("@")
    if not library.is_model(kind):
        raise HostNotFound(f"timm has no model {kind!r}.{near(kind, library.list_models())}")
    try:
        with _same_each_time():
            model = library.create_model(kind, pretrained=not weights)
        if weights not in ("", "random"):
            model.load_state_dict(read_weights(Path(weights)))
    except _UNREADABLE as problem:
        raise HostNotFound(f"{name}: its weights cannot be loaded: {problem}") from problem
    return _of_module(model.to(wanted.dtype), name, None, wanted.processor)


@contextmanager
def _same_each_time() -> Generator[None]:
    """Let what is drawn at random be the same in each process: a host is used more than once."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # no other device's, which nothing would put back
        yield


def _from_python(rest: str, name: str, wanted: _Wanted) -> Host:
    """Load what a function of the user's own returns; modules beside the user are found too."""
    module_name, _, factory = rest.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        made = getattr(importlib.import_module(module_name), factory)()
    except ProbeSaeError:
        raise
    except Exception as problem:
        raise HostNotFound(
            f"{name}: {type(problem).__name__}: {problem}. Expected python:module:factory, a "
            "function without arguments that returns an nn.Module or a Host."
        ) from problem
    finally:
        sys.path.remove(here)
    if isinstance(made, Host):
        return made
    if not isinstance(made, nn.Module):
        raise HostNotFound(f"{name} returned {type(made).__name__}, expected an nn.Module.")
    return _of_module(made, name, wanted.tokenizer, wanted.processor)
