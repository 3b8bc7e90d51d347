"""Which features fire on which rows, in two forms."""

from typing import NamedTuple

import torch
from torch import Tensor


class SparseCodes(NamedTuple):
    """Codes of some rows, without their zeros; entries beyond a row's firings have value 0."""

    values: Tensor
    """[rows, width] activations; zero means "not firing"."""
    indices: Tensor
    """[rows, width] int64, the features they belong to."""


class Flat(NamedTuple):
    """The same as lists, one entry a firing, sorted by row."""

    rows: Tensor
    """[firings] int64"""
    features: Tensor
    """[firings] int64"""
    values: Tensor
    """[firings]"""


class Errors(NamedTuple):
    """What a reconstruction misses."""

    x_hat: Tensor
    """[rows, d] reconstruction."""
    error: Tensor
    """[rows, d] reconstruction less target."""
    dots: Tensor
    """[rows, width] error times direction of each firing: half the slope of the squared error."""


def in_rows(flat: Flat, rows: int) -> SparseCodes:
    """Return lists as [rows, width], with zeros at the end of short rows."""
    bounds = torch.arange(rows + 1, device=flat.rows.device)
    starts = torch.searchsorted(flat.rows, bounds)
    width = max(1, int(starts.diff().max())) if rows else 1
    place = flat.rows * width - starts[flat.rows]
    place += torch.arange(len(flat.rows), device=flat.rows.device)
    laid, indices = flat.values.new_zeros(rows * width), flat.features.new_zeros(rows * width)
    laid[place], indices[place] = flat.values, flat.features
    return SparseCodes(laid.view(rows, width), indices.view(rows, width))


def positive(codes: Tensor) -> SparseCodes:
    """Return what is positive of dense codes, [rows, features]."""
    rows, features = (codes > 0).nonzero(as_tuple=True)
    return in_rows(Flat(rows, features, codes[rows, features]), len(codes))
