"""Recipes: where inputs come from. One TOML a dataset, or made from a path on the spot."""

import hashlib
import json
import sysconfig
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from probe_sae.errors import DatasetError, near
from probe_sae.recording.hub_data import described, source_of
from probe_sae.shipped import shipped

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
"""What files of these names may hold, as PIL calls it; a PNG that is called .jpg is read too."""
TEXT_SUFFIXES = (".txt", ".md", ".py", ".rst")
_SOURCES = {
    "folder": {"type", "path", "files", "exclude", "order"},
    "jsonl": {"type", "path", "field"},
    "parquet": {"type", "path", "field"},
    "hub": {"type", "path", "config", "revision", "split", "field", "label"},
    "sklearn_digits": {"type"},
    "torchvision": {"type", "dataset", "split", "root"},
}
"""Source type -> the keys that it may have."""


@dataclass(frozen=True)
class Recipe:
    """Where inputs come from; nothing is read until documents or images are asked for."""

    name: str
    kind: str
    """`text` or `image`."""
    about: str
    source: dict[str, Any] = field(default_factory=dict[str, Any])
    """`type` and its keys; see the recipes in `datasets/`."""
    make: Callable[[], Iterable[Any]] | None = field(default=None, compare=False, repr=False)
    """Gives the inputs of a dataset of the user's own; see `dataset_from`."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the recipe: two recordings with the same one read the same inputs."""
        text = json.dumps([self.kind, self.source], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def dataset_from(make: Callable[[], Iterable[Any]], *, name: str, kind: str) -> Recipe:
    """Return the recipe of inputs that a function of yours gives.

    Args:
        make: called for each pass, always the same inputs in the same order. Of text: strings, or
            (name, text). Of images: [height, width, channels] uint8 arrays with 1 or 3 channels,
            or (name, array), (array, class), or (name, array, class); a class is the host's number.
        name: what a store's provenance calls it; the same name must mean the same inputs.
        kind: `text` or `image`.

    Raises:
        DatasetError: the kind is neither.
    """
    if kind not in ("text", "image"):
        raise DatasetError(f"dataset {name}: kind {kind!r}; expected text or image.")
    if not callable(make):
        raise DatasetError(
            f"dataset {name}: {type(make).__name__} cannot be called; expected a function that "
            "gives the inputs anew each time, such as lambda: items."
        )
    return Recipe(name, kind, f"inputs given by {name}", {"type": "custom", "name": name}, make)


def as_recipe(given: object) -> Recipe:
    """Return a recipe as it is; of a name or path, the one that `load_dataset` makes of it.

    Raises:
        DatasetError: it is neither, or see `load_dataset`.
    """
    if isinstance(given, Recipe):
        return given
    if isinstance(given, (str, Path)):
        return load_dataset(given)
    raise DatasetError(
        f"expected a dataset or its name, got {type(given).__name__}. Inputs of your own become "
        "one by ps.dataset_from(lambda: texts, name='mine', kind='text')."
    )


def recipe_names() -> dict[str, str]:
    """Return the names of the shipped recipes with what they are."""
    files = (f for f in shipped("datasets").iterdir() if f.name.endswith(".toml"))
    recipes = (_read(tomllib.loads(f.read_text("utf-8")), f.name) for f in files)
    return {recipe.name: recipe.about for recipe in sorted(recipes, key=lambda r: r.name)}


def load_dataset(name: str | Path, *, root: str | Path | None = None) -> Recipe:
    """Return the recipe of a dataset.

    Args:
        name: a recipe's name; a `.txt`, `.jsonl`, `.parquet` file; a folder of images or of text
            files; a recipe's own `.toml`; or `hf:NAME@REVISION:CONFIG/SPLIT#COLUMN` (extra
            `[hub]`), where NAME is a dataset of the hub or a folder laid out as one, and enough.
        root: folder in which a recipe that downloads looks first.

    Raises:
        DatasetError: there is no such dataset, or it cannot be read.
    """
    text = str(name)
    known = recipe_names()
    if text in known:
        recipe = _read(tomllib.loads(shipped(f"datasets/{text}.toml").read_text("utf-8")), text)
        if root is not None:
            if "root" not in _SOURCES[recipe.source["type"]]:
                raise DatasetError(
                    f"dataset {text} takes no --root: it is on this machine already."
                )
            recipe.source["root"] = str(root)
        return recipe
    if text.startswith("hf:"):
        kind, source = described(text, source_of(text))
        return Recipe(text, kind, f"the dataset {text}, as Hugging Face's library reads it", source)
    path = Path(text).expanduser()
    if not path.exists():
        raise DatasetError(
            f"no dataset {text!r}: it is neither a file or folder nor a recipe "
            f"({', '.join(known)}).{near(text, known)}"
        )
    return _from_path(path)


def _from_path(path: Path) -> Recipe:
    """Return the recipe of a file or folder.

    Raises:
        DatasetError: nobody knows how to read it.
    """
    where = str(path.resolve())
    if path.suffix == ".toml":
        try:
            recipe = _read(tomllib.loads(path.read_text("utf-8")), path.name)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
            raise DatasetError(f"{path} is no recipe: {problem}") from problem
        if recipe.source["type"] != "hub":
            return recipe
        source = {"split": "train"} | recipe.source
        return replace(recipe, source=described(recipe.name, source, recipe.kind).source)
    if path.suffix in (".jsonl", ".parquet"):
        source = {"type": path.suffix[1:], "path": where, "field": "text"}
        return Recipe(path.stem, "text", f"the file {path.name}", source)
    if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
        source = {"type": "folder", "path": str(path.resolve().parent), "files": [path.name]}
        return Recipe(path.stem, "image", f"the image {path.name}", source)
    if path.is_file():
        source = {"type": "folder", "path": str(path.resolve().parent), "files": [path.name]}
        return Recipe(path.stem, "text", f"the file {path.name}", source)
    suffixes = {file.suffix for file in path.rglob("*") if file.is_file()}
    for kind, known in (("image", IMAGE_SUFFIXES), ("text", TEXT_SUFFIXES)):
        if wanted := sorted(suffix for suffix in suffixes if suffix.lower() in known):
            files = [f"**/*{suffix}" for suffix in wanted]
            source = {"type": "folder", "path": where, "files": files}
            return Recipe(path.name, kind, f"the folder {path.name}", source)
    raise DatasetError(
        f"{path} holds no images ({', '.join(IMAGE_SUFFIXES)}) and no texts "
        f"({', '.join(TEXT_SUFFIXES)})."
    )


def _read(raw: dict[str, Any], name: str) -> Recipe:
    """Return the recipe in a parsed TOML.

    Raises:
        DatasetError: a key is unknown or missing.
    """
    missing = {"name", "kind", "source"} - raw.keys()
    if missing:
        raise DatasetError(f"recipe {name} lacks {', '.join(sorted(missing))}.")
    source = dict(raw["source"])
    if source.get("type") not in _SOURCES:
        raise DatasetError(
            f"recipe {name}: source type {source.get('type')!r}; expected {', '.join(_SOURCES)}."
        )
    for key in source:
        if key not in _SOURCES[source["type"]]:
            hint = near(key, _SOURCES[source["type"]])
            raise DatasetError(f"recipe {name}: unknown source key {key!r}.{hint}")
    if raw["kind"] not in ("text", "image"):
        raise DatasetError(f"recipe {name}: kind {raw['kind']!r}; expected text or image.")
    if source["type"] == "parquet":
        source.setdefault("field", "text")
    if source.get("path") == "{stdlib}":
        source["path"] = sysconfig.get_paths()["stdlib"]
    return Recipe(raw["name"], raw["kind"], raw.get("about", ""), source)
