"""The table of formats: what each looks like, how it is read and written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from probe_sae.errors import FormatError, near
from probe_sae.interop import dictionary_learning, gemma_scope, openai, others, saelens, sparsify
from probe_sae.interop.source import WEIGHTS, Source
from probe_sae.sae import PlainSAE

Write = Callable[[PlainSAE, Path, dict[str, Any]], None]


class Format(NamedTuple):
    """How one library keeps its dictionaries."""

    is_it: Callable[[Source], bool]
    read: Callable[[Source], PlainSAE]
    write: Write | None = None


FORMATS = {
    "saelens": Format(saelens.is_saelens, saelens.read_saelens, saelens.write_saelens),
    "sparsify": Format(sparsify.is_sparsify, sparsify.read_sparsify, sparsify.write_sparsify),
    "llama_scope": Format(others.is_llama_scope, others.read_llama_scope),
    "llama_scope_2": Format(others.is_llama_scope_2, others.read_llama_scope_2),
    "openai": Format(openai.is_openai, openai.read_openai, openai.write_openai),
    "goodfire": Format(others.is_goodfire, others.read_goodfire),
    "overcomplete": Format(others.is_overcomplete, others.read_overcomplete),
    "gemma_scope": Format(
        gemma_scope.is_gemma_scope, gemma_scope.read_gemma_scope, gemma_scope.write_gemma_scope
    ),
    "dictionary_learning": Format(
        dictionary_learning.is_dictionary_learning,
        dictionary_learning.read_dictionary_learning,
        dictionary_learning.write_dictionary_learning,
    ),
    "qwen_scope": Format(others.is_qwen_scope, others.read_qwen_scope),
    "circuit_tracer": Format(others.is_circuit_tracer, others.read_circuit_tracer),
}
"""Name -> format. The first that says yes is taken: those with names of their own come first."""


def format_of(source: Source) -> str:
    """Return the name of the format of a file or folder.

    Raises:
        FormatError: it is none that is known.
    """
    for weights in ("sae_weights.safetensors", "sae.safetensors"):
        if source.has(weights) and not (source.has("cfg.json") or source.has("config.json")):
            raise FormatError(
                f"{source.folder} has {weights}, but config.json or cfg.json is missing beside it."
            )
    for name, kind in FORMATS.items():
        if kind.is_it(source):
            return name
    raise FormatError(f"{source.path} holds no dictionary that is known. {_hint(source)}")


def format_named(name: str) -> Format:
    """Return the format of a name.

    Raises:
        FormatError: there is none.
    """
    if name not in FORMATS:
        known = ", ".join(FORMATS)
        raise FormatError(f"no format {name!r}; there are {known}.{near(name, FORMATS)}")
    return FORMATS[name]


_OTHERS = {
    "manifest.json": "a store",
    "analysis.json": "an analysis",
    "codes.json": "the codes of a store",
    "report.json": "a report",
}
"""What else of ours a folder may be, by the file that tells."""


def _hint(source: Source) -> str:
    """Return what there is, and what could be meant."""
    if source.path.is_file():
        names = ", ".join(sorted(source.weights.tensors)[:12])
        return f"Its tensors are {names or 'none'}; known formats are {', '.join(FORMATS)}."
    there = sorted(item.name for item in source.path.iterdir())
    for name, what in _OTHERS.items():
        if name in there:
            return f"It is {what}."
    inside = [
        name
        for name in there
        if (source.path / name).is_dir()
        and any((source.path / name / file).is_file() for file in ("cfg.json", "config.json"))
    ]
    if inside:
        return f"Its folders do: {', '.join(inside[:12])}. Name one of them."
    files = [name for name in there if Path(name).suffix in WEIGHTS]
    if len(files) > 1:
        return f"It has several files of weights: {', '.join(files[:12])}. Name one of them."
    return f"It has {', '.join(there[:12]) or 'nothing in it'}; known are {', '.join(FORMATS)}."
