"""A dataset's fingerprint is of what it holds, wherever it lies."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from probe_sae.errors import DatasetError, StoreError
from probe_sae.host import Host
from probe_sae.recording import CaptureSettings, capture, dataset_from, load_dataset
from probe_sae.recording.files import BLOCK_BYTES, WHOLE_BYTES, LocalFile, digest_of
from probe_sae.store import StoreWriter, layout

from .test_hub_data import StandIn

SITE = "blocks.0.resid_post"
SMALL = CaptureSettings(max_length=16, batch_size=4, dtype="float32")


def folder(root: Path, path: str = "") -> Path:
    (root / "texts" / "in").mkdir(parents=True)
    for name in ("b.txt", "c.txt", "in/d.txt"):
        (root / "texts" / name).write_text(f"value = {name!r}\n" * 9, encoding="utf-8")
    (root / "texts" / ".hidden").write_text("nobody reads this")
    return root / "texts" / path


def lines(root: Path) -> Path:
    text = "".join(json.dumps({"text": f"value = {i}\n" * 9}) + "\n" for i in range(9))
    (root / "texts.jsonl").write_text(text, encoding="utf-8")
    return root / "texts.jsonl"


def parquet(root: Path) -> Path:
    (root / "texts.parquet").write_bytes(b"no parquet, but nobody looks")
    return root / "texts.parquet"


def own_recipe(root: Path) -> Path:
    where = json.dumps(str(folder(root)))
    head = 'name = "mine"\nkind = "text"\n[source]\ntype = "folder"\n'
    (root / "mine.toml").write_text(f'{head}path = {where}\nfiles = ["**/*.txt"]\n')
    return root / "mine.toml"


PLACES: dict[str, Callable[[Path], Path]] = {
    "folder": folder,
    "file": lambda root: folder(root, "b.txt"),
    "jsonl": lines,
    "parquet": parquet,
    "recipe": own_recipe,
    "hub": lambda root: Path(f"hf:{folder(root)}"),
}
"""What makes a dataset in a folder, and returns what it is called."""


@pytest.fixture(params=PLACES)
def place(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path], Path]:
    monkeypatch.setitem(sys.modules, "datasets", StandIn())
    monkeypatch.setattr("tests.recording.test_hub_data.COMMIT", "no commit")
    return PLACES[request.param]


def changed_file(given: Path) -> Path:
    """Return a file that the dataset of a name reads."""
    path = Path(str(given).removeprefix("hf:"))
    path = path.parent / "texts" if path.suffix == ".toml" else path
    return path / "b.txt" if path.is_dir() else path


def test_a_dataset_that_was_moved_is_the_same(
    place: Callable[[Path], Path], tmp_path: Path
) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    here, there = place(tmp_path / "here"), place(tmp_path / "there")

    assert load_dataset(here).fingerprint == load_dataset(there).fingerprint
    assert load_dataset(here).source != load_dataset(there).source


def test_a_dataset_that_was_changed_is_another(
    place: Callable[[Path], Path], tmp_path: Path
) -> None:
    given = place(tmp_path)
    before = load_dataset(given)
    known = before.fingerprint
    path = changed_file(given)
    status = path.stat()

    path.write_bytes(path.read_bytes().swapcase())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert load_dataset(given).fingerprint != known
    assert before.fingerprint == known  # one object reads its files once


@pytest.mark.parametrize("change", ["add", "remove", "rename", "move"])
def test_a_folder_with_other_files_is_another_dataset(tmp_path: Path, change: str) -> None:
    root = folder(tmp_path)
    known = load_dataset(root).fingerprint
    if change == "add":
        (root / "a.txt").write_text("one more")
    if change == "remove":
        (root / "c.txt").unlink()
    if change == "rename":
        (root / "c.txt").rename(root / "e.txt")
    if change == "move":
        (root / "c.txt").rename(root / "in" / "c.txt")

    assert load_dataset(root).fingerprint != known


def test_files_that_a_recipe_leaves_out_do_not_count(tmp_path: Path) -> None:
    known = load_dataset(own_recipe(tmp_path)).fingerprint
    (tmp_path / "texts" / "more.md").write_text("no text file")

    assert load_dataset(tmp_path / "mine.toml").fingerprint == known


def test_the_order_of_a_folder_counts(tmp_path: Path) -> None:
    path = own_recipe(tmp_path)
    known = load_dataset(path).fingerprint
    path.write_text(path.read_text() + 'order = "shuffled"\n')

    assert load_dataset(path).fingerprint != known


@pytest.mark.parametrize("place", [0, 3 * WHOLE_BYTES - 1, 3 * WHOLE_BYTES])
def test_of_a_large_file_blocks_from_first_to_last_and_the_size_count(
    tmp_path: Path, place: int
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * (3 * WHOLE_BYTES))
    known = load_dataset(path).fingerprint
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"y")

    assert load_dataset(path).fingerprint != known


def test_a_large_file_is_not_read_whole(tmp_path: Path) -> None:
    """Says what is given up: between two blocks a change that leaves the size is not seen."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * (3 * WHOLE_BYTES))
    known = load_dataset(path).fingerprint
    with path.open("r+b") as file:
        file.seek(BLOCK_BYTES + 1)
        file.write(b"y")

    assert load_dataset(path).fingerprint == known


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"cannot read .*none\.txt: No such file"):
        digest_of([LocalFile("none.txt", tmp_path / "none.txt")])


def test_what_is_no_file_is_known_by_its_recipe() -> None:
    one, same = (dataset_from(list, name="mine", kind="text") for _ in range(2))

    assert one.fingerprint == same.fingerprint
    assert one.fingerprint != dataset_from(list, name="yours", kind="text").fingerprint
    assert load_dataset("digits").fingerprint == load_dataset("digits").fingerprint
    assert load_dataset("stdlib").fingerprint == load_dataset("stdlib").fingerprint


def test_a_dataset_that_was_changed_is_recorded_as_another(code_lm: Host, tmp_path: Path) -> None:
    """Else what training held out of the first would count as held out of the second."""
    root = folder(tmp_path)
    first = capture(code_lm, root, SITE, tmp_path / "first", SMALL)
    shutil.copytree(root, tmp_path / "moved")
    same = capture(code_lm, tmp_path / "moved", SITE, tmp_path / "same", SMALL)
    (root / "a.txt").write_text("one more file\n")

    second = capture(code_lm, root, SITE, tmp_path / "second", SMALL)

    assert first.recording == same.recording != second.recording


def test_a_recording_does_not_go_on_with_a_dataset_that_was_changed(
    code_lm: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(tmp_path)
    append = StoreWriter.append

    def interrupted(self: StoreWriter, *rows: object) -> None:
        append(self, *rows)  # pyright: ignore[reportArgumentType]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(layout, "SHARD_BYTES", 1)
        patched.setattr(StoreWriter, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            capture(code_lm, root, SITE, tmp_path / "store", SMALL)
    (root / "c.txt").write_text("something else")

    with pytest.raises(StoreError, match=r"begun otherwise .dataset."):
        capture(code_lm, root, SITE, tmp_path / "store", SMALL, resume=True)
