"""A host: a model to look into, with its sites, its preprocessing, and how to run it."""

import copy
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from probe_sae.errors import ShapeError
from probe_sae.host.aliases import host_aliases
from probe_sae.host.digest import digest_of
from probe_sae.host.hook_map import HookMap
from probe_sae.host.hooks import StopForward
from probe_sae.host.resolve import Mapped, resolve
from probe_sae.host.sites import Site, find_sites, raw_sites
from probe_sae.host.wrapped import config_of, unwrapped
from probe_sae.progress import say
from probe_sae.shown import Fact, Shown

_UNFIT = (
    TypeError,
    ValueError,
    RuntimeError,
    IndexError,
    KeyError,
    AttributeError,
    AssertionError,
    NotImplementedError,
)
_TOKENS = ("input", "text", "tokens")
"""What models that are not of transformers call their tokens."""


class Host(Shown):
    """A model to look into: its sites, its preprocessing, and how to run it."""

    def __init__(
        self,
        model: Any,
        name: str,
        *,
        tokenizer: Any = None,
        processor: Any = None,
        hook_map: HookMap | None = None,
    ) -> None:
        """Wrap a model, which is put into evaluation mode.

        Args:
            model: any module; one that is compiled, data-parallel, or wrapped by nnsight, PEFT
                or a transformers pipeline is unwrapped.
            name: what messages and provenance call it.
            tokenizer: for text, a transformers tokenizer; a wrapper's own by default.
            processor: for images: a transformers image processor, or a callable from one
                [channels, height, width] uint8 tensor to what the model takes.
            hook_map: its family's; without one only raw module paths are sites.
        """
        inside = unwrapped(model, name)
        if inside.wrappers:
            say(f"{name} is wrapped in {inside.wrappers[0]}; looking into the plain module in it.")
        self.model, self.name = inside.model.eval(), name
        self.tokenizer = inside.tokenizer if tokenizer is None else tokenizer
        self.processor = inside.processor if processor is None else processor
        self.hook_map = hook_map
        self.config: Any = config_of(self.model)
        self.is_called = False
        """Whether a call of the host is under way, which a tap may stop early."""
        self.entry = self.model
        """The module that a call runs: the model, or one tower of it (see `only`)."""
        self.mapped = resolve(self.model, self.config, hook_map) if hook_map else Mapped()
        self.sites: dict[str, Site] = self.mapped.sites if hook_map else raw_sites(self.model)

    def __repr__(self) -> str:
        family = self.hook_map.family if self.hook_map else type(self.model).__name__
        return f"Host({self.name!r}: {family}, {self.parameters:,} parameters)"

    def _facts(self) -> list[Fact]:
        prepares = self.tokenizer or self.processor
        return [
            Fact("host", self.name),
            Fact("model", type(self.model).__name__),
            Fact("hook map", self.hook_map.family if self.hook_map else "none: paths of modules"),
            Fact("parameters", self.parameters),
            Fact("device", next((str(p.device) for p in self.model.parameters()), None)),
            Fact("inputs", None if prepares is None else type(prepares).__name__),
            Fact("sites", list(self.sites)),
        ]

    def __call__(self, inputs: Mapping[str, Any] | Tensor | None = None, **named: Any) -> Any:
        """Run the model without gradients; None where a tap stopped it early.

        Rows that are padded on the left get the position ids that the same text has without
        padding, where the model takes position ids.
        """
        with torch.no_grad():
            self.is_called = True
            try:
                if isinstance(inputs, Tensor):
                    return self.entry(inputs, **named)
                given = self._fitted(dict(inputs or {}) | named)
                return self.entry(**given, **self._positions(given))
            except StopForward:
                return None
            finally:
                self.is_called = False

    def run(self, inputs: Mapping[str, Any] | Tensor) -> Any:
        """Call the host; what it raises on inputs that do not fit it becomes one clear error.

        Raises:
            ShapeError: the model does not run on such inputs.
        """
        try:
            return self(inputs)
        except _UNFIT as problem:
            named = {self.first_input: inputs} if isinstance(inputs, Tensor) else inputs
            given = ", ".join(f"{k} {list(getattr(v, 'shape', []))}" for k, v in named.items())
            first = (str(problem).strip().splitlines() or [""])[0]
            raise ShapeError(
                f"{self.name} does not run on {given}: {type(problem).__name__}: {first}"
            ) from problem

    def generate(self, *inputs: Any, **named: Any) -> Any:
        """Return what the model's own `generate` returns: token ids, [batch, tokens]."""
        model: Any = self.model
        return model.generate(*inputs, **named)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What it takes: `text` with a tokenizer, `image` with a processor or neither."""
        kinds = ("text",) if self.tokenizer is not None else ()
        if self.processor is not None or not kinds:
            kinds += ("image",)
        return kinds

    def only(self, sites: Iterable[Site], kind: str) -> "Host":
        """Return the host that runs no more than the tower which these sites are in.

        That of CLIP's images needs no text, that of an encoder no decoder. It is the host itself
        where there is one tower, where the sites are in several, or where the tower cannot run
        alone.
        """
        towers = {site.name.partition(".")[0] for site in sites if site.kind == kind}
        paths = self.mapped.entries.get(next(iter(towers))) if len(towers) == 1 else None
        if not paths:
            return self
        part = copy.copy(self)
        part.entry = self.model.get_submodule(paths)
        return part

    @property
    def first_input(self) -> str:
        """Return the name of the model's first argument."""
        return next(iter(inspect.signature(self.entry.forward).parameters), "x")

    @cached_property
    def position_offset(self) -> int:
        """Positions that the model leaves out: RoBERTa and its kin begin after the padding's."""
        for name, module in self.model.named_modules():
            if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
                return 0 if module.padding_idx is None else module.padding_idx + 1
        return 0

    @property
    def device(self) -> torch.device:
        """Where the model's first weights are, and its inputs belong."""
        placed = (p.device for p in self.model.parameters() if p.device.type != "meta")
        return next(placed, torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """What its weights are made of."""
        floats = (p.dtype for p in self.model.parameters() if p.is_floating_point())
        return next(floats, torch.float32)

    @property
    def parameters(self) -> int:
        """Number of the model's parameters."""
        return sum(p.numel() for p in self.model.parameters())

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names and values of all weights: tells two checkpoints apart.

        Raises:
            EnvironmentProblem: weights are offloaded, and accelerate is not there to read them.
        """
        return digest_of(self.model)

    def find_sites(self, patterns: str | Iterable[str]) -> list[Site]:
        """Return the sites that names, globs, braces or raw paths stand for.

        Names of TransformerLens, module paths as sparsify and nnsight write them, and names of
        dictionary_learning will do: `probe-sae guide sites`.

        Raises:
            SiteNotFound: a name stands for nothing; the message names what is near.
        """
        listed = [patterns] if isinstance(patterns, str) else patterns
        missing, others = self.mapped.missing, self.aliases
        found = find_sites(listed, self.sites, missing, self.model, self.name, others)
        known = {(s.kind, s.special_prefix) for s in self.mapped.sites.values()}
        if len(known) == 1:  # a raw module of a host with one tower is in that tower
            ((kind, prefix),) = known
            found = [s if s.kind else replace(s, kind=kind, special_prefix=prefix) for s in found]
        return found

    @cached_property
    def aliases(self) -> dict[str, str]:
        """What other libraries call its sites -> what we call them."""
        return host_aliases(self.mapped.sites, self.mapped.identities, self.model)

    def image_inputs(self, images: list[NDArray[np.uint8]]) -> dict[str, Tensor]:
        """Return the model's inputs for some images, preprocessed as the host was trained.

        Args:
            images: [height, width, channels] each, channels 1 or 3.

        Raises:
            ShapeError: they are of different sizes, and there is no processor that resizes them.
        """
        takes = inspect.signature(self.entry.forward).parameters
        is_theirs = hasattr(self.config, "model_type") or "pixel_values" in takes
        name = "pixel_values" if is_theirs else self.first_input
        made: list[Any]
        if self.processor is None:
            made = [torch.tensor(image).permute(2, 0, 1).float() / 255 for image in images]
        elif hasattr(self.processor, "preprocess"):
            done = self.processor(images, return_tensors="pt", input_data_format="channels_last")
            made = list(done["pixel_values"])
        elif not callable(self.processor):
            raise ShapeError(f"{self.processor!r} prepares no images; expected a function of one.")
        else:
            made = [self.processor(torch.tensor(image).permute(2, 0, 1)) for image in images]
        for i, image in enumerate(made):
            if not isinstance(image, Tensor) or image.ndim != 3:
                shape = list(getattr(image, "shape", []))
                raise ShapeError(
                    f"the processor of {self.name} makes {type(image).__name__} {shape} of an "
                    "image; expected a tensor, [channels, height, width]."
                )
            if image.shape != made[0].shape:
                raise ShapeError(
                    f"{self.name} gets images of {list(made[0].shape)} and of {list(image.shape)} "
                    f"at once (numbers 0 and {i} of a batch), and nothing makes them alike. Resize "
                    "them before, or load the host with a processor= that does."
                )
        return {name: torch.stack(made).to(self.device, self.dtype)}

    def unembedding(self) -> Tensor | None:
        """Return the matrix from the last hidden state to logits, [tokens, width], if there is."""
        get = getattr(self.model, "get_output_embeddings", None)
        layer = get() if get else None
        return getattr(layer, "weight", None)

    def _fitted(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs under the names that the model has for tokens.

        Raises:
            ShapeError: some rows are padded, and the model takes no mask.
        """
        takes = inspect.signature(self.entry.forward).parameters
        theirs = next((name for name in _TOKENS if name in takes), None)
        if theirs is None or "input_ids" in takes or "input_ids" not in given:
            return given
        fitted = {theirs: given["input_ids"]}
        fitted |= {key: value for key, value in given.items() if key != "input_ids"}
        if "attention_mask" in takes or "attention_mask" not in given:
            return fitted
        if not bool(fitted.pop("attention_mask").all()):
            raise ShapeError(
                f"{self.name} takes no attention mask, so rows cannot be padded: give texts of one "
                "length, one at a time, or packed."
            )
        return fitted

    def _positions(self, given: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return position ids for rows padded on the left, where the model takes them."""
        mask = given.get("attention_mask")
        if not isinstance(mask, Tensor) or mask.ndim != 2 or bool(mask[:, 0].all()):
            return {}
        if given.get("position_ids") is not None or given.get("past_key_values") is not None:
            return {}
        if self.position_offset:
            return {}  # it counts its positions from the tokens that are no padding
        if "position_ids" not in inspect.signature(self.entry.forward).parameters:
            return {}
        return {"position_ids": (mask.long().cumsum(1) - 1).clamp(min=0)}
