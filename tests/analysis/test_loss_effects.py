"""What a firing does to the host's loss is what a run without it says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from probe_sae.analysis import Analysis, TextInputs, analyse, load_analysis, save_analysis
from probe_sae.analysis.result import TOP
from probe_sae.errors import SettingsError
from probe_sae.host import Host, edit, load_host
from probe_sae.recording import CaptureSettings, capture, dataset_from, load_dataset
from probe_sae.sae import SAE, BatchTopK, Transcoder, make_sae
from probe_sae.store import Store

TEXT_SITE, IMAGE_SITE = "blocks.1.resid_post", "blocks.1.resid_post"
TEXTS = (
    "def main(argv):\n    return 0\n",
    "import os\n",
    "class Reader:\n    '''Reads lines one after the other, and never ends.'''\n\n    x = 1\n" * 3,
    "for i in range(10):\n    print(i)\n",
)


def dictionary(store: Store, site: str, **split: Any) -> SAE:
    """A dictionary of a site that no training has changed."""
    sae = make_sae(BatchTopK(features=40, k=4), store.site(site).width)
    sae.initialise(store[site][:200].float(), torch.Generator().manual_seed(2))
    sae.finish(store[site][:200].float())
    sae.provenance |= {"sites": [site], **split}
    return sae.requires_grad_(False)


@pytest.fixture(scope="module")
def code_lm() -> Host:
    return load_host("bundled:code-lm", device="cpu")


@pytest.fixture(scope="module")
def text_store(code_lm: Host, tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("losses") / "store"
    recipe = dataset_from(lambda: TEXTS, name="texts", kind="text")
    return capture(code_lm, recipe, TEXT_SITE, folder, CaptureSettings(max_length=64))


@pytest.fixture(scope="module")
def of_texts(
    code_lm: Host, text_store: Store, tmp_path_factory: pytest.TempPathFactory
) -> Analysis:
    sae = dictionary(text_store, TEXT_SITE)
    out = tmp_path_factory.mktemp("losses") / "analysis"
    recipe = dataset_from(lambda: TEXTS, name="texts", kind="text")
    return analyse(sae, text_store, out, host=code_lm, dataset=recipe, rows="all", loss_examples=3)


def loss_of(host: Host, tokens: Tensor, special: list[int]) -> float:
    logits = host({"input_ids": tokens[None]}).logits[0, :-1]
    each = cross_entropy(logits, tokens[1:], reduction="none").double()
    return float(each[~torch.isin(tokens[1:], torch.tensor(special))].sum())


def test_effects_in_a_text_are_those_of_a_run_without_the_firing(
    code_lm: Host, text_store: Store, of_texts: Analysis
) -> None:
    examples, inputs = of_texts.examples, of_texts.inputs
    assert isinstance(inputs, TextInputs)
    directions = dictionary(text_store, TEXT_SITE).directions()
    measured = np.flatnonzero(np.isfinite(examples.loss))
    assert len(measured) > 40
    assert len(set(examples.context[measured].tolist())) > 2
    assert np.abs(examples.loss[measured]).max() > 0.05
    for n in measured[::5]:
        low, high = inputs.offsets[examples.context[n] : examples.context[n] + 2]
        tokens = torch.from_numpy(inputs.tokens[low:high].astype(np.int64))
        taken = float(examples.value[n]) * directions[examples.feature[n]]

        def without(
            rows: Tensor, at: int = int(examples.position[n]), taken: Tensor = taken
        ) -> Tensor:
            rows[0, at] -= taken
            return rows

        plain = loss_of(code_lm, tokens, inputs.special)
        with edit(code_lm, TEXT_SITE, without):
            changed = loss_of(code_lm, tokens, inputs.special)
        assert examples.loss[n] == pytest.approx(changed - plain, abs=2e-4)


def test_only_so_many_of_the_strongest_examples_are_tried(of_texts: Analysis) -> None:
    examples = of_texts.examples
    wanted = (examples.kind == TOP) & (examples.rank < 3)

    assert np.array_equal(np.isfinite(examples.loss), wanted)


def test_effects_come_back_as_written_and_go_with_the_examples_of_a_kind(
    of_texts: Analysis, tmp_path: Path
) -> None:
    save_analysis(of_texts, tmp_path)
    again = load_analysis(tmp_path).examples
    top = again.of_kinds((TOP,))

    np.testing.assert_array_equal(again.loss, of_texts.examples.loss)
    np.testing.assert_array_equal(top.loss, again.loss[again.kind == TOP])


def test_effects_in_an_image_are_those_of_a_run_without_the_firing(tmp_path: Path) -> None:
    host, recipe = load_host("bundled:digits-vit", device="cpu"), load_dataset("digits")
    store = capture(host, recipe, IMAGE_SITE, tmp_path / "store", CaptureSettings(rows=400))
    sae = dictionary(store, IMAGE_SITE)
    found = analyse(
        sae, store, tmp_path / "analysis", host=host, rows="all", loss_examples=2
    ).examples
    rows = store[IMAGE_SITE]
    n = int(np.nanargmax(np.abs(found.loss)))
    assert abs(float(found.loss[n])) > 1e-3

    # The row of the store that the firing is on tells its place in the image without our help.
    codes = sae.encode(rows[: store.rows].float())[:, int(found.feature[n])]
    row = int((codes - float(found.value[n])).abs().argmin())
    taken = rows[row].float()
    context = int(store.context_of_row[row])
    image = next(batch for batch in _batches(host, recipe) if batch.contexts[0].index == context)

    def without(at: Tensor) -> Tensor:
        here = (at[0] - taken).abs().sum(1).argmin()
        at[0, here] -= float(found.value[n]) * sae.directions()[int(found.feature[n])]
        return at

    def loss() -> float:
        return float(cross_entropy(host(image.inputs).logits.double(), image.labels))

    plain = loss()
    with edit(host, IMAGE_SITE, without):
        assert found.loss[n] == pytest.approx(loss() - plain, abs=1e-4)


def _batches(host: Host, recipe: Any) -> Any:
    from probe_sae.recording import batches

    return batches(host, recipe, batch_size=1)


def test_nothing_is_tried_unless_asked_for(
    code_lm: Host, text_store: Store, tmp_path: Path
) -> None:
    sae = dictionary(text_store, TEXT_SITE)
    found = analyse(sae, text_store, tmp_path / "out", host=code_lm, rows="all")

    assert np.isnan(found.examples.loss).all()


def test_what_writes_elsewhere_has_no_effects(code_lm: Host, tmp_path: Path) -> None:
    sites = ["blocks.1.resid_mid", "blocks.1.mlp_out"]
    recipe = dataset_from(lambda: TEXTS, name="texts", kind="text")
    store = capture(code_lm, recipe, sites, tmp_path / "store", CaptureSettings(max_length=64))
    sae = make_sae(Transcoder(features=20, k=3), tuple(store.site(site).width for site in sites))
    sae.finish(torch.cat([store[site][:200].float() for site in sites], 1))
    sae.provenance |= {"sites": sites}
    found = analyse(
        sae.requires_grad_(False), store, tmp_path / "out",
        host=code_lm, dataset=recipe, rows="all", loss_examples=2,
    )  # fmt: skip

    assert np.isnan(found.examples.loss).all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"loss_examples": 2}, "a host where it is not 0"),
        ({"loss_examples": -1, "host": "bundled:code-lm"}, "expected 0 or more"),
        ({"loss_examples": 1, "host": "bundled:digits-vit"}, "other weights"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_runs(
    given: dict[str, Any], words: str, text_store: Store, tmp_path: Path
) -> None:
    recipe = dataset_from(lambda: TEXTS, name="texts", kind="text")
    sae = dictionary(text_store, TEXT_SITE)
    with pytest.raises(SettingsError, match=words):
        analyse(sae, text_store, tmp_path / "out", dataset=recipe, **given)

    assert not list(tmp_path.iterdir())


def test_another_dataset_is_refused_before_anything_runs(
    code_lm: Host, text_store: Store, tmp_path: Path
) -> None:
    sae, other = (
        dictionary(text_store, TEXT_SITE),
        dataset_from(lambda: TEXTS[:1], name="one", kind="text"),
    )
    with pytest.raises(SettingsError, match="not from one"):
        analyse(sae, text_store, tmp_path / "out", host=code_lm, dataset=other, loss_examples=1)

    assert not list(tmp_path.iterdir())
