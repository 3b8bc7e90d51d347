"""Contexts: framed as the host was trained, overlapping or packed, each row with its place."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from probe_sae.errors import DatasetError, SettingsError
from probe_sae.host import Host, load_host
from probe_sae.recording import CaptureSettings, Recipe, batches, capture, dataset_from
from probe_sae.recording.documents import documents, pictures
from probe_sae.store import Store

SITE = "blocks.1.resid_post"
TEXTS = ["import os\nimport sys\n" * 4, "x = 1\n", "def f(a, b):\n    return a + b\n" * 3]


@pytest.fixture
def texts() -> Recipe:
    return dataset_from(lambda: TEXTS, name="three", kind="text")


def written(store: Store) -> dict[int, str]:
    """Return the text that the rows of each document spell, in the order of the rows."""
    pieces, doc = store.vocabulary(), store.column("doc")
    token = store.column("token")
    return {int(i): b"".join(pieces[t] for t in token[doc == i]).decode() for i in np.unique(doc)}


@pytest.mark.parametrize("stride", [None, 1, 5, 9])
def test_overlapping_contexts_record_each_token_once_with_what_is_before_it(
    code_lm: Host, texts: Recipe, tmp_path: Path, stride: int | None
) -> None:
    settings = CaptureSettings(max_length=10, batch_size=3, dtype="float32", stride=stride)
    store = capture(code_lm, texts, SITE, tmp_path / "store", settings)

    assert written(store) == dict(enumerate(TEXTS))
    doc, pos = store.column("doc"), store.column("pos")
    for i in range(len(TEXTS)):
        assert pos[doc == i].tolist() == list(range(int((doc == i).sum())))
    ids = code_lm.tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]
    room = 9
    step = stride or room
    start = step * max(0, -(-(len(ids) - room) // step))
    window = [code_lm.tokenizer.bos_token_id, *ids[start : start + room]]
    state = code_lm({"input_ids": torch.tensor([window]), "output_hidden_states": True})
    last = int(np.flatnonzero(doc == 0)[-1])
    torch.testing.assert_close(
        store.read(SITE, last, last + 1)[0], state.hidden_states[2][0, -1], atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("stride", [0, 10, -3])
def test_a_stride_that_skips_tokens_is_refused(code_lm: Host, texts: Recipe, stride: int) -> None:
    with pytest.raises(SettingsError, match="expected 1 to 9"):
        next(iter(batches(code_lm, texts, max_length=10, stride=stride)))


def test_packed_contexts_are_full_and_rows_know_their_document(
    code_lm: Host, texts: Recipe, tmp_path: Path
) -> None:
    settings = CaptureSettings(max_length=16, batch_size=2, dtype="float32", pack=True)
    store = capture(code_lm, texts, SITE, tmp_path / "store", settings)

    assert written(store) == dict(enumerate(TEXTS))
    lengths = [len(c.tokens) for c in store.inputs() if c.tokens is not None]
    assert lengths[:-1] == [16] * (len(lengths) - 1)
    assert "three:0 and 1 more" in [c.name for c in store.inputs()]
    special = set(code_lm.tokenizer.all_special_ids)
    assert not set(store.column("token").tolist()) & special
    context, pos = store.column("context"), store.column("pos")
    for i, held in enumerate(store.inputs()):
        assert held.tokens is not None
        recorded = [t for t in held.tokens.tolist() if t not in special]
        assert store.column("token")[context == i].tolist() == recorded
        assert pos[context == i].tolist() == list(range(len(recorded)))


def test_a_packed_store_is_evaluated_and_analysed_like_any_other(
    code_lm: Host, tmp_path: Path
) -> None:
    import probe_sae as ps

    recipe = dataset_from(lambda: TEXTS * 20, name="sixty", kind="text")
    settings = CaptureSettings(max_length=16, pack=True)
    store = capture(code_lm, recipe, SITE, tmp_path / "store", settings)
    sae = ps.train(
        store, ps.TopK(features=32, k=4), ps.TrainSettings(rows=2000, batch_size=128, held_out=0.2)
    )

    metrics = ps.evaluate(sae, store, host=code_lm, dataset=recipe).metrics
    analysis = ps.analyse(sae, store, out=tmp_path / "analysis")

    assert metrics["loss"]["original"] > 0
    assert len(analysis.features()) == 32


def bert(folder: Path) -> Host:
    """Return a tiny BERT with a tokenizer that frames texts with [CLS] and [SEP]."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##d"]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizer.from_pretrained(str(folder))
    config = transformers.BertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        vocab_size=len(words),
        max_position_embeddings=12,
    )
    torch.manual_seed(0)
    return load_host(transformers.BertModel(config), tokenizer=tokenizer)


def test_contexts_are_framed_as_the_tokenizer_does(tmp_path: Path) -> None:
    host = bert(tmp_path)
    recipe = dataset_from(lambda: ["a b c ad " * 5], name="letters", kind="text")

    (batch,) = batches(host, recipe, max_length=50, batch_size=8)

    ids = batch.inputs["input_ids"]
    assert ids.shape[1] == 12
    assert ids[0, 0] == host.tokenizer.cls_token_id
    assert ids[0, -1] == host.tokenizer.sep_token_id
    last = int(batch.inputs["attention_mask"][-1].sum())
    assert ids[-1, last - 1] == host.tokenizer.sep_token_id
    assert batch.keep is not None
    assert batch.keep[0].tolist() == [False] + [True] * 10 + [False]


def test_a_host_that_reads_less_than_was_asked_for_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = bert(tmp_path)
    recipe = dataset_from(lambda: ["a b c ad " * 5], name="letters", kind="text")

    for length, said in ((50, True), (12, False)):
        capture(host, recipe, SITE, tmp_path / str(length), CaptureSettings(max_length=length))
        assert ("BertModel reads 12 tokens at most" in capsys.readouterr().err) == said


@pytest.mark.parametrize("kind", ["text", "image"])
def test_inputs_of_the_users_own_are_a_dataset(kind: str) -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    items = (
        ["one", ("second", "two"), "  "]
        if kind == "text"
        else [
            pixels,
            ("b", pixels[..., 0], np.int64(7)),
            (pixels, 3),
            (7, pixels, None),
            (8, pixels),
        ]
    )
    recipe = dataset_from(lambda: items, name="own", kind=kind)

    if kind == "text":
        assert [(d.name, d.text) for d in documents(recipe)] == [
            ("own:0", "one"),
            ("second", "two"),
        ]
    else:
        assert [(p.name, p.pixels.shape, p.label) for p in pictures(recipe)] == [
            ("own:0", (4, 6, 3), -1),
            ("b", (4, 6, 1), 7),
            ("own:2", (4, 6, 3), 3),
            ("7", (4, 6, 3), -1),
            ("8", (4, 6, 3), -1),
        ]


@pytest.mark.parametrize(
    ("kind", "item", "message"),
    [
        ("text", 3, "item 0 is int; expected a text"),
        ("image", np.zeros((4, 4, 3)), "is float64"),
        ("image", np.zeros((4, 4, 7), np.uint8), r"\(4, 4, 7\); expected uint8"),
        ("image", ("a", 1, 2, 3), "expected uint8"),
        ("image", ("a", np.zeros((4, 4), np.uint8), "cat"), "class 'cat'; expected a whole number"),
        ("image", ("a", np.zeros((4, 4), np.uint8), 1.5), "class 1.5; expected a whole number"),
        ("image", ("a", np.zeros((4, 4), np.uint8), -2), "class -2; expected a whole number"),
    ],
)
def test_inputs_that_are_none_say_what_is_expected(kind: str, item: object, message: str) -> None:
    recipe = dataset_from(lambda: [item], name="own", kind=kind)

    with pytest.raises(DatasetError, match=message):
        list(documents(recipe) if kind == "text" else pictures(recipe))


def test_broken_characters_are_recorded_as_what_stands_for_them(
    code_lm: Host, tmp_path: Path
) -> None:
    (tmp_path / "broken.jsonl").write_text('{"text": "x = \\ud800 + 1\\n"}\n')

    store = capture(code_lm, tmp_path / "broken.jsonl", SITE, tmp_path / "store")

    assert written(store) == {0: "x = \N{REPLACEMENT CHARACTER} + 1\n"}


def test_a_function_that_gives_nothing_to_go_through_is_refused() -> None:
    with pytest.raises(DatasetError, match="its function returned NoneType; expected something"):
        list(documents(dataset_from(lambda: None, name="own", kind="text")))  # type: ignore[arg-type,return-value]


def test_the_pretrained_story_model_records_its_hidden_states(
    data_folder: Path, tmp_path: Path
) -> None:
    host = load_host(data_folder / "lm" / "stories260K_hf", device="cpu")
    with (data_folder / "text" / "tinystories_600.jsonl").open() as lines:
        stories = [json.loads(next(lines))["text"] for _ in range(5)]
    recipe = dataset_from(lambda: stories, name="stories", kind="text")
    settings = CaptureSettings(max_length=128, batch_size=3, dtype="float32")

    store = capture(host, recipe, "blocks.*.resid_pre", tmp_path / "store", settings)

    for batch in batches(host, recipe, max_length=128, batch_size=1):
        states = host({**batch.inputs, "output_hidden_states": True}).hidden_states
        mine = np.flatnonzero(store.column("context") == batch.contexts[0].index)
        assert batch.keep is not None
        for i in (0, 4):
            rows = store.read(f"blocks.{i}.resid_pre", int(mine[0]), int(mine[-1]) + 1)
            torch.testing.assert_close(rows, states[i][0][batch.keep[0]], atol=1e-4, rtol=1e-4)
