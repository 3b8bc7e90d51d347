"""Documents and images of a recipe, one after the other; nothing is held in memory."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from probe_sae.errors import DatasetError
from probe_sae.host.libraries import torchvision
from probe_sae.recording.files import LocalFile, folder_files
from probe_sae.recording.hub_data import hub_rows
from probe_sae.recording.recipe import IMAGE_FORMATS, Recipe
from probe_sae.recording.recipe_file import TORCHVISION
from probe_sae.shown import clean

MAX_PIXELS = 64_000_000
"""Larger images are refused: a small file can declare an image that fills the memory."""


@dataclass(frozen=True)
class Document:
    """A text with its number and name."""

    index: int
    name: str
    text: str


@dataclass(frozen=True)
class Picture:
    """An image with its number, name and class."""

    index: int
    name: str
    pixels: NDArray[np.uint8]
    """[height, width, channels], channels 1 or 3."""
    label: int = -1


def documents(recipe: Recipe) -> Iterator[Document]:
    """Yield the texts of a recipe, empty ones left out; of broken characters U+FFFD is left.

    Raises:
        DatasetError: it is no text recipe, a file cannot be read, or there is no text at all.
    """
    if recipe.kind != "text":
        raise DatasetError(f"dataset {recipe.name} holds images; this host takes text.")
    index = -1
    for index, (name, text) in enumerate(_texts(recipe)):
        yield Document(index, name, clean(text))
    if index < 0:
        raise DatasetError(f"dataset {recipe.name} ({_where(recipe)}) holds no text.")


def pictures(recipe: Recipe) -> Iterator[Picture]:
    """Yield the images of a recipe.

    Raises:
        DatasetError: it is no image recipe, an image cannot be read, or there is none.
    """
    if recipe.kind != "image":
        raise DatasetError(f"dataset {recipe.name} holds text; this host takes images.")
    source = recipe.source["type"]
    index = -1
    if source == "sklearn_digits":
        made = _sklearn_digits()
    elif source == "torchvision":
        made = _torchvision_images(recipe)
    elif source == "custom":
        made = _own_images(recipe)
    elif source == "hub":
        made = _hub_images(recipe)
    else:
        made = _image_files(recipe)
    for index, (name, pixels, label) in enumerate(made):
        yield Picture(index, name, pixels, label)
    if index < 0:
        raise DatasetError(f"dataset {recipe.name} ({_where(recipe)}) holds no images.")


def class_names(recipe: Recipe) -> list[str]:
    """Return the names of an image recipe's classes; empty where there are none."""
    if recipe.source["type"] == "sklearn_digits":
        return [str(i) for i in range(10)]
    if recipe.source["type"] == "torchvision":
        return [str(i) for i in range(TORCHVISION[recipe.source["dataset"]])]
    if recipe.source["type"] == "hub":
        return list(recipe.source.get("classes", []))
    if recipe.kind == "image" and recipe.source["type"] == "folder":
        return _folder_classes(folder_files(recipe.source))
    return []


def _where(recipe: Recipe) -> str:
    return str(recipe.source.get("path") or recipe.source.get("root") or recipe.source["type"])


def _texts(recipe: Recipe) -> Iterator[tuple[str, str]]:
    source = recipe.source["type"]
    if source == "folder":
        for name, path in folder_files(recipe.source):
            text = _read_text(path)
            if text.strip():
                yield name, text
    elif source == "jsonl":
        yield from _jsonl(recipe)
    elif source == "custom":
        yield from _own_texts(recipe)
    else:
        yield from _table(recipe)


def _own_texts(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield what a function of the user's own gives, as names and texts."""
    for i, item in _own_items(recipe):
        name, text = item if isinstance(item, tuple) else (f"{recipe.name}:{i}", item)
        if not isinstance(text, str):
            raise DatasetError(
                f"dataset {recipe.name}, item {i} is {type(text).__name__}; expected a text, or "
                "(name, text)."
            )
        if text.strip():
            yield str(name), text


def _own_images(recipe: Recipe) -> Iterator[tuple[str, NDArray[np.uint8], int]]:
    """Yield what a function of the user's own gives, as names, pixels and classes."""
    for i, item in _own_items(recipe):
        given: tuple[Any, ...] = item if isinstance(item, tuple) else (item,)
        if len(given) == 1 or (len(given) == 2 and np.ndim(given[0]) >= 2):  # without a name
            given = (f"{recipe.name}:{i}", *given)
        name, array, label = (*given, -1)[:3] if len(given) in (2, 3) else ("", None, -1)
        pixels: NDArray[Any] = np.asarray(array)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or pixels.dtype != np.uint8:
            raise DatasetError(
                f"dataset {recipe.name}, item {i} is {pixels.dtype} {pixels.shape}; expected uint8 "
                "[height, width, 1 or 3], or (name, array), (array, class), (name, array, class)."
            )
        try:
            number = -1 if label is None else index(label)
        except TypeError:
            number = -2
        if number < -1 or isinstance(label, bool):
            raise DatasetError(
                f"dataset {recipe.name}, item {i} has the class {label!r}; expected a whole number "
                "from 0 on, the host's, or -1 for none."
            )
        yield str(name), pixels, number


def _own_items(recipe: Recipe) -> Iterator[tuple[int, Any]]:
    """Yield what a function of the user's own gives, numbered."""
    items: Any = recipe.make() if recipe.make else ()
    if not isinstance(items, Iterable):
        raise DatasetError(
            f"dataset {recipe.name}: its function returned {type(items).__name__}; expected "
            "something to go through, item by item."
        )
    yield from enumerate(cast("Iterable[Any]", items))


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError as problem:
        raise DatasetError(f"cannot read {path}: {problem.strerror}.") from problem


def _jsonl(recipe: Recipe) -> Iterator[tuple[str, str]]:
    path, wanted = Path(recipe.source["path"]), recipe.source.get("field", "text")
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    text = json.loads(line)[wanted]
                except (ValueError, KeyError, TypeError, RecursionError) as problem:
                    raise DatasetError(
                        f"{path}, line {number}: expected a JSON object with a {wanted!r} field."
                    ) from problem
                if not isinstance(text, str):
                    raise DatasetError(f"{path}, line {number}: {wanted!r} is no text.")
                if text.strip():
                    yield f"{path.name}:{number}", text
    except OSError as problem:
        raise DatasetError(f"cannot read {path}: {problem.strerror}.") from problem


def _table(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield the texts of a parquet file or a dataset of the hub."""
    wanted = recipe.source["field"]
    for number, row in enumerate(hub_rows(recipe.name, recipe.source)):
        text = row[wanted]
        if isinstance(text, str) and text.strip():
            yield f"{recipe.name}:{number}", text


def _hub_images(recipe: Recipe) -> Iterator[tuple[str, NDArray[np.uint8], int]]:
    """Yield the images of a dataset of the hub."""
    wanted, label = recipe.source["field"], recipe.source.get("label")
    for number, row in enumerate(hub_rows(recipe.name, recipe.source)):
        image = row[wanted]
        if image is None:
            continue
        name = f"{recipe.name}:{number}"
        _check_size(image, name)
        number_of_class = row[label] if label else None
        pixels = np.array(image.convert("RGB"), dtype=np.uint8)
        yield name, pixels, -1 if number_of_class is None else int(number_of_class)


def _check_size(image: Any, name: str | Path) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise DatasetError(f"{name} has over {MAX_PIXELS:,} pixels.")


def _sklearn_digits() -> Iterator[tuple[str, NDArray[np.uint8], int]]:
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    for i, (image, label) in enumerate(zip(pixels, digits.target, strict=True)):
        yield f"digit {i}", image, int(label)


def _torchvision_images(recipe: Recipe) -> Iterator[tuple[str, NDArray[np.uint8], int]]:
    library = torchvision()
    kind = getattr(library.datasets, recipe.source["dataset"])
    root = Path(recipe.source.get("root") or Path.home() / ".cache" / "probe_sae").expanduser()
    try:
        root.mkdir(parents=True, exist_ok=True)
        data = kind(root=str(root), train=recipe.source["split"] == "train", download=True)
    except (OSError, RuntimeError) as problem:
        raise DatasetError(
            f"{recipe.name} can be neither read from {root} nor downloaded there ({problem}). "
            f"Give a folder that holds {recipe.source['dataset']}/raw with --root."
        ) from problem
    for i in range(len(data)):
        image, label = data[i]
        pixels = np.array(image, dtype=np.uint8)
        yield f"{recipe.name} {i}", pixels[..., None] if pixels.ndim == 2 else pixels, int(label)


def _folder_classes(files: Iterable[LocalFile]) -> list[str]:
    """Return the folders that the images lie in, if they lie in several."""
    folders = sorted({_folder_of(file) for file in files})
    return folders if len(folders) > 1 else []


def _folder_of(file: LocalFile) -> str:
    return Path(file.name).parent.as_posix()


def _image_files(recipe: Recipe) -> Iterator[tuple[str, NDArray[np.uint8], int]]:
    from PIL import Image

    files = folder_files(recipe.source)
    classes = _folder_classes(files)
    for file in files:
        try:
            # Without formats PIL tries all it knows: PostScript is run by a program, Ghostscript.
            with Image.open(file.path, formats=IMAGE_FORMATS) as image:
                _check_size(image, file.path)
                pixels = np.array(image.convert("RGB"), dtype=np.uint8)
        except DatasetError:
            raise
        except Exception as problem:  # whatever a library makes of damaged files
            known = f"{', '.join(IMAGE_FORMATS[:-1])} or {IMAGE_FORMATS[-1]}"
            raise DatasetError(
                f"cannot read the image {file.path}: {problem}; expected {known}."
            ) from problem
        yield file.name, pixels, classes.index(_folder_of(file)) if classes else -1
