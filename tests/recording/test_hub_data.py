"""Datasets of the hub: what an id names, and what is read, with the real library where it is."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from probe_sae.errors import DatasetError
from probe_sae.host import Host, load_host
from probe_sae.recording import CaptureSettings, capture, load_dataset
from probe_sae.recording.documents import class_names, documents, pictures
from probe_sae.recording.hub_data import source_of
from probe_sae.store import layout

from ..sae.fake_hub import fake_hub, reach

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SMALL = CaptureSettings(max_length=16, batch_size=4, dtype="float32")


class StandIn(ModuleType):
    """Hugging Face's datasets, where it is not installed: one dataset of three texts."""

    def __init__(self, problem: Exception | None = None) -> None:
        super().__init__("datasets")
        self.problem, self.asked = problem, list[dict[str, Any]]()
        self.features = {"text": SimpleNamespace(dtype="string")}

    def disable_progress_bars(self) -> None:
        pass

    def load_dataset_builder(self, path: str, **options: Any) -> Any:
        if self.problem is not None:
            raise self.problem
        return SimpleNamespace(hash=COMMIT)

    def load_dataset(self, path: str, **options: Any) -> Any:
        self.asked.append({"path": path} | options)
        return self

    def select_columns(self, columns: list[str]) -> Iterator[dict[str, Any]]:
        return iter([{"text": "one"}, {"text": " "}, {"text": "three"}])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return texts laid out as a dataset; the test skips where the library is not installed."""
    pytest.importorskip("datasets", reason="the extra [hub] is not installed")
    (tmp_path / "texts").mkdir()
    for split in ("train", "test"):
        rows = [{"text": f"{split} {i} " * (1 + i % 7), "body": f"b{i}", "n": i} for i in range(23)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "texts" / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return tmp_path / "texts"


@pytest.fixture
def pixels(tmp_path: Path) -> Path:
    """Return images in folders of their classes."""
    pytest.importorskip("datasets", reason="the extra [hub] is not installed")
    for kind, colour in (("cat", 40), ("dog", 200)):
        (tmp_path / "images" / kind).mkdir(parents=True)
        for i in range(5):
            picture = Image.new("L", (8, 8), colour + i)
            picture.save(tmp_path / "images" / kind / f"{i}.png")
    return tmp_path / "images"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf:me/texts", {}),
        ("hf:me/texts@v2", {"revision": "v2"}),
        ("hf:me/texts:small", {"config": "small"}),
        ("hf:me/texts:/test", {"split": "test"}),
        ("hf:me/texts#body", {"field": "body"}),
        (
            "hf:me/texts@v2:small/test#a b",
            {"revision": "v2", "config": "small", "split": "test", "field": "a b"},
        ),
    ],
)
def test_an_id_names_revision_config_split_and_column(text: str, parts: dict[str, str]) -> None:
    assert source_of(text) == {"type": "hub", "path": "me/texts", "split": "train"} | parts


@pytest.mark.parametrize("text", ["hf:", "hf:@v2", "hf:a@b@c", "hf:a#"])
def test_what_is_no_id_says_what_is(text: str) -> None:
    with pytest.raises(DatasetError, match="hf:NAME@REVISION:CONFIG/SPLIT#COLUMN"):
        load_dataset(text)


def test_without_the_extra_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)

    with pytest.raises(DatasetError, match=r"pip install 'probe_sae\[hub\]'"):
        load_dataset("hf:me/texts")


def test_a_dataset_is_read_at_the_commit_that_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    library = StandIn()
    monkeypatch.setitem(sys.modules, "datasets", library)
    recipe = load_dataset("hf:me/texts:small/test")
    library.asked.clear()

    assert [d.text for d in documents(recipe)] == ["one", "three"]
    assert [d.name for d in documents(recipe)] == [f"{recipe.name}:0", f"{recipe.name}:2"]
    wanted = {"path": "me/texts", "name": "small", "split": "test", "revision": COMMIT}
    assert library.asked == [wanted | {"streaming": True}] * 2
    monkeypatch.setattr(f"{__name__}.COMMIT", COMMIT[::-1])
    assert load_dataset("hf:me/texts:small/test").fingerprint != recipe.fingerprint


class OfflineModeIsEnabled(Exception):
    """As the hub's client raises it."""


class DatasetNotFoundError(Exception):
    """As Hugging Face's library raises it."""


@pytest.mark.parametrize(
    ("problem", "advice"),
    [
        (DatasetNotFoundError("Dataset 'a' is a gated dataset on the Hub."), "hf auth login"),
        (DatasetNotFoundError("Dataset 'a' doesn't exist"), "Is it spelled so"),
        (ConnectionError("no way (OfflineModeIsEnabled)"), "--local-dir FOLDER`, and give hf:"),
        (ValueError("Bad split: tset. Available splits: ['train']"), r"Available.*CONFIG/SPLIT"),
    ],
)
def test_what_cannot_be_read_says_what_to_do(
    problem: Exception, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", StandIn(problem))

    with pytest.raises(DatasetError, match=advice):
        load_dataset("hf:me/texts")


def test_a_folder_is_streamed_as_the_hub_would(folder: Path, tmp_path: Path) -> None:
    lines = (folder / "train.jsonl").read_text("utf-8").splitlines()

    found = [d.text for d in documents(load_dataset(f"hf:{folder}"))]

    assert found == [json.loads(line)["text"] for line in lines]
    (first, *_) = documents(load_dataset(f"hf:{folder}:/test#body"))
    assert first.text == "b0"
    with pytest.raises(DatasetError, match="Near it: body"):
        load_dataset(f"hf:{folder}#bdy")
    with pytest.raises(DatasetError, match=r"'n' holds .*int64.*text \(text\), body \(text\)"):
        load_dataset(f"hf:{folder}#n")
    with pytest.raises(DatasetError, match="Available splits"):
        load_dataset(f"hf:{folder}:/tset")
    with pytest.raises(DatasetError, match="Available: \\['default'\\]"):
        load_dataset(f"hf:{folder}:small")
    mine = tmp_path / "mine.toml"
    head = 'name = "mine"\nkind = "text"\n[source]\ntype = "hub"\nfield = "body"\n'
    mine.write_text(f"{head}path = {json.dumps(str(folder))}\n", encoding="utf-8")
    assert next(documents(load_dataset(mine))).text == "b0"


def test_a_dataset_of_the_hub_streams_from_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real library and client, with a hub in this process."""
    library = pytest.importorskip("datasets", reason="the extra [hub] is not installed")
    lines = "".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(4)).encode()
    with fake_hub() as hub:
        reach(hub, monkeypatch)
        monkeypatch.setattr(library.config, "HF_ENDPOINT", hub.endpoint)
        monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        hub.gated.add("datasets/me/gated")
        hub.repositories["datasets/me/texts"] = {"train.jsonl": lines}

        recipe = load_dataset("hf:me/texts")

        assert [d.text for d in documents(recipe)] == [f"text {i}" for i in range(4)]
        assert set(hub.asked) == {f"datasets/me/texts/resolve/{COMMIT}/train.jsonl"}
        assert recipe.source["commit"] == COMMIT
        with pytest.raises(DatasetError, match=r"gated.*Accept its conditions"):
            load_dataset("hf:me/gated")
        with pytest.raises(DatasetError, match=r"doesn't exist.*Is it spelled so"):
            load_dataset("hf:me/nothing")
        monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
        with pytest.raises(DatasetError, match="Nothing can be streamed offline"):
            load_dataset("hf:me/other")


def test_a_column_is_asked_for_where_several_would_do(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_text(path.read_text("utf-8").replace('"text"', '"title"'), "utf-8")

    with pytest.raises(DatasetError, match=r"title \(text\), body \(text\); say which.*#COLUMN"):
        load_dataset(f"hf:{folder}")


def test_images_come_with_their_classes(pixels: Path) -> None:
    recipe = load_dataset(f"hf:{pixels}")

    found = list(pictures(recipe))

    assert (recipe.kind, class_names(recipe)) == ("image", ["cat", "dog"])
    assert [picture.label for picture in found] == [0] * 5 + [1] * 5
    assert [int(picture.pixels[0, 0, 0]) for picture in found[:3]] == [40, 41, 42]
    assert found[0].pixels.shape == (8, 8, 3)


def test_images_inside_parquet_are_the_same(pixels: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("datasets")
    (tmp_path / "packed").mkdir()
    whole = library.load_dataset("imagefolder", data_dir=str(pixels), split="train")
    whole.to_parquet(str(tmp_path / "packed" / "train.parquet"))

    packed = list(pictures(load_dataset(f"hf:{tmp_path / 'packed'}#image")))

    plain = list(pictures(load_dataset(f"hf:{pixels}")))
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(packed, plain, strict=True))
    assert [picture.label for picture in packed] == [picture.label for picture in plain]


def test_an_image_that_cannot_be_read_is_an_error(pixels: Path) -> None:
    (pixels / "dog" / "4.png").write_bytes(b"no image")

    with pytest.raises(DatasetError, match="cannot read hf:"):
        list(pictures(load_dataset(f"hf:{pixels}")))


def test_a_parquet_file_without_the_column_says_what_it_has(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("datasets")
    parquet.write_table(pyarrow.table({"txt": ["a"]}), tmp_path / "a.parquet")

    with pytest.raises(DatasetError, match=r"no column 'text'; it has txt\. Near it: txt"):
        list(documents(load_dataset(tmp_path / "a.parquet")))


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_recording_that_was_interrupted_goes_on_as_if_nothing_had_been(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: Path = request.getfixturevalue("folder" if kind == "text" else "pixels")
    host: Host = request.getfixturevalue("code_lm") if kind == "text" else load_host("pixels")
    site = "blocks.0.resid_post" if kind == "text" else "input"
    whole = capture(host, f"hf:{given}", site, tmp_path / "whole", SMALL)
    run, runs = Host.run, iter(range(10))

    def interrupted(self: Host, inputs: Any) -> Any:
        if next(runs) == 2:
            raise KeyboardInterrupt
        return run(self, inputs)

    with monkeypatch.context() as patch:
        patch.setattr(Host, "run", interrupted)
        patch.setattr(layout, "SHARD_BYTES", 1)  # every batch is committed
        with pytest.raises(KeyboardInterrupt):
            capture(host, f"hf:{given}", site, tmp_path / "store", SMALL)
    assert len((tmp_path / "store.partial" / "journal.jsonl").read_text().splitlines()) == 2
    resumed = capture(host, f"hf:{given}", site, tmp_path / "store", SMALL, resume=True)

    assert torch.equal(resumed.read(site, 0, resumed.rows), whole.read(site, 0, whole.rows))
    assert (resumed.context_of_row == whole.context_of_row).all()
    for one, other in zip(resumed.inputs(), whole.inputs(), strict=True):
        assert (one.name, one.label) == (other.name, other.label)
        shown = [
            np.asarray(each.tokens if kind == "text" else each.thumbnail) for each in (one, other)
        ]
        assert np.array_equal(shown[0], shown[1])
        assert shown[0].size
