"""Controlled inputs differ in the factor, and in nothing else."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from probe_sae.analysis.varied import Varied, vary, vary_tensors
from probe_sae.analysis.varied_images import vary_images
from probe_sae.errors import ProbeSaeError, SettingsError, ShapeError

NAMES = (
    "rotate", "scale", "shift", "brightness", "contrast", "hue", "blur", "noise", "occlusion",
)  # fmt: skip
AS_IT_IS = {"scale": 1.0, "brightness": 1.0, "contrast": 1.0}


def picture(channels: int = 3, size: tuple[int, int] = (12, 16)) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (channels, *size), generator=generator, dtype=torch.uint8)


def test_each_level_meets_each_surrounding_once() -> None:
    varied = vary(
        ["The {animal} sat on the {thing}.", "A {animal}!"],
        animal=["cat", "dog"],
        thing=["mat", "sofa"],
    )

    assert varied.inputs == (
        "The cat sat on the mat.",
        "The dog sat on the mat.",
        "The cat sat on the sofa.",
        "The dog sat on the sofa.",
        "A cat!",
        "A dog!",
    )
    assert varied.level.tolist() == [0, 1] * 3
    assert varied.group.tolist() == [0, 0, 1, 1, 2, 2]
    assert (varied.factor, varied.levels, varied.is_ordered) == ("animal", ("cat", "dog"), False)
    assert varied.spans is not None
    for text, (start, stop) in zip(varied.inputs, varied.spans, strict=True):
        assert text[start:stop] in ("cat", "dog")
    assert repr(varied) == "Varied(6 texts: 2 levels of animal in 3 surroundings)"


def test_numbers_are_put_in_order_and_formatted() -> None:
    varied = vary("{{{n:03d}}} {n!r} apples", n=[10, 2, 7])

    assert varied.is_ordered
    assert varied.levels == (2, 7, 10)
    assert varied.inputs == ("{002} 2 apples", "{007} 7 apples", "{010} 10 apples")
    assert varied.spans == ((6, 7), (6, 7), (6, 8))


def test_booleans_and_words_have_no_order() -> None:
    assert not vary("{x}", x=[True, False]).is_ordered
    assert vary("{x}", x=["b", "a"]).levels == ("b", "a")


@pytest.mark.parametrize(
    ("template", "slots", "message"),
    [
        ("a {n}", {"n": [1]}, "1 level; expected at least 2"),
        ("a {n}", {"n": []}, "no values"),
        ("a {n}", {"n": [1, 1]}, "a value twice"),
        ("a {m}", {"n": [1, 2]}, "no slot {n}, which is the factor"),
        ("{n} {thin}", {"n": [1, 2], "thing": ["x"]}, "slot {thin} without values. Near it: thing"),
        ("{n}", {"n": [1, 2], "thing": ["x"]}, "no template has a slot {thing}"),
        ("{n", {"n": [1, 2]}, "is no template"),
        ("{n:d}", {"n": ["a", "b"]}, "cannot show 'a'"),
        ([], {"n": [1, 2]}, "expected a template"),
        ("a", {}, "at least one slot"),
    ],
)
def test_a_mistake_in_a_template_is_told(
    template: Any, slots: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message.replace("{", r"\{").replace("}", r"\}")):
        vary(template, **slots)


@pytest.mark.parametrize("name", NAMES)
def test_a_transform_leaves_an_image_at_its_zero_and_changes_it_elsewhere(name: str) -> None:
    image = picture()
    zero = AS_IT_IS.get(name, 0.0)

    varied = vary_images([image, image.flip(0)], name, [zero, 0.4])

    assert varied.kind == "image"
    assert (varied.factor, varied.is_ordered) == (name, True)
    assert varied.group.tolist() == [0, 0, 1, 1]
    as_it_is = varied.levels.index(zero)
    for number, original in enumerate((image, image.flip(0))):
        same = varied.inputs[2 * number + as_it_is]
        assert (same == original.permute(1, 2, 0).numpy()).all()
        changed = varied.inputs[2 * number + 1 - as_it_is]
        assert changed.shape == same.shape
        assert changed.dtype == np.uint8
        assert (changed != same).any()


def test_transforms_do_what_they_say() -> None:
    image = picture(1, (8, 8))
    only = image[0].numpy()

    turned = vary_images([image], "rotate", [0, 90]).inputs[1][..., 0]
    moved = vary_images([image], "shift", [0, 0.25]).inputs[1][..., 0]
    covered = vary_images([image], "occlusion", [0, 0.25, 1]).inputs
    bright = vary_images([image], "brightness", [1, 0.5]).inputs[0][..., 0]
    blurred = vary_images([image], "blur", [0, 1.0]).inputs[1][..., 0]

    assert (turned == np.rot90(only)).all()
    assert (moved[:, 2:] == only[:, :-2]).all()
    assert (moved[:, :2] == 0).all()
    assert (covered[1][2:6, 2:6] == 128).all()
    assert (covered[1][0] == covered[0][0]).all()
    assert (covered[2] == 128).all()
    assert (bright == functional.adjust_brightness(image, 0.5)[0].numpy()).all()
    assert blurred.std() < only.std()


def test_noise_is_the_same_at_every_level_and_another_for_every_image() -> None:
    grey = torch.full((1, 6, 6), 128, dtype=torch.uint8)

    varied = vary_images([grey, grey], "noise", [0.0, 0.05, 0.1], seed=3)
    weak, strong, other = (varied.inputs[i].astype(int) - 128 for i in (1, 2, 5))

    assert np.abs(strong - 2 * weak).max() <= 1
    assert (other != strong).any()
    assert (vary_images([grey], "noise", [0.0, 0.1]).inputs[1] != varied.inputs[2]).any()


def test_images_may_be_pillows_arrays_or_a_functions() -> None:
    array = picture().permute(1, 2, 0).numpy()
    flipped = vary_images(
        [Image.fromarray(array), array, array[..., 0]],
        lambda image, level: image.flip(2) if level == "flipped" else image,
        ["as it is", "flipped"],
        factor="mirror",
    )

    assert flipped.factor == "mirror"
    assert not flipped.is_ordered
    assert (flipped.inputs[1] == array[:, ::-1]).all()
    assert (flipped.inputs[3] == array[:, ::-1]).all()
    assert flipped.inputs[4].shape == (12, 16, 1)


@pytest.mark.parametrize(
    ("images", "transform", "levels", "error", "message"),
    [
        ([picture()], "rotation", [0, 1], SettingsError, "no transform 'rotation'.*rotate"),
        ([picture()], "hue", [0, 3.0], SettingsError, "hue does not take level 3.0"),
        ([picture()], "occlusion", [0, 2], SettingsError, "share from 0 to 1"),
        ([picture().float()], "blur", [0, 1], ShapeError, "expected uint8"),
        ([picture()[:2]], "blur", [0, 1], ShapeError, "1 or 3 channels"),
        ([], "blur", [0, 1], SettingsError, "no image"),
        ([picture()], "blur", [1], SettingsError, "at least 2"),
    ],
)
def test_a_mistake_in_images_is_told(
    images: Any, transform: str, levels: Any, error: type[ProbeSaeError], message: str
) -> None:
    with pytest.raises(error, match=message):
        vary_images(images, transform, levels)


def test_tensors_are_changed_by_a_function() -> None:
    x = torch.arange(6.0).reshape(2, 3)

    varied = vary_tensors(x, lambda row, level: row.mul_(level), [2.0, 0.0], factor="size")

    assert varied.levels == (0.0, 2.0)
    assert torch.equal(
        torch.stack(varied.inputs), torch.stack([0 * x[0], 2 * x[0], 0 * x[1], 2 * x[1]])
    )
    assert torch.equal(x, torch.arange(6.0).reshape(2, 3))


def test_a_varied_of_ones_own_is_checked() -> None:
    numbers = np.zeros(2, np.int64)

    with pytest.raises(SettingsError, match="of one length"):
        Varied("text", "n", (1, 2), ("a",), numbers, numbers, True)
    with pytest.raises(SettingsError, match="text, image, tensor"):
        Varied("sound", "n", (1, 2), ("a", "b"), numbers, numbers, True)
    with pytest.raises(SettingsError, match="none of the 2"):
        Varied("text", "n", (1, 2), ("a", "b"), numbers + 2, numbers, True)
