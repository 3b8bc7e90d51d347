"""Inputs come from recipes, files and folders; what cannot be read says why."""

import inspect
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from PIL import EpsImagePlugin, Image

from probe_sae.errors import DatasetError
from probe_sae.recording import Recipe, load_dataset, recipe_names
from probe_sae.recording.documents import class_names, documents, pictures
from probe_sae.recording.files import folder_files
from probe_sae.recording.recipe_file import TORCHVISION as KNOWN_OF_TORCHVISION


def names(recipe: Recipe) -> list[str]:
    return [document.name for document in documents(recipe)]


def test_the_standard_library_is_there_without_its_tests() -> None:
    found = names(load_dataset("stdlib"))

    assert "argparse.py" in found
    assert "asyncio/tasks.py" in found
    folders = {folder for name in found for folder in name.split("/")[:-1]}
    assert not folders & {"test", "tests", "site-packages", "encodings", "__pycache__"}
    assert found == names(load_dataset("stdlib"))
    assert found != sorted(found)


def test_digits_are_grey_images_with_classes() -> None:
    recipe = load_dataset("digits")
    first = next(pictures(recipe))

    assert (first.pixels.shape, first.pixels.dtype, first.label) == ((8, 8, 1), np.uint8, 0)
    assert sum(1 for _ in pictures(recipe)) == 1797
    assert class_names(recipe) == [str(i) for i in range(10)]


def test_a_text_file_is_a_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello", encoding="utf-8")

    assert [d.text for d in documents(load_dataset(tmp_path / "a.txt"))] == ["hello"]


def test_a_folder_of_texts_is_its_files_and_empty_ones_are_left_out(tmp_path: Path) -> None:
    for name, text in (("a.txt", "one"), ("b/c.md", "two"), ("empty.txt", " \n"), ("d.bin", "x")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")

    assert names(load_dataset(tmp_path)) == ["a.txt", "b/c.md"]


@pytest.mark.parametrize("pattern", ["**/*", "**/*.txt", "*.txt", "in/*", "in/**/*.txt", "**/d/*"])
def test_a_pattern_finds_what_pathlib_finds(tmp_path: Path, pattern: str) -> None:
    for name in ("a.txt", "b.md", ".c.txt", "in/a.txt", "in/d/e.txt", "out/d/f.txt", "d/out/g.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    (tmp_path / "h.txt").symlink_to(tmp_path / "a.txt")
    found = {path for path in tmp_path.glob(pattern) if path.is_file()}

    source = {"path": str(tmp_path), "files": [pattern], "exclude": ["out/**", "**/e.txt"]}
    listed = folder_files(source)

    left_out = {tmp_path / "out/d/f.txt", tmp_path / "in/d/e.txt"}
    assert {file.path for file in listed} == found - left_out
    assert [file.name for file in listed] == sorted(file.name for file in listed)


def test_a_file_whose_name_could_be_a_pattern_is_that_file(tmp_path: Path) -> None:
    for name in ("a[1].txt", "a1.txt"):
        (tmp_path / name).write_text(name)

    assert names(load_dataset(tmp_path / "a[1].txt")) == ["a[1].txt"]


def test_a_link_to_a_file_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("hello")
    (tmp_path / "b.txt").symlink_to(tmp_path / "in" / "a.txt")

    assert names(load_dataset(tmp_path / "b.txt")) == ["a.txt"]


@pytest.mark.parametrize(
    "wrong", [{"path": "nowhere"}, {"files": ["**.txt"]}, {"files": ["/etc/*"]}, {"files": [""]}]
)
def test_a_folder_that_cannot_be_searched_is_an_error(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    if sys.version_info >= (3, 13) and wrong.get("files") == ["**.txt"]:
        pytest.skip("this Python knows such patterns")
    source = {"type": "folder", "path": str(tmp_path)} | wrong

    with pytest.raises(DatasetError, match=r"no folder nowhere|cannot be searched for"):
        next(documents(Recipe("n", "text", "", source)))


def test_jsonl_lines_are_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n\n{"text": "two\\u2028"}\n', encoding="utf-8")

    assert [d.text for d in documents(load_dataset(path))] == ["one", "two\u2028"]


@pytest.mark.parametrize("line", ["[" * 100_000, "{", "[1]", '{"txet": "a"}', '{"text": 3}'])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n' + line, encoding="utf-8")

    with pytest.raises(DatasetError, match="line 2"):
        list(documents(load_dataset(path)))


def test_bytes_that_are_no_utf8_do_not_stop_a_recording(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")

    assert [d.text for d in documents(load_dataset(tmp_path / "a.txt"))] == ["caf\ufffd"]


def test_images_of_a_folder_have_the_classes_of_their_folders(tmp_path: Path) -> None:
    for folder in ("cat", "dog"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (6, 4), "red").save(tmp_path / folder / "a.png")

    found = list(pictures(load_dataset(tmp_path)))

    assert [(p.name, p.label, p.pixels.shape) for p in found] == [
        ("cat/a.png", 0, (4, 6, 3)),
        ("dog/a.png", 1, (4, 6, 3)),
    ]


def encoded(kind: str) -> bytes:
    """Return a picture as a file of a kind holds it."""
    noise = np.random.default_rng(0).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind)
    return file.getvalue()


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
UNREADABLE = {
    "no image": b"no image",
    "empty": b"",
    "cut": encoded("PNG")[:60],
    "broken chunk": encoded("PNG")[:37] + b"\x0b" + encoded("PNG")[38:],  # PIL's SyntaxError
    "PostScript": POSTSCRIPT,
    "TIFF": encoded("TIFF"),
}


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_an_image_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    """What PIL reads by programs of the machine, such as PostScript, counts as no image."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("was run"))
    (tmp_path / "a.png").write_bytes(data)

    with pytest.raises(DatasetError, match=r"a\.png.*expected PNG, JPEG, WEBP, BMP or GIF"):
        list(pictures(load_dataset(tmp_path)))


def test_an_image_may_be_called_otherwise_than_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded("JPEG"))

    assert next(pictures(load_dataset(tmp_path))).pixels.shape == (9, 9, 3)


@pytest.mark.parametrize("name", ["stdlibb", "no/such/file.txt"])
def test_a_dataset_that_is_not_there_lists_what_is(name: str) -> None:
    with pytest.raises(DatasetError, match="stdlib"):
        load_dataset(name)


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_dataset_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")

    with pytest.raises(DatasetError, match="holds no text"):
        list(documents(load_dataset(tmp_path / "a.txt")))


def test_a_folder_of_neither_texts_nor_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"x")

    with pytest.raises(DatasetError, match="no images"):
        load_dataset(tmp_path)


def test_a_recipe_of_ones_own_is_a_toml(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello", encoding="utf-8")
    path = tmp_path / "mine.toml"
    head = 'name = "mine"\nkind = "text"\n[source]\ntype = "folder"\nfiles = ["*.txt"]\n'
    path.write_text(f"{head}path = {json.dumps(str(tmp_path))}\n", encoding="utf-8")

    assert names(load_dataset(path)) == ["a.txt"]
    path.write_text(path.read_text().replace("files", "fiels"))
    with pytest.raises(DatasetError, match="Near it: files"):
        load_dataset(path)


WRONG_RECIPES = {
    'name = 5\nkind = "text"': "mine.toml: name is 5; expected text",
    'name = "n"\nkind = "txt"': "kind is 'txt'; expected text, image. Near it: text",
    'name = "n"\nkind = ["text"]': "expected text, image",
    'name = "n"\nkind = "text"\nfiles = ["a"]': "unknown key 'files'; expected name, kind, about",
    'name = "n"': "kind is missing; expected text, image",
    "a = " + "[" * 50_000: r"mine\.toml is no recipe",
    f"a = {'9' * 5000}": r"mine\.toml is no recipe",
    "# \udcff": r"mine\.toml is no recipe",
}


@pytest.mark.parametrize(("text", "message"), WRONG_RECIPES.items())
def test_a_recipe_that_is_none_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    whole = text + '\n[source]\ntype = "sklearn_digits"\n'
    (tmp_path / "mine.toml").write_bytes(whole.encode("utf-8", "surrogateescape"))

    with pytest.raises(DatasetError, match=message):
        load_dataset(tmp_path / "mine.toml")


FOLDER = '[source]\ntype = "folder"\npath = "."\n'
TORCHVISION = '[source]\ntype = "torchvision"\nsplit = "train"\n'


@pytest.mark.parametrize(
    ("kind", "source", "message"),
    [
        ("text", 'source = "x"', "source is 'x'; expected a table"),
        ("text", "[source]", "type is missing; expected folder, jsonl"),
        ("text", '[source]\ntype = "foldr"', "type is 'foldr'.*Near it: folder"),
        ("text", '[source]\ntype = ["folder"]', "expected folder, jsonl"),
        ("text", '[source]\ntype = "folder"', "path is missing; expected text"),
        ("text", '[source]\ntype = "jsonl"', "path is missing; expected text"),
        ("text", '[source]\ntype = "folder"\npath = 5', "path is 5; expected text"),
        ("text", FOLDER + 'files = "*.txt"', r"files is '\*\.txt'; expected a list of texts"),
        ("text", FOLDER + "files = [5]", r"files is \[5\]; expected a list of texts"),
        ("text", FOLDER + 'exclude = "*.txt"', "exclude is .*; expected a list of texts"),
        ("text", FOLDER + 'files = ["/etc/*"]', "'/etc/.'; expected patterns that stay in the"),
        ("text", FOLDER + 'files = ["a/../../*"]', "expected patterns that stay in the folder"),
        ("text", FOLDER + 'files = [""]', "expected patterns that stay in the folder"),
        ("text", FOLDER + 'order = "shufled"', "Near it: shuffled"),
        ("text", '[source]\ntype = "sklearn_digits"', "kind is 'text'.*sklearn_digits holds image"),
        ("image", '[source]\ntype = "jsonl"\npath = "a"', "type jsonl holds text"),
        ("image", TORCHVISION, "dataset is missing; expected MNIST"),
        ("image", TORCHVISION + 'dataset = "DatasetFolder"', "expected MNIST, FashionMNIST"),
        ("image", TORCHVISION.replace("train", "tst") + 'dataset = "MNIST"', "Near it: test"),
    ],
)
def test_a_source_that_cannot_be_says_what_is_wrong(
    tmp_path: Path, kind: str, source: str, message: str
) -> None:
    (tmp_path / "mine.toml").write_text(f'name = "n"\nkind = "{kind}"\n{source}\n')

    with pytest.raises(DatasetError, match=message):
        load_dataset(tmp_path / "mine.toml")


def test_a_folder_may_be_called_like_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").mkdir()
    (tmp_path / "mine.toml" / "a.txt").write_text("hello")

    assert names(load_dataset(tmp_path / "mine.toml")) == ["a.txt"]


@pytest.mark.parametrize("name", KNOWN_OF_TORCHVISION)
def test_torchvision_makes_every_dataset_that_a_recipe_may_name(name: str) -> None:
    made = getattr(torchvision.datasets, name)

    assert inspect.signature(made).bind(root="", train=True, download=True)


def test_a_recipe_of_a_parquet_file_has_its_texts_in_a_column_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    source = '[source]\ntype = "parquet"\npath = "mine.parquet"\n'
    path.write_text(f'name = "mine"\nkind = "text"\n{source}', encoding="utf-8")

    assert load_dataset(path).source["field"] == "text"


def test_mnist_is_read_from_a_folder(data_folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(data_folder / "mnist", tmp_path / "mnist")
    first = next(pictures(load_dataset("mnist", root=tmp_path / "mnist")))

    assert (first.pixels.shape, first.label) == ((28, 28, 1), 5)


def test_every_shipped_recipe_says_what_it_is() -> None:
    assert set(recipe_names()) == {"stdlib", "digits", "mnist", "mnist_test"}
    assert all(recipe_names().values())


def test_the_case_of_a_suffix_does_not_matter(tmp_path: Path) -> None:
    for name in ("a.JPEG", "b.jpg", "c.Png"):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / name)

    assert [p.name for p in pictures(load_dataset(tmp_path))] == ["a.JPEG", "b.jpg", "c.Png"]
