"""Datasets of the Hugging Face hub, or folders laid out as theirs, streamed (extra `[hub]`).

Rows come in the dataset's own order. A dataset of the hub is read at the commit that it had when it
was named, so that each pass, and a recording that is resumed, sees the same.
"""

import importlib
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from probe_sae.errors import DatasetError, near

FORM = "hf:NAME@REVISION:CONFIG/SPLIT#COLUMN, of which NAME is enough"
_ID = re.compile(
    r"hf:(?P<path>[^@:#]+)(@(?P<revision>[^@:#]+))?"
    r"(:(?P<config>[^/#]*)(/(?P<split>[^#]*))?)?(#(?P<field>.+))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TEXTS = ("string", "large_string")


class Described(NamedTuple):
    """What a dataset turned out to be."""

    kind: str
    """`text` or `image`."""
    source: dict[str, Any]
    """As in a recipe, completed."""


def source_of(text: str) -> dict[str, Any]:
    """Return the source that an id names; a local folder by its whole path.

    Raises:
        DatasetError: it is no id.
    """
    whole = {"path": text.removeprefix("hf:")}
    found = _ID.fullmatch(text)
    if found is None and not _is_folder(whole["path"]):
        raise DatasetError(f"{text!r} names no dataset of the hub; expected {FORM}.")
    parts = whole
    if found is not None and not _is_folder(whole["path"]):
        parts = {name: part for name, part in found.groupdict().items() if part}
    if _is_folder(parts["path"]):
        parts["path"] = str(Path(parts["path"]).expanduser().resolve())
    return {"type": "hub", "split": "train"} | parts


def _is_folder(path: str) -> bool:
    return bool(path) and Path(path).expanduser().is_dir()


def described(name: str, source: dict[str, Any], kind: str | None = None) -> Described:
    """Return a dataset's kind and source, with what it itself says: commit, column, classes.

    Goes online, unless it is a local folder.

    Args:
        name: what errors call it.
        source: `path`, and `config`, `revision`, `split`, `field`, `label` where wanted.
        kind: `text` or `image`, where it is known.

    Raises:
        DatasetError: it cannot be read, or has no such column.
    """
    with _explained(name, source):
        library = _library(name)
        builder = library.load_dataset_builder(
            source["path"], name=source.get("config"), revision=source.get("revision")
        )
        if _COMMIT.fullmatch(str(builder.hash)):
            source = source | {"commit": str(builder.hash)}
        features = _features(_opened(library, source), library)
    field, kind = _column(name, source.get("field"), features, kind)
    source = source | {"field": field}
    if kind == "image" and (label := _label(name, source.get("label"), features)):
        source |= {"label": label, "classes": [str(each) for each in features[label].names]}
    return Described(kind, source)


def hub_rows(name: str, source: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a source of type `hub` or `parquet`, with the wanted columns alone.

    Raises:
        DatasetError: it cannot be read, or has no such column.
    """
    columns = [source[each] for each in ("field", "label") if each in source]
    with _explained(name, source):
        library = _library(name)
        rows = _opened(library, source)
        features = _features(rows, library)
        for column in columns:
            if column not in features:
                raise DatasetError(_no_column(name, column, list(features)))
            if getattr(features[column], "decode", True) is False:
                rows = rows.cast_column(column, type(features[column])())
        yield from rows.select_columns(columns)


def _opened(library: Any, source: dict[str, Any]) -> Any:
    load = library.load_dataset
    if source["type"] == "parquet":
        return load("parquet", data_files=source["path"], split="train", streaming=True)
    return load(
        source["path"],
        name=source.get("config"),
        split=source["split"],
        revision=source.get("commit") or source.get("revision"),
        streaming=True,
    )


def _library(name: str) -> Any:
    """Return Hugging Face's datasets.

    Raises:
        DatasetError: it is not installed.
    """
    try:
        library: Any = importlib.import_module("datasets")
        library.load_dataset  # noqa: B018  # a folder named datasets has no function
    except (ImportError, AttributeError) as problem:
        raise DatasetError(
            f"{name} needs the extra [hub]: pip install 'probe_sae[hub]'."
        ) from problem
    library.disable_progress_bars()
    return library


def _features(rows: Any, library: Any) -> dict[str, Any]:
    """Return the columns of an opened dataset with their types, by its first row if need be."""
    if rows.features is not None:
        return dict(rows.features)
    first = list(rows.take(1))
    return dict(library.Dataset.from_list(first).features) if first else {}


def _column(
    name: str, field: str | None, features: dict[str, Any], kind: str | None
) -> tuple[str, str]:
    """Return the column to read, and the kind of what it holds."""
    kinds = {column: found for column, each in features.items() if (found := _kind(each))}
    if field is not None and field not in features:
        raise DatasetError(_no_column(name, field, list(features)))
    if field is None:
        usual = [c for c in ("text", "image") if kinds.get(c) in ((kind,) if kind else _KINDS)]
        fitting = [column for column, each in kinds.items() if kind in (None, each)]
        choice = usual if len(usual) == 1 else fitting
        if len(choice) != 1:
            raise DatasetError(
                f"{name} has {_listing(kinds) or 'no column of texts or images'}; say which to "
                f"read, as {name.partition('#')[0]}#COLUMN."
            )
        field = choice[0]
    if kinds.get(field) is None or kind not in (None, kinds[field]):
        raise DatasetError(
            f"{name}: column {field!r} holds {features[field]}; expected "
            f"{f'{kind}s' if kind else 'texts or images'}. It has {_listing(kinds) or 'none'}."
        )
    return field, kinds[field]


_KINDS = ("text", "image")


def _kind(feature: Any) -> str | None:
    if type(feature).__name__ == "Image":
        return "image"
    return "text" if getattr(feature, "dtype", None) in _TEXTS else None


def _label(name: str, label: str | None, features: dict[str, Any]) -> str | None:
    """Return the column of classes, where there is one."""
    known = [column for column, each in features.items() if hasattr(each, "names")]
    if label is not None and label not in known:
        raise DatasetError(_no_column(name, label, known))
    return label or ("label" if "label" in known else known[0] if len(known) == 1 else None)


def _listing(kinds: dict[str, str]) -> str:
    return ", ".join(f"{column} ({kind})" for column, kind in kinds.items())


def _no_column(name: str, column: str, known: list[str]) -> str:
    return f"{name} has no column {column!r}; it has {', '.join(known)}.{near(column, known)}"


@contextmanager
def _explained(name: str, source: dict[str, Any]) -> Generator[None]:
    """Turn the library's errors into ours, with what to do.

    Raises:
        DatasetError: the library raised.
    """
    try:
        yield
    except DatasetError:
        raise
    except Exception as problem:  # whatever a library makes of damaged files
        first = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        first = first if first.endswith((".", "?", "!")) else f"{first}."
        raise DatasetError(f"cannot read {name}: {first}{_advice(problem, source)}") from problem


def _advice(problem: Exception, source: dict[str, Any]) -> str:
    causes: list[str] = []
    cause: BaseException | None = problem
    while cause is not None and len(causes) < 10:
        causes += [kind.__name__ for kind in type(cause).__mro__] + [str(cause)]
        cause = cause.__cause__ or cause.__context__
    whole = " ".join(causes)
    path = source["path"]
    if "GatedRepoError" in whole or "is a gated dataset" in whole:
        return (
            f" Accept its conditions at https://huggingface.co/datasets/{path}, then log in: "
            "`hf auth login`, or set HF_TOKEN."
        )
    if "OfflineModeIsEnabled" in whole or "ConnectError" in whole:
        return (
            f" Nothing can be streamed offline. Download it once, with `hf download {path} "
            "--repo-type dataset --local-dir FOLDER`, and give hf:FOLDER."
        )
    if "DatasetNotFoundError" in whole:
        return " Is it spelled so? If it is private, log in: `hf auth login`, or set HF_TOKEN."
    return f" Expected {FORM}." if isinstance(problem, ValueError) else ""
