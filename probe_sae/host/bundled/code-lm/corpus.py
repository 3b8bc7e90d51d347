"""Read the standard library's source as the recipe `stdlib` lists it, and split it by module."""

import hashlib
import sysconfig
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from probe_sae.shipped import shipped


class Corpus(NamedTuple):
    """The text, a file a document, in the order of their paths."""

    library: list[str]
    """Training documents of the recipe."""
    tests: list[str]
    """Files of Lib/test that test no held-out module; training only."""
    held_out: list[str]
    """Documents of the held-out modules."""
    held_out_modules: list[str]
    """Names of those modules."""


def is_held_out(module: str) -> bool:
    """Return whether a top-level module is kept out: sha256 of its name is a multiple of 10."""
    return int(hashlib.sha256(module.encode()).hexdigest(), 16) % 10 == 0


def library_folder() -> Path:
    """Return the folder of the running Python's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def read_corpus() -> Corpus:
    """Return the recipe's files and those of Lib/test, split by module."""
    recipe = tomllib.loads(shipped("datasets/stdlib.toml").read_text(encoding="utf-8"))
    exclude: list[str] = recipe["source"]["exclude"]
    corpus = Corpus([], [], [], [])
    names: set[str] = set()
    for path in sorted(library_folder().rglob("*.py")):
        name = path.relative_to(library_folder()).as_posix()
        module = name.split("/")[0].removesuffix(".py")
        # A leading slash lets `**/test/**` match a folder at the root too.
        if not any(fnmatch(name, glob) or fnmatch("/" + name, glob) for glob in exclude):
            names.add(module)
            _add(path, corpus.held_out if is_held_out(module) else corpus.library)
    corpus.held_out_modules.extend(sorted(filter(is_held_out, names)))
    of_held_out = tuple("test_" + module for module in corpus.held_out_modules)
    for path in sorted((library_folder() / "test").rglob("*.py")):
        parts = path.relative_to(library_folder() / "test").parts
        if not any(part.startswith(of_held_out) for part in parts):
            _add(path, corpus.tests)
    return corpus


def _add(path: Path, texts: list[str]) -> None:
    """Add a file's text; an empty file, or one that is not UTF-8 (a few tests), is left out."""
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError:
        return
    if text:
        texts.append(text)
