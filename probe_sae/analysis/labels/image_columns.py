"""What is known of each patch of an image: class, place on the grid, brightness, colour, edges.

Brightness and the like are read off the thumbnails, which may be smaller than what the host saw.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.contexts import ImageInputs
from probe_sae.analysis.labels.columns import Coded, Columns

_CHUNK = 512
"""Images measured at a time."""
_CUTS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def image_columns(
    inputs: ImageInputs, context: NDArray[np.int64], position: NDArray[np.int64]
) -> Columns:
    """Return what is known of some patches.

    Args:
        inputs: the images.
        context: which image each place is in, [places].
        position: y * grid width + x; anything beyond the grid (a class token) has no place on it,
            and counts as the whole image, [places].
    """
    height, width = inputs.grid
    on_grid = (position >= 0) & (position < height * width)
    y, x = np.divmod(np.where(on_grid, position, 0), width)
    flags = {name: mark & on_grid for name, mark in _regions(y, x, height, width).items()}
    if not on_grid.all():
        flags["a patch"] = on_grid
    per_patch, per_image = measures(inputs)
    numbers = _measured(per_patch, per_image, context, y, x, on_grid)
    columns: dict[str, Coded] = {"class": _classes(inputs, context)}
    if height * width > 1:
        columns["patch"] = _patches(np.where(on_grid, y * width + x, -1), height, width)
    numbers |= {"row": np.where(on_grid, y, -1), "column": np.where(on_grid, x, -1)}
    numbers = {name: number.astype(np.float32) for name, number in numbers.items()}
    cuts = {name: _cuts(table) for name, table in per_patch.items()}
    cuts["brightness of the image"] = _cuts(per_image["brightness"])
    cuts |= {"row": _steps(height), "column": _steps(width)}
    thresholds = {name: cuts.get(name, cuts["brightness"]) for name in numbers}
    return Columns(columns, {}, flags, numbers, thresholds)


def _classes(inputs: ImageInputs, context: NDArray[np.int64]) -> Coded:
    codes = np.maximum(inputs.label.astype(np.int64), -1)[context]
    count = max(int(inputs.label.max(initial=-1)) + 1, len(inputs.classes))
    names = [inputs.classes[i] if i < len(inputs.classes) else str(i) for i in range(count)]
    numbers = {name: i for i, name in reversed(list(enumerate(names)))}
    return Coded(
        codes.astype(np.int32), count, lambda c: names[c], lambda v: numbers.get(str(v), -1)
    )


def _patches(codes: NDArray[np.int64], height: int, width: int) -> Coded:
    def code_of(value: Any) -> int:
        y, x = value
        return y * width + x if 0 <= y < height and 0 <= x < width else -1

    return Coded(
        codes.astype(np.int32),
        height * width,
        lambda code: [code // width, code % width],
        code_of,
        4,
    )


def _regions(
    y: NDArray[np.int64], x: NDArray[np.int64], height: int, width: int
) -> dict[str, NDArray[np.bool_]]:
    """Return the parts of the grid that have names; those that are nothing or all are left out."""
    top, bottom, left, right = y == 0, y == height - 1, x == 0, x == width - 1
    regions = {}
    if height > 1:
        regions |= {"bottom row": bottom}
        regions |= {"upper half": 2 * y + 1 < height, "lower half": 2 * y + 1 > height}
    if width > 1:
        regions |= {"right column": right}
        regions |= {"left half": 2 * x + 1 < width, "right half": 2 * x + 1 > width}
    if height > 1 and width > 1:
        regions["corner"] = (top | bottom) & (left | right)
    if height > 2 and width > 2:
        regions["border"] = top | bottom | left | right
        off_y, off_x = np.abs(2 * y + 1 - height), np.abs(2 * x + 1 - width)
        regions["centre"] = (2 * off_y <= height) & (2 * off_x <= width)
    return regions


def _measured(
    per_patch: dict[str, NDArray[np.float32]],
    per_image: dict[str, NDArray[np.float32]],
    context: NDArray[np.int64],
    y: NDArray[np.int64],
    x: NDArray[np.int64],
    on_grid: NDArray[np.bool_],
) -> dict[str, NDArray[np.float32]]:
    """Return measures of each place's patch and of its image, all from 0 to 1 but differences."""
    found = {}
    for name, table in per_patch.items():
        whole = per_image[name][context]
        found[name] = np.where(on_grid, table[context, y, x], whole).astype(np.float32)
    if per_patch["brightness"].shape[1:] != (1, 1):
        padded = np.pad(per_patch["brightness"], ((0, 0), (1, 1), (1, 1)))
        for side, (up, along) in {"above": (0, 1), "below": (2, 1), "left": (1, 0)}.items():
            found[f"brightness {side}"] = padded[context, y + up, x + along]
        found["brightness right"] = padded[context, y + 1, x + 2]
        found["brightness of the image"] = per_image["brightness"][context]
    return found


def measures(
    inputs: ImageInputs,
) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
    """Return measures of every patch, [images, grid rows, grid columns], and image, [images].

    `brightness` is the mean of the channels (0 to 1); `colour` their mean spread (largest less
    smallest); `upright edges` and `level edges` the mean steps from pixel to pixel along x and y.
    """
    chunks = [
        _measure(inputs.thumbnails[i : i + _CHUNK], inputs.grid)
        for i in range(0, len(inputs.thumbnails), _CHUNK)
    ] or [_measure(inputs.thumbnails, inputs.grid)]
    names = chunks[0][0]
    return (
        {name: np.concatenate([patches[name] for patches, _ in chunks]) for name in names},
        {name: np.concatenate([images[name] for _, images in chunks]) for name in names},
    )


def _measure(
    thumbnails: NDArray[np.uint8], grid: tuple[int, int]
) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
    pixels = thumbnails.astype(np.float32) / 255
    grey = pixels.mean(3)
    upright, level = np.zeros_like(grey), np.zeros_like(grey)
    upright[:, :, 1:] = np.abs(np.diff(grey, axis=2))
    level[:, 1:] = np.abs(np.diff(grey, axis=1))
    maps = {"brightness": grey, "upright edges": upright, "level edges": level}
    if pixels.shape[3] > 1:
        maps["colour"] = pixels.max(3) - pixels.min(3)
    return (
        {name: _by_patch(each, grid) for name, each in maps.items()},
        {name: each.mean((1, 2)).astype(np.float32) for name, each in maps.items()},
    )


def _by_patch(pixels: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[np.float32]:
    """Return the mean of each patch; where a grid is finer than the pixels, patches share them."""
    _, height, width = pixels.shape
    tops, lefts = (np.arange(n) * size // n for n, size in zip(grid, (height, width), strict=True))
    sums = np.add.reduceat(np.add.reduceat(pixels, tops, axis=1), lefts, axis=2)
    rows = np.maximum(np.diff(np.append(tops, height)), 1)
    columns = np.maximum(np.diff(np.append(lefts, width)), 1)
    return (sums / (rows[:, None] * columns)).astype(np.float32)


def _steps(size: int) -> tuple[float, ...]:
    """Return where rules may cut rows or columns: everywhere, on a fine grid at 15 places."""
    cuts = np.linspace(1, size - 1, min(15, size - 1)).round()
    return tuple(float(cut) for cut in np.unique(cuts))


def _cuts(number: NDArray[np.float32]) -> tuple[float, ...]:
    """Return where rules may cut a number: quantiles over all images, to two digits."""
    if not number.size:
        return ()
    cuts = np.unique(np.round(np.quantile(number, _CUTS), 2))
    return tuple(float(cut) for cut in cuts if number.min() < cut <= number.max())
