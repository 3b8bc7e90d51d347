"""Images that vary in one factor: turned, moved, brightened, covered, by so much."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.analysis.varied import Varied, crossed, ordered_levels
from probe_sae.errors import SettingsError, ShapeError, near
from probe_sae.host.libraries import torchvision

Transform = Callable[[Tensor, Any], Tensor]
"""An image, [channels, height, width] uint8, and a level -> the image at that level."""


def vary_images(
    images: Sequence[Any],
    transform: str | Transform,
    levels: Iterable[Any],
    *,
    factor: str | None = None,
    seed: int = 0,
) -> Varied:
    """Return images that a transform changes by each level.

    | transform | a level is |
    |---|---|
    | `rotate` | degrees, counter-clockwise |
    | `scale` | size, 1 as it is |
    | `shift` | share of the width to the right |
    | `brightness`, `contrast` | factor, 1 as it is |
    | `hue` | turn of the colour circle, -0.5 to 0.5; grey images have none |
    | `blur` | standard deviation in pixels, 0 as it is |
    | `noise` | standard deviation, white being 1; the same noise at every level of an image |
    | `occlusion` | share of the area that a grey square in the middle covers |

    What comes into view where an image was turned or moved is black.

    Args:
        images: PIL images, or uint8 arrays [height, width, 1 or 3] or [height, width], or uint8
            tensors [1 or 3, height, width].
        transform: a name above, or a function of (image, level).
        levels: numbers are ordered, smallest first.
        factor: what to call it; the transform's name by default.
        seed: of the noise.

    Raises:
        SettingsError: no such transform, a level that it does not take, or fewer than two.
        ShapeError: something is no image.
    """
    originals = [as_image(image) for image in images]
    if not originals:
        raise SettingsError("there is no image to vary.")
    name = factor or (transform if isinstance(transform, str) else "level")
    known, is_ordered = ordered_levels(name, levels)
    made: list[NDArray[np.uint8]] = []
    for number, image in enumerate(originals):
        change = _named(transform, seed, number) if isinstance(transform, str) else transform
        for level in known:
            made.append(_changed(image, change, level, name))
    return crossed("image", name, known, made, is_ordered)


def as_image(image: Any) -> Tensor:
    """Return an image as a tensor, [channels, height, width] uint8.

    Raises:
        ShapeError: it is none.
    """
    if isinstance(image, Tensor):
        tensor = image if image.ndim == 3 else image[None]
    else:
        array: NDArray[Any] = np.array(image)
        tensor = torch.from_numpy(array[..., None] if array.ndim == 2 else array)
        tensor = tensor.permute(2, 0, 1) if tensor.ndim == 3 else tensor
    if tensor.dtype != torch.uint8 or tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
        raise ShapeError(
            f"an image is {tensor.dtype} of shape {tuple(tensor.shape)} (channels first); expected "
            "uint8 with 1 or 3 channels. A PIL image: image.convert('RGB')."
        )
    return tensor.contiguous()


def _changed(image: Tensor, change: Transform, level: Any, name: str) -> NDArray[np.uint8]:
    try:
        new = change(image.clone(), level)
    except (ValueError, TypeError, RuntimeError) as problem:
        raise SettingsError(f"{name} does not take level {level!r}: {problem}") from problem
    return np.ascontiguousarray(as_image(new).permute(1, 2, 0).numpy())


def _named(name: str, seed: int, number: int) -> Transform:
    """Return the transform of that name for image `number`."""
    torchvision()  # says it clearly where it does not fit torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    smooth = InterpolationMode.BILINEAR

    def moved(image: Tensor, degrees: float, share: float, scale: float) -> Tensor:
        pixels = [float(round(share * image.shape[2])), 0.0]
        return functional.affine(image, degrees, pixels, scale, [0.0, 0.0], interpolation=smooth)

    def noisy(image: Tensor, level: float) -> Tensor:
        generator = torch.Generator().manual_seed(1_000_003 * seed + number)
        noise = 255 * level * torch.randn(image.shape, generator=generator)
        return (image + noise).round().clamp(0, 255).to(torch.uint8)

    transforms: dict[str, Transform] = {
        "rotate": lambda x, level: functional.rotate(x, float(level), interpolation=smooth),
        "scale": lambda x, level: moved(x, 0.0, 0.0, float(level)),
        "shift": lambda x, level: moved(x, 0.0, float(level), 1.0),
        "brightness": lambda x, level: functional.adjust_brightness(x, float(level)),
        "contrast": lambda x, level: functional.adjust_contrast(x, float(level)),
        "hue": lambda x, level: functional.adjust_hue(x, float(level)),
        "blur": lambda x, level: _blurred(functional, x, float(level)),
        "noise": noisy,
        "occlusion": lambda x, level: _covered(x, float(level)),
    }
    if name not in transforms:
        raise SettingsError(
            f"no transform {name!r}; there are {', '.join(transforms)}, or give a function."
            f"{near(name, transforms)}"
        )
    return transforms[name]


def _blurred(functional: Any, image: Tensor, deviation: float) -> Tensor:
    if deviation == 0:
        return image
    reach = min(max(1, round(3 * deviation)), min(image.shape[1:]) - 1)
    return functional.gaussian_blur(image, [2 * reach + 1] * 2, [deviation] * 2)


def _covered(image: Tensor, share: float) -> Tensor:
    if not 0 <= share <= 1:
        raise ValueError("expected a share from 0 to 1.")
    height, width = (round(side * share**0.5) for side in image.shape[1:])
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    image[:, top : top + height, left : left + width] = 128
    return image
