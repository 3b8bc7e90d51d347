"""Load a host: a bundled one, one of Hugging Face, of torchvision, or any `nn.Module`."""

import hashlib
import importlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from probe_sae.errors import HostNotFound, ProbeSaeError, near
from probe_sae.host.hook_map import HookMap, hook_maps
from probe_sae.host.hooks import StopForward
from probe_sae.host.libraries import torchvision, transformers
from probe_sae.host.sites import Site, find_sites, mapped_sites, raw_sites

BUNDLED = Path(__file__).parent / "bundled"


class Host:
    """A model to look into: its sites, its preprocessing, and how to run it."""

    def __init__(
        self,
        model: nn.Module,
        name: str,
        *,
        tokenizer: Any = None,
        processor: Any = None,
        hook_map: HookMap | None = None,
    ) -> None:
        """Wrap a model, which is put into evaluation mode.

        Args:
            model: any module that takes its inputs by keyword.
            name: what messages and provenance call it.
            tokenizer: for text, a transformers tokenizer.
            processor: for images, a callable from a list of uint8 images to a [batch, ...] tensor.
            hook_map: its family's; without one only raw module paths are sites.
        """
        self.model = model.eval().requires_grad_(False)
        self.name, self.tokenizer, self.processor, self.hook_map = (
            name,
            tokenizer,
            processor,
            hook_map,
        )
        self.config: Any = getattr(model, "config", None)
        self.sites: dict[str, Site] = (
            mapped_sites(model, self.config, hook_map) if hook_map else raw_sites(model)
        )

    def __repr__(self) -> str:
        family = self.hook_map.family if self.hook_map else type(self.model).__name__
        return f"Host({self.name!r}: {family}, {self.parameters:,} parameters)"

    def __call__(self, inputs: Mapping[str, Tensor] | Tensor | None = None, **named: Any) -> Any:
        """Run the model without gradients; None where a tap stopped it early."""
        with torch.no_grad():
            try:
                if isinstance(inputs, Tensor):
                    return self.model(inputs, **named)
                return self.model(**(inputs or {}), **named)
            except StopForward:
                return None

    def generate(self, *inputs: Any, **named: Any) -> Any:
        """Return what the model's own `generate` returns: token ids, [batch, tokens]."""
        model: Any = self.model
        return model.generate(*inputs, **named)

    @property
    def kind(self) -> str:
        """`text`, or `image` for everything else."""
        return "text" if self.tokenizer is not None else "image"

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        first = next(self.model.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    @property
    def parameters(self) -> int:
        """Number of the model's parameters."""
        return sum(p.numel() for p in self.model.parameters())

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names and values of all weights: tells two checkpoints apart."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def find_sites(self, patterns: str | Iterable[str]) -> list[Site]:
        """Return the sites that names, globs, braces or raw paths stand for.

        Raises:
            SiteNotFound: a name stands for nothing; the message names what is near.
        """
        listed = [patterns] if isinstance(patterns, str) else patterns
        return find_sites(listed, self.sites, self.model, self.name)

    def image_inputs(self, images: list[NDArray[np.uint8]]) -> dict[str, Tensor]:
        """Return the model's inputs for some images, preprocessed as the host was trained.

        Args:
            images: [height, width, channels] each, channels 1 or 3.
        """
        if self.processor is None:
            scaled = [torch.from_numpy(image).permute(2, 0, 1).float() / 255 for image in images]
            return {"x": torch.stack(scaled).to(self.device)}
        if hasattr(self.processor, "preprocess"):
            made = self.processor(images, return_tensors="pt", input_data_format="channels_last")
            return {"pixel_values": made["pixel_values"].to(self.device, self.dtype)}
        made = [self.processor(torch.from_numpy(image).permute(2, 0, 1)) for image in images]
        return {"x": torch.stack(made).to(self.device, self.dtype)}

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are made of."""
        first = next(self.model.parameters(), None)
        return torch.float32 if first is None else first.dtype

    def unembedding(self) -> Tensor | None:
        """Return the matrix from the last hidden state to logits, [tokens, width], if there is."""
        get = getattr(self.model, "get_output_embeddings", None)
        layer = get() if get else None
        return getattr(layer, "weight", None)


def load_host(
    name: str | Path | nn.Module,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    tokenizer: Any = None,
    processor: Any = None,
) -> Host:
    """Load a host.

    Args:
        name: `bundled:NAME`, a Hugging Face id or local folder, `torchvision:NAME[@weights]`,
            `python:module:factory`, or a module.
        device: where to put it; a GPU where there is one, by default.
        dtype: of its weights.
        revision: of a Hugging Face id.
        tokenizer: for a module of your own over text.
        processor: for a module of your own over images.

    Raises:
        HostNotFound: there is no such host, or it cannot be loaded.
        EnvironmentProblem: torchvision does not fit torch.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(name, nn.Module):
        host = Host(name, type(name).__name__, tokenizer=tokenizer, processor=processor)
        if hook_map := _hook_map_for(host.config):
            host = Host(
                name, host.name, tokenizer=tokenizer, processor=processor, hook_map=hook_map
            )
    else:
        host = _load_named(str(name), dtype, revision)
    try:
        host.model.to(device)
    except (RuntimeError, AssertionError) as problem:
        raise HostNotFound(f"cannot use device {device}: {problem}") from problem
    return host


def bundled_hosts() -> list[str]:
    """Return the names of the hosts that come with probe_sae."""
    return sorted(f"bundled:{path.name}" for path in BUNDLED.iterdir() if path.is_dir())


def _load_named(name: str, dtype: torch.dtype, revision: str | None) -> Host:
    scheme, _, rest = name.partition(":")
    if scheme == "bundled":
        folder = BUNDLED / rest
        if rest not in {path.name for path in BUNDLED.iterdir()}:
            known = bundled_hosts()
            raise HostNotFound(
                f"no bundled host {name!r}; there are {', '.join(known)}.{near(name, known)}"
            )
        return _from_hugging_face(str(folder), name, dtype, None)
    if scheme == "torchvision":
        return _from_torchvision(rest, name, dtype)
    if scheme == "python":
        return _from_python(rest, name)
    return _from_hugging_face(name, name, dtype, revision)


def _hook_map_for(config: Any) -> HookMap | None:
    model_type = getattr(config, "model_type", None)
    return next((m for m in hook_maps() if model_type in m.model_types), None)


def _from_hugging_face(where: str, name: str, dtype: torch.dtype, revision: str | None) -> Host:
    library = transformers()
    try:
        config = library.AutoConfig.from_pretrained(where, revision=revision)
        kinds = " ".join(config.architectures or [])
        if "ForCausalLM" in kinds or "LMHead" in kinds:
            auto = library.AutoModelForCausalLM
        elif "ForImageClassification" in kinds:
            auto = library.AutoModelForImageClassification
        else:
            auto = library.AutoModel
        model = auto.from_pretrained(where, revision=revision, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError, KeyError, ImportError) as problem:
        raise HostNotFound(_not_found(name, problem)) from problem
    hook_map = _hook_map_for(config)
    is_text = hook_map.kind == "text" if hook_map else getattr(config, "vocab_size", None)
    tokenizer = processor = None
    try:
        if is_text:
            tokenizer = library.AutoTokenizer.from_pretrained(where, revision=revision)
        else:
            processor = library.AutoImageProcessor.from_pretrained(where, revision=revision)
    except (OSError, ValueError, KeyError, ImportError) as problem:
        what = "tokenizer" if is_text else "image processor"
        raise HostNotFound(f"{name} has a model but no readable {what}: {problem}") from problem
    return Host(model, name, tokenizer=tokenizer, processor=processor, hook_map=hook_map)


def _not_found(name: str, problem: Exception) -> str:
    first = (str(problem).splitlines() or [type(problem).__name__])[0]
    known = [*bundled_hosts(), "torchvision:resnet18", "python:module:factory"]
    return (
        f"no host {name!r}: {first} Expected {', '.join(bundled_hosts())}, a Hugging Face id or "
        f"a folder with config.json and model.safetensors, torchvision:NAME, or "
        f"python:module:factory.{near(name, known)}"
    )


def _from_torchvision(rest: str, name: str, dtype: torch.dtype) -> Host:
    """Load a torchvision model: its own weights, or a file's, or (`@random`) none."""
    library = torchvision()
    kind, _, weights = rest.partition("@")
    known = library.models.list_models()
    if kind not in known:
        raise HostNotFound(f"torchvision has no model {kind!r}.{near(kind, known)}")
    try:
        if not weights:
            model = library.models.get_model(kind, weights="DEFAULT")
        else:
            model = library.models.get_model(kind, weights=None)
            if weights != "random":
                model.load_state_dict(_state(Path(weights)))
    except (OSError, RuntimeError) as problem:
        raise HostNotFound(f"{name}: its weights cannot be loaded: {problem}") from problem
    return Host(model.to(dtype), name, processor=_imagenet_processor(library))


def _state(path: Path) -> dict[str, Tensor]:
    """Read tensors and nothing else: safetensors, or a torch file without executing anything."""
    if not path.is_file():
        raise HostNotFound(f"no weights file {path}.")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _imagenet_processor(library: Any) -> Any:
    """Return the preprocessing that torchvision's classification models were trained with."""
    return library.transforms._presets.ImageClassification(crop_size=224)


def _from_python(rest: str, name: str) -> Host:
    module_name, _, factory = rest.partition(":")
    try:
        made = getattr(importlib.import_module(module_name), factory)()
    except (ImportError, AttributeError) as problem:
        raise HostNotFound(f"{name}: {problem}. Expected python:module:factory.") from problem
    if isinstance(made, Host):
        return made
    if not isinstance(made, nn.Module):
        raise HostNotFound(f"{name} returned {type(made).__name__}, expected an nn.Module.")
    try:
        return Host(made, name, hook_map=_hook_map_for(getattr(made, "config", None)))
    except ProbeSaeError:
        return Host(made, name)
