"""An analysis on disk: self-contained, so that a report needs neither store nor tokenizer.

ANALYSIS/analysis.json   what it is, metrics, training log
ANALYSIS/analysis.h5     the arrays of `result.py`, under /features, /examples, /pairs, /rows (see
                         `sampled.py`), /drawn, /labels, /inputs, /tree and, of pixels, /pixels;
                         /directions, float16, 2 d bytes a feature (25 MB for 16,384 of 768), which
                         older files lack
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from probe_sae.analysis.arrays import Examples, Features
from probe_sae.analysis.checks import check, check_info
from probe_sae.analysis.cofiring import Pairs
from probe_sae.analysis.contexts import ImageInputs, TextInputs
from probe_sae.analysis.head import read_head
from probe_sae.analysis.labels import Labels, SampledFirings
from probe_sae.analysis.pixels import Pixels
from probe_sae.analysis.result import Analysis
from probe_sae.analysis.sampled import SampledRows
from probe_sae.errors import FormatError
from probe_sae.outputs import refuse_partial
from probe_sae.store.hdf5 import open_checked, read_json, write_hdf5, write_json

FORMAT = "probe_sae.analysis"
VERSION = 2

_PARTS: tuple[tuple[str, str, type[Any]], ...] = (
    ("features", "columns", Features),
    ("examples", "examples", Examples),
    ("pairs", "pairs", Pairs),
    ("rows", "rows", SampledRows),
    ("drawn", "drawn", SampledFirings),
)
"""Group in the file, attribute of the analysis, and what its arrays are."""
_GROUPS = (*(name for name, _, _ in _PARTS), "inputs", "labels", "tree")
_DAMAGED = (
    OSError,
    RuntimeError,
    KeyError,
    IndexError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
)
"""What arrays and texts raise that are not what was written."""
_WORDS = ("label", "rule")
"""What of the labels is no array."""


def save_analysis(analysis: Analysis, folder: Path) -> None:
    """Write `analysis.json` and `analysis.h5` into `folder`, which exists."""
    head = {"format": FORMAT, "version": VERSION, **analysis.info}
    text = json.dumps(head, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / "analysis.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    with write_hdf5(folder / "analysis.h5") as file:
        for name, attribute, kind in _PARTS:
            group, part = file.create_group(name), getattr(analysis, attribute)
            for field in fields(kind):
                data = getattr(part, field.name)
                options = {"compression": "gzip", "compression_opts": 1} if data.size else {}
                group.create_dataset(field.name, data=data, **options)
        _write_labels(file.create_group("labels"), analysis.labels)
        file.create_group("tree").create_dataset("merges", data=analysis.tree)
        _write_inputs(file.create_group("inputs"), analysis.inputs)
        if analysis.pixels is not None:
            group = file.create_group("pixels")
            for field in fields(Pixels):
                group.create_dataset(field.name, data=getattr(analysis.pixels, field.name))
        if analysis.directions is not None:
            file.create_dataset("directions", data=analysis.directions)


def load_analysis(folder: str | Path) -> Analysis:
    """Read an analysis.

    Raises:
        FormatError: it is missing, damaged, hostile or from a newer version.
    """
    folder = refuse_partial(folder)
    info = read_head(folder, "analysis.json", (FORMAT, VERSION), ("analysis", "analyse"))
    check_info(info, folder)
    path = folder / "analysis.h5"
    with open_checked(path, FormatError) as file:
        missing = [name for name in _GROUPS if name not in file]
        if missing:
            raise FormatError(f"{path} lacks {', '.join(missing)}; analyse again.")
        try:
            analysis = _read(file, info, folder)
            check(analysis, folder)
        except _DAMAGED as problem:
            raise FormatError(f"{path} is damaged ({problem!r}); analyse again.") from problem
    return analysis


def _read(file: Any, info: dict[str, Any], folder: Path) -> Analysis:
    features, examples, pairs, rows, drawn = (
        _read_part(file[name], kind, folder) for name, _, kind in _PARTS
    )
    return Analysis(
        info,
        features,
        examples,
        _read_inputs(file["inputs"], info["kind"]),
        pairs,
        rows,
        drawn,
        _read_labels(file["labels"], folder),
        np.asarray(file["tree"]["merges"]),
        _read_part(file["pixels"], Pixels, folder) if "pixels" in file else None,
        np.asarray(file["directions"]) if "directions" in file else None,
    )


def _read_part(group: Any, kind: type[Any], folder: Path) -> Any:
    missing = [field.name for field in fields(kind) if field.name not in group]
    if missing:
        raise FormatError(f"{folder}/analysis.h5 lacks {', '.join(missing)}; analyse again.")
    return kind(**{field.name: np.asarray(group[field.name]) for field in fields(kind)})


def _write_labels(group: h5py.Group, labels: Labels) -> None:
    for field in fields(Labels):
        if field.name in _WORDS:
            write_json(group, field.name, getattr(labels, field.name))
        else:
            column = getattr(labels, field.name)
            kind = np.uint8 if column.dtype == np.bool_ else column.dtype
            group.create_dataset(field.name, data=column.astype(kind))


def _read_labels(group: Any, folder: Path) -> Labels:
    missing = [field.name for field in fields(Labels) if field.name not in group]
    if missing:
        raise FormatError(f"{folder}/analysis.h5 lacks {', '.join(missing)}; analyse again.")
    words: dict[str, Any] = {name: read_json(group, name) for name in _WORDS}
    arrays: dict[str, Any] = {
        field.name: np.asarray(group[field.name])
        for field in fields(Labels)
        if field.name not in _WORDS
    }
    arrays["is_clear"] = arrays["is_clear"].astype(np.bool_)
    return Labels(**words, **arrays)


def _write_inputs(group: h5py.Group, inputs: TextInputs | ImageInputs) -> None:
    if isinstance(inputs, TextInputs):
        for name in ("tokens", "offsets", "document", "start"):
            group.create_dataset(name, data=getattr(inputs, name))
        write_json(group, "documents", inputs.documents)
        write_json(group, "pieces", [piece.decode("latin-1") for piece in inputs.pieces])
        write_json(group, "special", inputs.special)
        return
    for name in ("thumbnails", "label"):
        group.create_dataset(name, data=getattr(inputs, name))
    for name in ("names", "classes", "grid"):
        write_json(group, name, getattr(inputs, name))


def _read_inputs(group: Any, kind: str) -> TextInputs | ImageInputs:
    if kind == "text":
        arrays = {n: np.asarray(group[n]) for n in ("tokens", "offsets", "document", "start")}
        return TextInputs(
            **arrays,
            documents=read_json(group, "documents"),
            pieces=[piece.encode("latin-1") for piece in read_json(group, "pieces")],
            special=read_json(group, "special"),
        )
    height, width = read_json(group, "grid")
    return ImageInputs(
        thumbnails=np.asarray(group["thumbnails"]),
        label=np.asarray(group["label"]),
        names=read_json(group, "names"),
        classes=read_json(group, "classes"),
        grid=(int(height), int(width)),
    )
