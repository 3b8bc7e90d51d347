"""Layouts: how a site's tensor holds its rows, and the view of it as [batch, positions, width].

Taps give tensors as the modules gave them; recording and edits work on rows. Everything that turns
one into the other is here.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from probe_sae.errors import ShapeError
from probe_sae.host.modules import module_at
from probe_sae.host.sites import Site

LAYOUTS = {
    "BTD": "[batch, positions, width]: tokens or patches",
    "BTHD": "[batch, positions, heads, width of a head]: heads, whose parts make a row",
    "BCHW": "[batch, width, height, width of the image]: convolutions",
    "BHWC": "[batch, height, width of the image, width]: channels last",
    "BCT": "[batch, width, positions]: one-dimensional convolutions",
    "BD": "[batch, width]: one row an input",
    "flat": "[batch x positions, width]",
    "windows": "[batch x windows, positions of a window, width]: local attention",
    "pattern": "[batch, heads, queries, keys]: attention weights; no rows",
    "auto": "told from the module and the shape when it runs",
}
"""Name -> what the axes are."""
_DIMENSIONS = {
    "BTD": 3,
    "BTHD": 4,
    "BCHW": 4,
    "BHWC": 4,
    "BCT": 3,
    "BD": 2,
    "flat": 2,
    "windows": 3,
    "pattern": 4,
}

_CHANNELS_FIRST = (
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.BatchNorm2d,
    nn.GroupNorm,
    nn.InstanceNorm2d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)
_SEQUENCES = (
    nn.Conv1d,
    nn.ConvTranspose1d,
    nn.BatchNorm1d,
    nn.MaxPool1d,
    nn.AvgPool1d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveMaxPool1d,
)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm)
_SAY_NOTHING = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Softplus,
    nn.Sigmoid,
    nn.Tanh,
    nn.Dropout,
    nn.Dropout1d,
    nn.Identity,
)
"""They take any layout, number by number."""


def layout_of(
    site: Site, model: nn.Module, tensor: Tensor, image: tuple[int, int] | None = None
) -> str:
    """Return the layout of what a site holds; where it says `auto`, told from module and shape.

    Args:
        site: where it was seen.
        model: which its module is in.
        tensor: what it holds.
        image: height and width of the images that the host runs on, where they are known: the
            positions of a feature map have the same proportions.

    Raises:
        ShapeError: nothing tells, or the tensor has no rows at all.
    """
    if site.layout == "pattern":
        raise ShapeError(f"{site.name} holds attention weights, which are no rows; only tap it.")
    if site.layout != "auto":
        return site.layout
    module = module_at(model, site.path)
    if tensor.ndim == 2:
        return "BD"
    if tensor.ndim == 3:
        if isinstance(module, _SEQUENCES):
            return "BCT"
        around = module_at(model, site.path.rpartition(".")[0])
        told = not isinstance(module, _SAY_NOTHING)
        if told or not any(isinstance(m, _SEQUENCES) for m in around.modules()):
            return "BTD"
    if tensor.ndim == 4:
        if type(module) in _CHANNELS_LAST:
            return "BHWC"
        if isinstance(module, _CHANNELS_FIRST):
            return "BCHW"
        if image is not None:
            _, a, b, c = tensor.shape
            fitting = [
                name
                for name, size in (("BCHW", (b, c)), ("BHWC", (a, b)))
                if _same_proportions(size, image)
            ]
            if len(fitting) == 1:
                return fitting[0]
    first, last = ("BCT", "BTD") if tensor.ndim == 3 else ("BCHW", "BHWC")
    raise ShapeError(
        f"{site.name} holds {tuple(tensor.shape)}, and nothing tells which axis is the row: say "
        f"it, such as {site.name}:{first} or {site.name}:{last} (also BTD, BD, flat)."
    )


def image_size(inputs: Iterable[Any]) -> tuple[int, int] | None:
    """Return height and width of images, where they are what a host runs on first; else None."""
    first = next((each for each in inputs if isinstance(each, Tensor)), None)
    if first is None or first.ndim != 4:
        return None
    return int(first.shape[-2]), int(first.shape[-1])


def _same_proportions(size: tuple[int, int], image: tuple[int, int]) -> bool:
    """Tell whether a feature map of this size can be of such images; rounding is allowed for."""
    if image[0] == image[1]:
        return size[0] == size[1]
    ratio = (size[0] * image[1]) / (size[1] * image[0]) if all(size) else 0.0
    return 0.75 < ratio < 1.33


def as_rows(tensor: Tensor, layout: str, batch: int | None = None) -> Tensor:
    """Return a view of `tensor` as [batch, positions, width].

    Args:
        tensor: as the module gave it.
        layout: one of `LAYOUTS`, not `auto`.
        batch: number of inputs; without it the rows of `flat` and `BD` are inputs of their own.

    Raises:
        ShapeError: the tensor is not laid out so.
    """
    if tensor.ndim != _DIMENSIONS[layout]:
        raise ShapeError(
            f"a tensor of shape {tuple(tensor.shape)} is not laid out as {layout}, "
            f"{LAYOUTS[layout]}."
        )
    if layout == "BCHW":
        return tensor.flatten(2).transpose(1, 2)
    if layout == "BHWC":
        return tensor.flatten(1, 2)
    if layout == "BTHD":
        return tensor.flatten(2)
    if layout == "BCT":
        return tensor.transpose(1, 2)
    if layout == "BD":
        return tensor.unsqueeze(1)
    if layout == "flat":
        inputs = batch or len(tensor)
        if len(tensor) % inputs:
            raise ShapeError(f"{len(tensor)} flat rows are no whole number for {inputs} inputs.")
        return tensor.unflatten(0, (inputs, len(tensor) // inputs))
    return tensor


def from_rows(rows: Tensor, layout: str, like: Tensor) -> Tensor:
    """Return what `as_rows` took apart: rows, [batch, positions, width], in the shape of `like`."""
    if layout in ("BCHW", "BCT"):
        return rows.transpose(1, 2).reshape(like.shape)
    return rows.reshape(like.shape)


def grid_of(tensor: Tensor, layout: str) -> tuple[int, int] | None:
    """Return rows and columns of the positions, where the layout is of an image; else None."""
    if layout == "BCHW":
        return int(tensor.shape[2]), int(tensor.shape[3])
    if layout == "BHWC":
        return int(tensor.shape[1]), int(tensor.shape[2])
    return None
