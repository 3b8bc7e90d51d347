"""Responses are the dictionary's codes at the place asked for, on inputs as the host has them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from probe_sae.analysis.host_runs import batches_of
from probe_sae.analysis.responding import contrast, responses
from probe_sae.analysis.varied import vary, vary_tensors
from probe_sae.analysis.varied_images import vary_images
from probe_sae.errors import SettingsError, ShapeError
from probe_sae.host import Host, load_host, tap
from probe_sae.recording import frame_of, load_dataset
from probe_sae.sae import SAE, TopK, make_sae

from .planted import WIDTH, perfect_sae

TEXT_SITE, IMAGE_SITE = "blocks.1.resid_post", "blocks.2.resid_post"


class Line(nn.Module):
    """Takes rows, and passes them through a site."""

    def __init__(self) -> None:
        super().__init__()
        self.site = nn.Identity()
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.site(x))


@pytest.fixture(scope="module")
def code_lm() -> Host:
    return load_host("bundled:code-lm", device="cpu")


@pytest.fixture(scope="module")
def digits_vit() -> Host:
    return load_host("bundled:digits-vit", device="cpu")


def dictionary(width: int) -> SAE:
    sae = make_sae(TopK(features=96, k=6), width, torch.Generator().manual_seed(4))
    return sae.requires_grad_(False)


def test_the_planted_feature_of_the_factor_comes_first() -> None:
    sae = perfect_sae()
    directions = sae.get_parameter("W_dec")
    generator = torch.Generator().manual_seed(1)
    base = torch.rand(12, WIDTH, generator=generator).mul(0.2) @ directions

    def change(row: Tensor, level: float) -> Tensor:
        noise = 0.05 * torch.randn(WIDTH, generator=generator)
        return row + level * directions[3] + (6 - 2 * abs(level - 3)) * directions[8] + noise

    varied = vary_tensors(base, change, [1.0, 2.0, 3.0, 4.0, 5.0], factor="size")
    found = responses(Host(Line(), "line"), sae, varied, "path:site@out", at="max")
    effects = found.effects(permutations=300)

    assert set(effects.responding[:2].tolist()) == {3, 8}
    shapes = dict(zip(effects.feature.tolist(), effects.shapes, strict=True))
    assert (shapes[3].name, shapes[8].name) == ("rising", "peaked")
    assert len(effects.responding) <= 4  # those that the two push out of the top k may fall
    expected = sae.encode(torch.stack(varied.inputs)).numpy()
    assert found.values.toarray() == pytest.approx(expected, abs=1e-5)
    assert found.curve(3) == pytest.approx(
        [expected[varied.level == i, 3].mean() for i in range(5)], abs=1e-5
    )
    assert found.table()["feature"][0] in (3, 8)


@pytest.mark.parametrize("at", ["last", "mean", "max", "factor"])
def test_texts_are_framed_and_pooled_as_asked(code_lm: Host, at: str) -> None:
    varied = vary(["def {name}(x):\n    return", "x = {name} + 1"], name=["load", "wrapper_of"])
    sae = dictionary(224)
    found = responses(code_lm, sae, varied, TEXT_SITE, at=at, batch_size=3)

    frame = frame_of(code_lm.tokenizer)
    assert varied.spans is not None
    for i, text in enumerate(varied.inputs):
        ids = code_lm.tokenizer(text, add_special_tokens=False)["input_ids"]
        with tap(code_lm, TEXT_SITE) as seen:
            code_lm(input_ids=torch.tensor([[*frame.before, *ids, *frame.after]]))
        start = len(frame.before)
        codes = sae.encode(seen[TEXT_SITE][0, start : start + len(ids)]).numpy()
        before = code_lm.tokenizer(text[: varied.spans[i][1]], add_special_tokens=False)
        expected = {
            "last": codes[-1],
            "mean": codes.mean(0),
            "max": codes.max(0),
            "factor": codes[len(before["input_ids"]) - 1],
        }[at]
        assert found.values[[i]].toarray()[0] == pytest.approx(expected, abs=1e-4)


def test_a_language_model_responds_to_what_is_written(code_lm: Host) -> None:
    """An untrained dictionary: even random directions tell a bracket from a colon."""
    templates = ["def f(x){end}", "class A(B){end}", "if g(y){end}", "    for i in range(n){end}"]
    varied = vary([*templates, "while h(z){end}", "print(k){end}"], end=[":", "\n", " +", "."])

    found = responses(code_lm, dictionary(224), varied, TEXT_SITE)

    assert (found.at, found.sites) == ("last", (TEXT_SITE,))
    assert len(found.effects(permutations=300).responding) > 3


def test_images_are_prepared_as_the_host_does_it(digits_vit: Host) -> None:
    images = [
        np.random.default_rng(i).integers(0, 255, (8, 8, 1)).astype(np.uint8) for i in range(3)
    ]
    varied = vary_images(images, "brightness", [0.3, 1.0])
    sae = dictionary(64)
    found = responses(digits_vit, sae, varied, IMAGE_SITE, batch_size=4)

    with tap(digits_vit, IMAGE_SITE) as seen:
        digits_vit(digits_vit.image_inputs(list(varied.inputs)))
    patches = seen[IMAGE_SITE][:, 1:]
    codes = sae.encode(patches.flatten(0, 1)).reshape(6, -1, 96)
    assert found.at == "mean"
    assert found.values.toarray() == pytest.approx(codes.mean(1).numpy(), abs=1e-4)

    whole = responses(digits_vit, sae, varied, IMAGE_SITE, at="last", tokens="cls")
    assert whole.values.toarray() == pytest.approx(
        sae.encode(seen[IMAGE_SITE][:, 0]).numpy(), abs=1e-4
    )


def test_two_inputs_are_contrasted_by_difference(code_lm: Host) -> None:
    sae = dictionary(224)
    sae.provenance = {"sites": [TEXT_SITE]}
    texts = vary("{t}", t=["import os", "return None"])
    both = responses(code_lm, sae, texts, at="mean").values.toarray()

    found = contrast(code_lm, sae, "import os", "return None")

    assert found.b - found.a == pytest.approx(both[1] - both[0], abs=1e-5)
    table = found.table()
    assert set(table["feature"]) == set(np.flatnonzero(both.any(0)))
    assert table["difference"].abs().is_monotonic_decreasing
    assert (table["difference"] == table["b"] - table["a"]).all()
    several = contrast(code_lm, sae, ["import os", "return None"], "import os")
    assert several.a == pytest.approx(both.mean(0), abs=1e-5)


def test_no_hook_is_left_even_where_the_host_fails() -> None:
    host = Host(Line(), "line")
    varied = vary_tensors(torch.zeros(2, WIDTH + 1), lambda x, level: x + level, [0, 1])

    with pytest.raises(ShapeError, match="does not run on x"):
        responses(host, perfect_sae(), varied, "path:site@out")

    for module in host.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_mistakes_are_told(code_lm: Host, digits_vit: Host) -> None:
    sae, texts = dictionary(224), vary("a{n}", n=[1, 2])
    images = vary_images([np.zeros((8, 8), np.uint8)], "noise", [0, 1])

    with pytest.raises(SettingsError, match="does not say its site"):
        responses(code_lm, sae, texts)
    with pytest.raises(ShapeError, match="takes \\[64\\]"):
        responses(code_lm, dictionary(64), texts, TEXT_SITE)
    with pytest.raises(SettingsError, match="inputs are images; bundled:code-lm takes texts"):
        responses(code_lm, sae, images, TEXT_SITE)
    with pytest.raises(SettingsError, match="expected last, max, mean, factor"):
        responses(code_lm, sae, texts, TEXT_SITE, at="first")
    with pytest.raises(SettingsError, match="only texts that `vary` made"):
        responses(digits_vit, dictionary(64), images, IMAGE_SITE, at="factor")
    with pytest.raises(SettingsError, match="longer than bundled:code-lm reads"):
        contrast(code_lm, sae, "a " * 3000, "b", TEXT_SITE)
    with pytest.raises(SettingsError, match="expected a text"):
        contrast(code_lm, sae, ["a", " "], "b", TEXT_SITE)
    with pytest.raises(SettingsError, match="there is no input"):
        contrast(code_lm, sae, [], "b", TEXT_SITE)


def test_few_inputs_are_said_to_prove_nothing(
    code_lm: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    found = responses(code_lm, dictionary(224), vary("x {n}", n=[1, 2]), TEXT_SITE).effects()

    assert len(found.responding) == 0
    assert "add templates, images or levels" in capsys.readouterr().err


def test_images_may_be_given_one_by_one_or_together(digits_vit: Host) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2, 8, 8, 1)).astype(np.uint8)
    sae, one = dictionary(64), Image.fromarray(pixels[0, ..., 0])

    whole = contrast(digits_vit, sae, pixels, pixels[0], IMAGE_SITE)
    parts = contrast(digits_vit, sae, [pixels[0], pixels[1]], one, IMAGE_SITE)

    assert parts.a == pytest.approx(whole.a)
    assert parts.b == pytest.approx(whole.b)


def test_a_recipe_gives_its_first_contexts(code_lm: Host) -> None:
    made = list(batches_of(code_lm, load_dataset("stdlib"), batch_size=2, contexts=3))

    assert [len(batch.contexts) for batch in made] == [2, 1]
    assert [context.index for batch in made for context in batch.contexts] == [0, 1, 2]
