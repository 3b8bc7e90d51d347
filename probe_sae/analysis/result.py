"""An analysis on disk and in memory: everything a report shows, as plain arrays.

A folder of `analysis.json` (what it is, metrics, training log) and `analysis.h5` (the arrays below,
under `/features`, `/examples` and `/inputs`). It is self-contained: a report needs neither the
store nor the tokenizer.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from probe_sae.errors import FormatError
from probe_sae.store.hdf5 import open_checked, read_json, write_json

FORMAT = "probe_sae.analysis"
VERSION = 1
TOP, RANDOM = 0, 1
"""Values of `Examples.kind`."""


@dataclass(frozen=True)
class Features:
    """One entry a feature; statistics are over the analysed rows. -1 and NaN stand for "none"."""

    firings: NDArray[np.int64]
    """[features] rows on which the feature fires."""
    density: NDArray[np.float64]
    """[features] firings / rows."""
    mean: NDArray[np.float32]
    """[features] mean of the firings (zeros left out)."""
    mean_activation: NDArray[np.float32]
    """[features] mean over all rows (zeros counted)."""
    std: NDArray[np.float32]
    """[features] standard deviation of the firings."""
    skew: NDArray[np.float32]
    """[features] third standardised moment of the firings."""
    kurtosis: NDArray[np.float32]
    """[features] fourth standardised moment of the firings (3 for a normal law)."""
    max: NDArray[np.float32]
    """[features] largest activation, 0 where dead."""
    histogram: NDArray[np.int64]
    """[features, bins] firings by activation, bins of equal width from 0 to `histogram_top`."""
    histogram_top: NDArray[np.float32]
    """[features] upper edge of the last bin."""
    quantiles: NDArray[np.float32]
    """[features, 5] 10, 25, 50, 75, 90 % of the firings, right to half a bin."""
    token_ids: NDArray[np.int32]
    """[features, n] the commonest tokens (image: classes) among the firings, commonest first."""
    token_shares: NDArray[np.float32]
    """[features, n] their share of the firings."""
    token_lifts: NDArray[np.float32]
    """[features, n] that share over the token's share of all rows."""
    nearest_ids: NDArray[np.int32]
    """[features, n] features with the nearest decoder directions."""
    nearest_cosines: NDArray[np.float32]
    """[features, n] cosines of these."""
    cofiring_ids: NDArray[np.int32]
    """[features, n] features that fire on the same rows most (by phi)."""
    cofiring_phis: NDArray[np.float32]
    """[features, n] phi coefficient of the two firings."""
    cofiring_counts: NDArray[np.int64]
    """[features, n] rows on which both fire."""
    decoder_norm: NDArray[np.float32]
    """[features] length of the decoder row."""
    x: NDArray[np.float32]
    """[features] place on the map (UMAP of decoder directions)."""
    y: NDArray[np.float32]
    """[features]"""
    cluster: NDArray[np.int32]
    """[features] density cluster on the map."""
    module: NDArray[np.int32]
    """[features] community of features that fire together; 0 is the largest."""
    promoted_ids: NDArray[np.int32]
    """[features, n] tokens that the decoder direction makes likelier; n = 0 without unembedding."""
    promoted_values: NDArray[np.float32]
    """[features, n] their logit effect for one unit of activation, less its mean over tokens."""
    suppressed_ids: NDArray[np.int32]
    """[features, n] tokens that it makes less likely."""
    suppressed_values: NDArray[np.float32]
    """[features, n] their logit effect."""


@dataclass(frozen=True)
class Examples:
    """Firings shown, by feature, kind, rank; each with the feature's activations around it."""

    feature: NDArray[np.int32]
    """[examples]"""
    kind: NDArray[np.uint8]
    """[examples] `TOP`: strongest firing of the context, at most one a context; `RANDOM`: a firing
    drawn uniformly from all of the feature's firings."""
    rank: NDArray[np.int32]
    """[examples] 0 is the strongest (`RANDOM`: strongest of the sample)."""
    context: NDArray[np.int32]
    """[examples] index into the inputs."""
    position: NDArray[np.int32]
    """[examples] the firing's place in the context: token index, or y * grid width + x."""
    value: NDArray[np.float32]
    """[examples] its activation."""
    offsets: NDArray[np.int64]
    """[examples + 1] where the example's entries in the next two arrays start."""
    fired_position: NDArray[np.int32]
    """[entries] every place in the context where the feature fires."""
    fired_value: NDArray[np.float32]
    """[entries] its activation there."""

    def of(self, feature: int) -> slice:
        """Return the slice of the examples of one feature."""
        low, high = np.searchsorted(self.feature, [feature, feature + 1])
        return slice(int(low), int(high))


@dataclass(frozen=True)
class TextInputs:
    """The contexts that examples point to; special tokens included, as the host saw them."""

    tokens: NDArray[np.int32]
    """[all tokens] token ids, contexts one after the other."""
    offsets: NDArray[np.int64]
    """[contexts + 1]"""
    document: NDArray[np.int32]
    """[contexts] index into `documents`."""
    start: NDArray[np.int32]
    """[contexts] position in the document of the context's first token."""
    documents: list[str]
    """Names of the documents."""
    pieces: list[bytes]
    """What each token id stands for, as bytes; a token may be part of a character."""
    special: list[int]
    """Ids of the special tokens, which were not recorded."""

    def piece(self, token: int) -> str:
        """Return the text of one token; bytes that are no whole character show as U+FFFD."""
        return (
            self.pieces[token].decode("utf-8", "replace") if 0 <= token < len(self.pieces) else "?"
        )


@dataclass(frozen=True)
class ImageInputs:
    """The images that examples point to."""

    thumbnails: NDArray[np.uint8]
    """[contexts, height, width, channels] channels 1 or 3."""
    label: NDArray[np.int32]
    """[contexts] class, -1 where unknown."""
    names: list[str]
    """[contexts] where each image came from."""
    classes: list[str]
    """Names of the classes."""
    grid: tuple[int, int]
    """Rows and columns of the patch grid; (1, 1) for one row an image."""


@dataclass(frozen=True)
class Analysis:
    """What is known of one dictionary on one site; `load_analysis` reads it."""

    info: Mapping[str, Any]
    """`kind` ("text" or "image"), `site`, `host`, `dataset`, `store`, `sae`, `split`, `rows`,
    `contexts`, `metrics` (or None), `definitions`, `training` (list of log lines), `versions`."""
    features: Features
    examples: Examples
    inputs: TextInputs | ImageInputs

    @property
    def count(self) -> int:
        """Number of features."""
        return len(self.features.firings)

    def label(self, feature: int, count: int = 3) -> str:
        """Return the feature's automatic label: the commonest tokens or classes of its firings."""
        shares = zip(
            self.features.token_ids[feature][:count],
            self.features.token_shares[feature][:count],
            strict=True,
        )
        named = [(self.token_text(int(token)), share) for token, share in shares if token >= 0]
        return " · ".join(f"{text} {share:.0%}" for text, share in named)

    def token_text(self, token: int) -> str:
        """Return the text of a token id, or the name of a class."""
        if isinstance(self.inputs, TextInputs):
            return self.inputs.piece(token)
        return self.inputs.classes[token] if token < len(self.inputs.classes) else str(token)

    def table(self) -> Any:
        """Return one line a feature as a pandas DataFrame: the scalar columns and the label."""
        import pandas as pd

        columns = {f.name: getattr(self.features, f.name) for f in fields(Features)}
        table = pd.DataFrame({n: v for n, v in columns.items() if v.ndim == 1})
        table.insert(0, "label", [self.label(i) for i in range(self.count)])
        table.index.name = "feature"
        return table

    def save(self, folder: Path) -> None:
        """Write `analysis.json` and `analysis.h5` into `folder`, which exists."""
        head = {"format": FORMAT, "version": VERSION, **self.info}
        text = json.dumps(head, indent=1, sort_keys=True, ensure_ascii=False)
        (folder / "analysis.json").write_text(text, encoding="utf-8", errors="surrogatepass")
        with h5py.File(folder / "analysis.h5", "w") as file:
            for name, part in (("features", self.features), ("examples", self.examples)):
                group = file.create_group(name)
                for field in fields(part):
                    data = getattr(part, field.name)
                    options = {"compression": "gzip", "compression_opts": 1} if data.size else {}
                    group.create_dataset(field.name, data=data, **options)
            _write_inputs(file.create_group("inputs"), self.inputs)


def load_analysis(folder: str | Path) -> Analysis:
    """Read an analysis.

    Raises:
        FormatError: it is missing, damaged, hostile or from a newer version.
    """
    folder = Path(folder)
    try:
        info = json.loads((folder / "analysis.json").read_text("utf-8", "surrogatepass"))
    except (OSError, ValueError) as problem:
        raise FormatError(f"{folder} holds no readable analysis ({problem}).") from problem
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise FormatError(f"{folder}/analysis.json is not an analysis of probe_sae.")
    if info.get("version") != VERSION:
        raise FormatError(
            f"{folder} is an analysis of version {info.get('version')}; this probe_sae reads "
            f"version {VERSION}. Update probe_sae, or analyse again."
        )
    with open_checked(folder / "analysis.h5", FormatError) as file:
        features = _read_part(file["features"], Features, folder)
        examples = _read_part(file["examples"], Examples, folder)
        inputs = _read_inputs(file["inputs"], info["kind"])
    analysis = Analysis(info, features, examples, inputs)
    _check(analysis, folder)
    return analysis


def _read_part(group: Any, kind: type[Any], folder: Path) -> Any:
    missing = [field.name for field in fields(kind) if field.name not in group]
    if missing:
        raise FormatError(f"{folder}/analysis.h5 lacks {', '.join(missing)}; analyse again.")
    return kind(**{field.name: np.asarray(group[field.name]) for field in fields(kind)})


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


def _check(analysis: Analysis, folder: Path) -> None:
    """Raise unless the arrays agree with each other, so that no later index can go astray."""
    count, examples = analysis.count, analysis.examples
    wrong = [f.name for f in fields(Features) if len(getattr(analysis.features, f.name)) != count]
    inputs = analysis.inputs
    contexts = len(inputs.offsets) - 1 if isinstance(inputs, TextInputs) else len(inputs.label)
    number = len(examples.feature)
    wrong += [
        n
        for n in ("kind", "rank", "context", "position", "value")
        if len(getattr(examples, n)) != number
    ]
    if len(examples.offsets) != number + 1 or np.any(np.diff(examples.offsets) < 0):
        wrong.append("offsets")
    elif number and examples.offsets[-1] != len(examples.fired_position):
        wrong.append("fired_position")
    if number and not (
        examples.feature.min() >= 0
        and examples.feature.max() < count
        and examples.context.min() >= 0
        and examples.context.max() < contexts
    ):
        wrong.append("feature or context out of range")
    if wrong:
        raise FormatError(f"{folder}/analysis.h5 contradicts itself: {', '.join(wrong)}.")
