"""What a firing does to the host's loss is what a run without it says."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from probe_sae.analysis import (
    Analysis,
    TextInputs,
    analyse,
    load_analysis,
    loss_effects,
    save_analysis,
)
from probe_sae.analysis.arrays import TOP
from probe_sae.errors import SettingsError
from probe_sae.host import Ablate, Host, ReplaceRows, edit, load_host
from probe_sae.recording import (
    Batch,
    CaptureSettings,
    Recipe,
    as_recorded,
    batches,
    capture,
    dataset_from,
    load_dataset,
)
from probe_sae.sae import L1, SAE, BatchTopK, Plain, Settings, SignedTopK, Transcoder, make_sae
from probe_sae.store import Store

SITE = "blocks.1.resid_post"
WINDOWS = CaptureSettings(max_length=64)
TEXTS = (
    "def main(argv):\n    return 0\n",
    "import os\n",
    "class Reader:\n    '''Reads lines one after the other, and never ends.'''\n\n    x = 1\n" * 3,
    "for i in range(10):\n    print(i)\n",
)
KINDS: dict[str, Settings] = {
    "batchtopk": BatchTopK(features=40, k=4),
    "signed": SignedTopK(features=40, k=4),
    "deep": L1(features=40, hidden=(24,), coefficient=0.1),
    "of unit rows": Plain(features=40, activation="topk", k=4, normalise="unit_norm"),
    "of normal rows": Plain(features=40, activation="topk", k=4, normalise="layer_norm"),
}


def texts(of: tuple[str, ...] = TEXTS, name: str = "texts") -> Recipe:
    return dataset_from(lambda: of, name=name, kind="text")


def dictionary(store: Store, site: str = SITE, settings: Settings = KINDS["batchtopk"]) -> SAE:
    """A dictionary of a site that no training has changed."""
    sae, some = make_sae(settings, store.site(site).width), store[site][:200].float()
    generator = torch.Generator().manual_seed(2)
    if isinstance(settings, Plain):
        sae.reset(generator)
        with torch.no_grad():
            sae.get_parameter("W_enc").copy_(sae.get_parameter("W_dec"))
    else:
        sae.initialise(some, generator)
        sae.finish(some)
    sae.provenance |= {"sites": [site]}
    return sae.requires_grad_(False)


@pytest.fixture(scope="module")
def code_lm() -> Host:
    return load_host("bundled:code-lm", device="cpu")


@pytest.fixture(scope="module")
def store(code_lm: Host, tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("losses") / "store"
    return capture(code_lm, texts(), [SITE, "blocks.2.resid_post"], folder, WINDOWS)


@pytest.fixture(scope="module")
def found(code_lm: Host, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    out = tmp_path_factory.mktemp("losses") / "analysis"
    return measured(dictionary(store), store, out, code_lm)


def measured(saes: Any, store: Store, out: Path, host: Any, **more: Any) -> Analysis:
    given: dict[str, Any] = {"dataset": texts(), "loss_examples": 3} | more
    return analyse(saes, store, out, host=host, rows="all", **given)


def loss_of(host: Host, batch: Batch) -> float:
    """The loss of one context, summed, from the host's own logits."""
    logits = getattr(host(batch.inputs), "logits", None)
    assert isinstance(logits, Tensor)
    if batch.keep is None:
        return float(cross_entropy(logits.double(), batch.labels))
    each = cross_entropy(
        logits[0, :-1].double(), batch.inputs["input_ids"][0, 1:], reduction="none"
    )
    return float(each[batch.keep[0, 1:]].sum())


def without(
    host: Host, batch: Batch, site: str, sae: SAE, feature: int, position: int, places: int
) -> float:
    """What the loss gains when a feature is ablated at one position, [1, places] of which are."""
    where = torch.zeros(1, places, dtype=torch.bool)
    where[0, position] = True
    plain = loss_of(host, batch)
    with edit(host, site, ReplaceRows(where, Ablate(sae, feature))):
        return loss_of(host, batch) - plain


def alone(host: Host, recipe: Recipe, store: Store) -> Mapping[int, Batch]:
    """Each context of a store as a batch of its own."""
    how: dict[str, Any] = as_recorded(store.provenance["settings"]) | {"batch_size": 1}
    return {batch.contexts[0].index: batch for batch in batches(host, recipe, **how)}


def assert_are_those_of_ablation(
    found: Analysis, saes: list[SAE], sites: list[str], store: Store, host: Host, recipe: Recipe
) -> None:
    examples, inputs = found.examples, found.inputs
    assert isinstance(inputs, TextInputs)
    by_tokens = {
        tuple(batch.inputs["input_ids"][0].tolist()): batch
        for batch in alone(host, recipe, store).values()
    }
    known = np.flatnonzero(np.isfinite(examples.loss))
    assert len(known) > 40
    assert np.abs(examples.loss[known]).max() > 0.02
    bounds = np.cumsum([0, *(sae.features for sae in saes)])
    for n in known[::7]:
        low, high = inputs.offsets[examples.context[n] : examples.context[n] + 2]
        batch = by_tokens[tuple(inputs.tokens[low:high].tolist())]
        part = int(np.searchsorted(bounds, examples.feature[n], side="right")) - 1
        feature, position = int(examples.feature[n] - bounds[part]), int(examples.position[n])
        truth = without(host, batch, sites[part], saes[part], feature, position, int(high - low))
        assert examples.loss[n] == pytest.approx(truth, abs=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_effects_are_those_of_ablation(
    kind: str, code_lm: Host, store: Store, tmp_path: Path
) -> None:
    sae = dictionary(store, settings=KINDS[kind])
    found = measured(sae, store, tmp_path / "out", code_lm)

    assert_are_those_of_ablation(found, [sae], [SITE], store, code_lm, texts())


@pytest.mark.parametrize(
    "how", [{"stride": 40}, {"pack": True}, {"rows": 60}], ids=["stride", "pack", "rows"]
)
def test_effects_are_those_of_ablation_however_texts_were_cut(
    how: dict[str, Any], code_lm: Host, tmp_path: Path
) -> None:
    settings = CaptureSettings(**(asdict(WINDOWS) | how))
    store = capture(code_lm, texts(), SITE, tmp_path / "store", settings)
    sae = dictionary(store)
    found = measured(sae, store, tmp_path / "out", code_lm)

    assert_are_those_of_ablation(found, [sae], [SITE], store, code_lm, texts())


def test_each_of_several_dictionaries_is_taken_out_of_its_own_site(
    code_lm: Host, store: Store, tmp_path: Path
) -> None:
    sites = [SITE, "blocks.2.resid_post"]
    saes = [dictionary(store, site, KINDS[kind]) for site, kind in zip(sites, KINDS, strict=False)]
    found = measured(saes, store, tmp_path / "out", code_lm)

    assert_are_those_of_ablation(found, saes, sites, store, code_lm, texts())


def test_sites_whose_rows_lie_flat_are_edited_too(code_lm: Host, tmp_path: Path) -> None:
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=len(code_lm.tokenizer) + 10, hidden_size=32, ffn_dim=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=128, word_embed_proj_dim=32,
    )  # fmt: skip
    host = load_host(OPTForCausalLM(config), tokenizer=code_lm.tokenizer)
    site = "blocks.1.mlp_out"
    store = capture(host, texts(), site, tmp_path / "store", WINDOWS)
    sae = dictionary(store, site)
    found = measured(sae, store, tmp_path / "out", host)

    assert_are_those_of_ablation(found, [sae], [site], store, host, texts())


def test_effects_in_an_image_are_those_of_ablation(tmp_path: Path) -> None:
    host, recipe = load_host("bundled:digits-vit", device="cpu"), load_dataset("digits")
    settings = CaptureSettings(rows=400, tokens="patch")
    store = capture(host, recipe, SITE, tmp_path / "store", settings)
    sae, rows = dictionary(store), store[SITE]
    out = tmp_path / "analysis"
    found = measured(sae, store, out, host, dataset=recipe, loss_examples=2).examples
    images, codes = alone(host, recipe, store), sae.encode(rows[: store.rows].float())
    known = np.flatnonzero(np.isfinite(found.loss))
    assert np.abs(found.loss[known]).max() > 1e-3

    for n in known[::9]:
        # The row of the store whose code it is tells its place in the image without our help.
        feature = int(found.feature[n])
        row = int((codes[:, feature] - float(found.value[n])).abs().argmin())
        context = store.context_of_row
        own = np.flatnonzero(context == context[row])
        image, patch = images[int(context[row])], row - int(own[0])
        truth = without(host, image, SITE, sae, feature, 1 + patch, 1 + len(own))  # after cls
        assert found.loss[n] == pytest.approx(truth, abs=1e-4)


def test_only_so_many_of_the_strongest_examples_are_tried(found: Analysis, store: Store) -> None:
    examples, inputs = found.examples, found.inputs
    assert isinstance(inputs, TextInputs)
    wanted = (examples.kind == TOP) & (examples.rank < 3)
    lengths = np.diff(inputs.offsets)[examples.context]
    is_last = examples.position == lengths - 1

    assert np.array_equal(np.isfinite(examples.loss), wanted & ~is_last)
    assert (wanted & is_last).any()
    assert found.info["loss_examples"] == 3


def test_effects_come_back_as_written_and_go_with_the_examples_of_a_kind(
    found: Analysis, tmp_path: Path
) -> None:
    save_analysis(found, tmp_path)
    again = load_analysis(tmp_path).examples

    np.testing.assert_array_equal(again.loss, found.examples.loss)
    np.testing.assert_array_equal(again.of_kinds((TOP,)).loss, again.loss[again.kind == TOP])


def test_what_was_measured_before_an_interruption_is_not_measured_again(
    found: Analysis, code_lm: Host, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench: Any = loss_effects._Bench  # pyright: ignore[reportPrivateUsage]
    whole, calls = bench._effects, list[int]()

    def some(self: Any, few: Batch, *given: Any) -> Any:
        calls.append(len(few.contexts))
        if len(calls) == 9:
            raise KeyboardInterrupt
        return whole(self, few, *given)

    monkeypatch.setattr(bench, "_effects", some)
    with pytest.raises(KeyboardInterrupt):
        measured(dictionary(store), store, tmp_path / "out", code_lm)
    before, calls[:] = sum(calls[:-1]), []
    monkeypatch.setattr(bench, "_effects", lambda *given: calls.append(1) or whole(*given))
    again = measured(dictionary(store), store, tmp_path / "out", code_lm, resume=True)

    assert before > 50
    known = int(np.isfinite(found.examples.loss).sum())
    assert len(calls) <= known - before + 8
    np.testing.assert_allclose(again.examples.loss, found.examples.loss, atol=1e-4)
    assert not (tmp_path / "out" / "losses").exists()


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY\x01\x00 half of a head", b"no numbers"])
def test_a_damaged_file_of_what_was_measured_is_measured_again(
    damage: bytes, found: Analysis, code_lm: Host, store: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "out.partial" / "losses"
    folder.mkdir(parents=True)
    (folder / "part-0.npy").write_bytes(damage)
    again = measured(dictionary(store), store, tmp_path / "out", code_lm, resume=True)

    np.testing.assert_allclose(again.examples.loss, found.examples.loss, atol=1e-4)


def test_nothing_is_tried_unless_asked_for(code_lm: Host, store: Store, tmp_path: Path) -> None:
    found = measured(dictionary(store), store, tmp_path / "out", code_lm, loss_examples=0)

    assert np.isnan(found.examples.loss).all()


def test_what_writes_elsewhere_has_no_effects(
    code_lm: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sites = ["blocks.1.resid_mid", "blocks.1.mlp_out"]
    store = capture(code_lm, texts(), sites, tmp_path / "store", WINDOWS)
    sae = make_sae(Transcoder(features=20, k=3), tuple(store.site(site).width for site in sites))
    sae.finish(torch.cat([store[site][:200].float() for site in sites], 1))
    sae.provenance |= {"sites": sites}
    found = measured(sae.requires_grad_(False), store, tmp_path / "out", code_lm)

    assert np.isnan(found.examples.loss).all()
    assert "does not write the site it reads" in capsys.readouterr().err


def test_inputs_without_a_loss_have_no_effects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = load_host("bundled:digits-vit", device="cpu")
    pictures = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), np.uint8)
    recipe = dataset_from(lambda: pictures, name="pictures", kind="image")
    store = capture(host, recipe, SITE, tmp_path / "store")
    found = measured(dictionary(store), store, tmp_path / "out", host, dataset=recipe)

    assert np.isnan(found.examples.loss).all()
    assert "the host has none on their inputs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"loss_examples": 2}, "where it is not 0 a host"),
        ({"loss_examples": -1, "host": "bundled:code-lm"}, "expected 0 or more"),
        ({"loss_examples": 1, "host": "bundled:digits-vit"}, "other weights"),
        (
            {"loss_examples": 1, "host": "bundled:code-lm", "dataset": texts(TEXTS[:1], "one")},
            "dataset one ends . inputs before the",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_runs(
    given: dict[str, Any], words: str, store: Store, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=words):
        measured(dictionary(store), store, tmp_path / "out", **({"host": None} | given))

    assert not list(tmp_path.iterdir())
