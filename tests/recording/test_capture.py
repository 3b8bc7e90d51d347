"""What was recorded is what a plain hook sees, without padding or special tokens."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from probe_sae.errors import (
    DatasetError,
    HostNotFound,
    OutputExists,
    SettingsError,
    ShapeError,
    SiteNotFound,
    StoreError,
)
from probe_sae.host import Host, load_host
from probe_sae.recording import (
    CaptureSettings,
    Recipe,
    batches,
    capture,
    dataset_from,
    load_dataset,
)
from probe_sae.store import RecordedRows, Store, StoreWriter, layout, open_store

SITE = "blocks.1.resid_post"
SMALL = CaptureSettings(max_length=16, batch_size=4, dtype="float32")


@pytest.fixture
def texts(tmp_path: Path) -> Recipe:
    """Documents of very different lengths, so that every batch has padding."""
    path = tmp_path / "texts.jsonl"
    words = ["import os\n", "x = 1\n", "def f(a, b):\n    return a + b\n", "caf\u00e9 \U0001f600\n"]
    lines = [json.dumps({"text": words[i % 4] * (1 + i % 7)}) for i in range(23)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return load_dataset(path)


def plain(host: Host, recipe: Recipe, module: str) -> torch.Tensor:
    """Return rows by a hand-written hook, one context at a time: no batch, no padding."""
    kept: list[torch.Tensor] = []
    seen: list[torch.Tensor] = []

    def hook(_: Any, __: Any, output: Any) -> None:
        seen.append((output if isinstance(output, torch.Tensor) else output[0]).clone())

    handle = host.model.get_submodule(module).register_forward_hook(hook)
    for batch in batches(host, recipe, max_length=16, batch_size=1):
        with torch.no_grad():
            host.model(input_ids=batch.inputs["input_ids"])
        special = set(host.tokenizer.all_special_ids)
        ids = batch.inputs["input_ids"][0].tolist()
        kept.append(seen[-1][0, [i for i, token in enumerate(ids) if token not in special]])
    handle.remove()
    return torch.cat(kept)


def test_recorded_rows_equal_a_plain_hook(code_lm: Host, texts: Recipe, tmp_path: Path) -> None:
    store = capture(code_lm, texts, SITE, tmp_path / "store", SMALL)

    expected = plain(code_lm, texts, "transformer.h.1")

    assert store.rows == len(expected)
    assert torch.allclose(store.read(SITE, 0, store.rows), expected, atol=1e-5)


def test_rows_know_their_text(code_lm: Host, texts: Recipe, tmp_path: Path) -> None:
    """The pieces of all rows, put together by document and position, are the documents."""
    from probe_sae.recording.documents import documents

    store = capture(code_lm, texts, SITE, tmp_path / "store", SMALL)
    pieces, doc = store.vocabulary(), store.column("doc")
    pos, token = store.column("pos"), store.column("token")

    for document in documents(texts):
        mine = doc == document.index
        assert pos[mine].tolist() == list(range(int(mine.sum())))
        assert b"".join(pieces[t] for t in token[mine]).decode() == document.text


def test_no_row_is_a_special_token(code_lm: Host, texts: Recipe, tmp_path: Path) -> None:
    store = capture(code_lm, texts, SITE, tmp_path / "store", SMALL)

    assert not set(store.column("token").tolist()) & set(code_lm.tokenizer.all_special_ids)


def test_several_sites_share_one_row_axis(code_lm: Host, texts: Recipe, tmp_path: Path) -> None:
    sites = ["blocks.0.resid_post", "blocks.{1,2}.mlp_out"]
    store = capture(code_lm, texts, sites, tmp_path / "store", SMALL)
    alone = capture(code_lm, texts, "blocks.2.mlp_out", tmp_path / "alone", SMALL)

    assert list(store.sites) == ["blocks.0.resid_post", "blocks.1.mlp_out", "blocks.2.mlp_out"]
    assert torch.equal(store.read("blocks.2.mlp_out", 0, 50), alone.read("blocks.2.mlp_out", 0, 50))


def test_rows_stop_at_a_whole_context(code_lm: Host, texts: Recipe, tmp_path: Path) -> None:
    settings = CaptureSettings(rows=50, max_length=16, batch_size=4, dtype="float32")
    store = capture(code_lm, texts, SITE, tmp_path / "store", settings)
    lengths = np.bincount(store.context_of_row)

    assert store.rows >= 50 > store.rows - lengths[-1]
    assert store.contexts == len(lengths)


def _interrupt_after(monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    """Make every batch a shard, and interrupt the recording after some of them."""
    monkeypatch.setattr(layout, "SHARD_BYTES", 1)
    append, calls = StoreWriter.append, 0

    def interrupted(self: StoreWriter, rows: RecordedRows) -> None:
        nonlocal calls
        append(self, rows)
        calls += 1
        if calls == batches:
            raise KeyboardInterrupt

    monkeypatch.setattr(StoreWriter, "append", interrupted)


@pytest.mark.parametrize("batches", [1, 3])
def test_a_resumed_recording_equals_an_uninterrupted_one(
    code_lm: Host, texts: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    whole = capture(code_lm, texts, SITE, tmp_path / "whole", SMALL)
    with monkeypatch.context() as patched:
        _interrupt_after(patched, batches)
        with pytest.raises(KeyboardInterrupt):
            capture(code_lm, texts, SITE, tmp_path / "store", SMALL)
    with pytest.raises(OutputExists, match="resume=True"):
        capture(code_lm, texts, SITE, tmp_path / "store", SMALL)

    resumed = capture(code_lm, texts, SITE, tmp_path / "store", SMALL, resume=True)

    _assert_same(resumed, whole)


def _assert_same(one: Store, other: Store) -> None:
    assert torch.equal(one.read(SITE, 0, one.rows), other.read(SITE, 0, other.rows))
    for name in ("doc", "context", "pos", "token"):
        assert (one.column(name) == other.column(name)).all()
    assert [c.name for c in one.inputs()] == [c.name for c in other.inputs()]


def test_another_recording_is_not_continued(
    code_lm: Host, texts: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        _interrupt_after(patched, 1)
        with pytest.raises(KeyboardInterrupt):
            capture(code_lm, texts, SITE, tmp_path / "store", SMALL)
    other = CaptureSettings(max_length=12, batch_size=4, dtype="float32")

    with pytest.raises(StoreError, match=r"begun otherwise .settings."):
        capture(code_lm, texts, SITE, tmp_path / "store", other, resume=True)


def test_images_have_a_row_a_patch_and_the_class_token_apart(
    digits_vit: Host, tmp_path: Path
) -> None:
    recipe = load_dataset("digits")
    patches = capture(
        digits_vit, recipe, SITE, tmp_path / "patch", CaptureSettings(rows=640, dtype="float32")
    )
    cls = capture(
        digits_vit,
        recipe,
        SITE,
        tmp_path / "cls",
        CaptureSettings(rows=10, tokens="cls", dtype="float32"),
    )
    (batch,) = [next(batches(digits_vit, recipe, batch_size=10))]
    state = digits_vit(batch.inputs, output_hidden_states=True).hidden_states[2]

    grid = patches.provenance["grid"]
    assert grid[0] * grid[1] == state.shape[1] - 1
    assert torch.allclose(patches.read(SITE, 0, 640), state[:, 1:].flatten(0, 1)[:640], atol=1e-4)
    assert torch.allclose(cls.read(SITE, 0, 10), state[:, 0], atol=1e-4)
    assert [c.label for c in patches.inputs()][:5] == [0, 1, 2, 3, 4]


def test_a_convolution_has_a_row_a_position(tmp_path: Path, images: Path) -> None:
    host = load_host("torchvision:squeezenet1_1@random", device="cpu")
    store = capture(
        host, load_dataset(images), "path:features.3@out", tmp_path / "store", CaptureSettings()
    )
    (batch,) = list(batches(host, load_dataset(images)))
    with torch.no_grad():
        features: Any = host.model.get_submodule("features")
        output = features[:4](batch.inputs["x"])

    height, width = output.shape[2:]
    assert store.provenance["grid"] == [height, width]
    row = store.read("path:features.3@out", width + 2, width + 3)[0]
    assert torch.allclose(row, output[0, :, 1, 2], atol=2e-2)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (3, 40, 50, 3), dtype=np.uint8)
    for i, pixels in enumerate(noise):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"dtype": "int8"}, SettingsError, "no dtype 'int8'"),
        ({"tokens": "patches"}, SettingsError, "expected patch, cls, register, all"),
        ({"rows": 0}, SettingsError, "at least 1"),
        ({"stride": 0}, SettingsError, "at least 1"),
        ({"batch_size": -1}, SettingsError, "at least 1"),
        ({"batch_size": 1.5}, SettingsError, "batch_size is 1.5; expected a whole number"),
        ({"batch_size": None}, SettingsError, "batch_size is None; expected a whole number"),
        ({"max_length": float("inf")}, SettingsError, "max_length is inf; expected a whole number"),
        ({"rows": float("nan")}, SettingsError, "rows is nan; expected a whole number"),
        ({"stride": True}, SettingsError, "stride is True; expected a whole number"),
        ({"pack": "no"}, SettingsError, "pack is 'no'; expected true or false"),
        ({"tokens": ["cls"]}, SettingsError, r"tokens is \['cls'\]; expected a word"),
        ({"dtype": ["float16"]}, SettingsError, "expected a word"),
    ],
)
def test_impossible_settings_are_refused(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        CaptureSettings(**change)


def test_a_whole_number_may_be_written_as_1e6() -> None:
    settings = CaptureSettings(rows=1e6)  # pyright: ignore[reportArgumentType]

    assert repr(settings.rows) == "1000000"
    assert CaptureSettings().rows is None


def test_images_do_not_fit_a_language_model(code_lm: Host, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds images"):
        capture(code_lm, load_dataset("digits"), SITE, tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


def test_a_hosts_name_and_a_wrapped_model_are_recorded_as_the_host_is(
    code_lm: Host, texts: Recipe, tmp_path: Path
) -> None:
    wrapped = torch.nn.DataParallel(code_lm.model)
    expected = capture(code_lm, texts, SITE, tmp_path / "host", SMALL)

    by_name = capture("bundled:code-lm", texts, SITE, tmp_path / "name", SMALL)
    assert torch.equal(by_name.read(SITE, 0, 99), expected.read(SITE, 0, 99))
    with pytest.raises(DatasetError, match=r"GPT2LMHeadModel has no tokenizer.*load_host"):
        capture(wrapped, texts, SITE, tmp_path / "wrapped", SMALL)


def test_what_is_no_host_or_no_dataset_says_what_makes_one(code_lm: Host, tmp_path: Path) -> None:
    with pytest.raises(HostNotFound, match=r"is a list; expected an nn\.Module"):
        capture([1], "stdlib", SITE, tmp_path / "store")
    with pytest.raises(DatasetError, match=r"got list\..*ps\.dataset_from\(lambda: texts"):
        capture(code_lm, ["a text"], SITE, tmp_path / "store")  # pyright: ignore[reportArgumentType]


def test_a_site_that_is_no_name_is_refused(code_lm: Host, texts: Recipe, tmp_path: Path) -> None:
    sites: list[Any] = [SITE, 1]

    with pytest.raises(SiteNotFound, match="1 names no site; expected text"):
        capture(code_lm, texts, sites, tmp_path / "store")
    with pytest.raises(SiteNotFound, match="1 names no site; expected text"):
        capture(code_lm, texts, SITE, tmp_path / "store", SMALL).find_sites(sites)


def test_a_dataset_that_ends_early_is_said(
    code_lm: Host, texts: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = capture(code_lm, texts, SITE, tmp_path / "store", CaptureSettings(rows=10**6))

    assert f"ended after {store.rows:,} of the 1,000,000 rows" in capsys.readouterr().err


def test_a_tokenizer_that_is_none_says_what_it_lacks(
    code_lm: Host, texts: Recipe, tmp_path: Path
) -> None:
    host = load_host(code_lm.model, tokenizer=lambda text: [ord(char) for char in text])

    with pytest.raises(SettingsError, match="has no all_special_ids; expected one of transformers"):
        capture(host, texts, SITE, tmp_path / "store")


def test_sites_without_a_common_row_axis_are_refused(
    code_lm: Host, texts: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(ShapeError, match="its first axis is not the batch"):
        capture(code_lm, texts, [SITE, "path:transformer.wpe@out"], tmp_path / "store", SMALL)


def test_a_disk_too_small_is_said_before_anything_is_recorded(
    code_lm: Host, texts: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="GB free"):
        capture(code_lm, texts, SITE, tmp_path / "store", CaptureSettings(rows=10**12))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_context_without_rows_keeps_its_number(
    code_lm: Host, tmp_path: Path, batch_size: int
) -> None:
    special = code_lm.tokenizer.bos_token
    texts = [special, "import os", special, "x = 1"]
    recipe = dataset_from(lambda: texts, name="with nothing", kind="text")
    settings = CaptureSettings(batch_size=batch_size, dtype="float32")

    store = capture(code_lm, recipe, SITE, tmp_path / "store", settings)

    assert store.contexts == 4
    assert sorted(set(store.context_of_row.tolist())) == [1, 3]
    assert [c.name for c in store.inputs()][1] == "with nothing:1"


def test_a_shard_without_rows_can_be_read(
    code_lm: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "SHARD_BYTES", 1)
    texts = [code_lm.tokenizer.bos_token, "import os"]
    recipe = dataset_from(lambda: texts, name="with nothing", kind="text")
    settings = CaptureSettings(batch_size=1, dtype="float32")

    store = capture(code_lm, recipe, SITE, tmp_path / "store", settings)

    assert store.shards[0].rows == 0
    assert store.read(SITE, 0, store.rows).shape == (store.rows, 224)
    assert store.verify() == []


def test_an_interrupt_within_a_batch_leaves_a_store_that_resumes(
    code_lm: Host, texts: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a batch's sites must never be committed."""
    sites = ["blocks.0.resid_post", SITE]
    whole = capture(code_lm, texts, sites, tmp_path / "whole", SMALL)
    calls = 0
    real = layout.to_disk

    def interrupted(rows: torch.Tensor, dtype: str) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return real(rows, dtype)

    with monkeypatch.context() as patched:
        patched.setattr(layout, "to_disk", interrupted)
        with pytest.raises(KeyboardInterrupt):
            capture(code_lm, texts, sites, tmp_path / "store", SMALL)

    resumed = capture(code_lm, texts, sites, tmp_path / "store", SMALL, resume=True)

    _assert_same(resumed, whole)


def test_resuming_a_finished_recording_of_something_else_says_so(
    code_lm: Host, texts: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = capture(code_lm, texts, SITE, tmp_path / "store", SMALL)

    again = capture(code_lm, texts, SITE, tmp_path / "store", SMALL, resume=True)
    with pytest.raises(StoreError, match="is finished, and was recorded with another sites"):
        capture(code_lm, texts, "blocks.0.mlp_out", tmp_path / "store", SMALL, resume=True)

    assert again.rows == store.rows
    assert "nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize("batch_size", [1, 4])
def test_more_rows_are_recorded_after_those_of_a_finished_store(
    code_lm: Host, texts: Recipe, tmp_path: Path, batch_size: int
) -> None:
    def record(name: str, rows: int | None) -> Store:
        settings = CaptureSettings(rows, 16, batch_size, "float32")
        return capture(code_lm, texts, SITE, tmp_path / name, settings, resume=True)

    longer = record("at once", 250)
    all_of_it = record("all", None)

    first = record("store", 60)
    more = record("store", 250)

    assert first.rows < 100
    assert more.shards[0].rows == first.rows
    _assert_same(more, longer)
    assert record("store", 100).rows == more.rows  # it has them already
    _assert_same(record("store", None), all_of_it)
    assert more.recording == all_of_it.recording == first.recording
    assert not (tmp_path / "store.partial").exists()


def test_an_interrupt_while_more_is_recorded_leaves_the_store_as_it_was(
    code_lm: Host, texts: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = (CaptureSettings(rows, 16, 4, "float32") for rows in (60, 250))
    whole = capture(code_lm, texts, SITE, tmp_path / "whole", many)
    capture(code_lm, texts, SITE, tmp_path / "store", few)
    with monkeypatch.context() as patched:
        _interrupt_after(patched, 2)
        with pytest.raises(KeyboardInterrupt):
            capture(code_lm, texts, SITE, tmp_path / "store", many, resume=True)

    assert open_store(tmp_path / "store").rows < 100
    _assert_same(capture(code_lm, texts, SITE, tmp_path / "store", many, resume=True), whole)


def test_patches_know_where_they_lie(tmp_path: Path, images: Path) -> None:
    host = load_host("torchvision:squeezenet1_1@random", device="cpu")
    site = "path:features.3@out"
    store = capture(host, load_dataset(images), site, tmp_path / "store", CaptureSettings())

    height, width = store.provenance["grid"]
    y, x = store.column("y").astype(int), store.column("x").astype(int)
    assert (y * width + x == store.column("pos")).all()
    assert (y.max(), x.max()) == (height - 1, width - 1)
