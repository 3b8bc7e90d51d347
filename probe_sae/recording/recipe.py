"""Recipes: where inputs come from. One TOML a dataset, or made from a path on the spot."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from glob import escape
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from probe_sae.errors import DatasetError, near
from probe_sae.recording.files import digest_of, local_files
from probe_sae.recording.hub_data import described, source_of
from probe_sae.recording.recipe_file import SOURCES, read_recipe
from probe_sae.shipped import shipped

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
"""What files of these names may hold, as PIL calls it; a PNG that is called .jpg is read too."""
TEXT_SUFFIXES = (".txt", ".md", ".py", ".rst")
_WHICH_FILES = {"path", "files", "exclude", "order"}
"""Keys of a source that say no more than its list of files does."""


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

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the inputs: two recordings with the same one read the same.

        Of files on this machine it is of their names and content (of large ones, of parts: see
        `digest_of`), wherever they lie; of anything else, of the recipe. Reads the files, once an
        object: after they changed, load the dataset anew.

        Raises:
            DatasetError: a file cannot be read.
        """
        what: list[Any] = [self.kind, self.source]
        if files := local_files(self.source):
            reading = {key: self.source[key] for key in self.source.keys() - _WHICH_FILES}
            what = [self.kind, reading, digest_of(files)]
        text = json.dumps(what, sort_keys=True, default=str)
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
    return {name: recipe.about for name, recipe in _shipped_recipes().items()}


def _shipped_recipes() -> dict[str, Recipe]:
    files = (file for file in shipped("datasets").iterdir() if file.name.endswith(".toml"))
    recipes = sorted(map(_read, files), key=lambda recipe: recipe.name)
    return {recipe.name: recipe for recipe in recipes}


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
    known = _shipped_recipes()
    if text in known:
        recipe = known[text]
        if root is not None:
            if "root" not in SOURCES[recipe.source["type"]].takes:
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
    if path.suffix == ".toml" and not path.is_dir():
        recipe = _read(path)
        if recipe.source["type"] != "hub":
            return recipe
        source = {"split": "train"} | recipe.source
        return replace(recipe, source=described(recipe.name, source, recipe.kind).source)
    if path.suffix in (".jsonl", ".parquet"):
        source = {"type": path.suffix[1:], "path": where, "field": "text"}
        return Recipe(path.stem, "text", f"the file {path.name}", source)
    if path.is_file():
        whole = path.resolve()
        kind = "image" if path.suffix.lower() in IMAGE_SUFFIXES else "text"
        about = f"the {'image' if kind == 'image' else 'file'} {path.name}"
        source = {"type": "folder", "path": str(whole.parent), "files": [escape(whole.name)]}
        return Recipe(path.stem, kind, about, source)
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


def _read(file: Path | Traversable) -> Recipe:
    """Return the recipe in a TOML file; see `read_recipe`."""
    raw = read_recipe(file)
    return Recipe(raw["name"], raw["kind"], raw["about"], raw["source"])
