"""The rows of one site as an array that is not in memory: slices and row numbers read them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import Dataset

from probe_sae.errors import ShapeError
from probe_sae.store import layout

if TYPE_CHECKING:
    from probe_sae.store.layout import SiteInfo
    from probe_sae.store.reader import Store


class SiteRows(Dataset[Tensor]):
    """What `store[site]` is; also a dataset for `torch.utils.data.DataLoader`, with workers too."""

    def __init__(self, store: Store, site: SiteInfo) -> None:
        """Show a site of `store`."""
        self._store, self._site = store, site
        self.dtype: torch.dtype = layout.DTYPES[site.dtype][0]

    def __len__(self) -> int:
        """Number of rows."""
        return self._store.rows

    def __repr__(self) -> str:
        return f"SiteRows({self._site.name!r}: {self.shape[0]:,} x {self.shape[1]}, {self.dtype})"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width."""
        return self._store.rows, self._site.width

    def __getitem__(self, index: int | slice | ArrayLike | Tensor) -> Tensor:
        """Return a row, [width], or rows, [rows, width], in the store's dtype.

        Args:
            index: a row's number, a slice, an array of numbers, of which negative ones count from
                the end, or an array that marks rows, [rows] bool.

        Raises:
            IndexError: there is no such row.
            StoreError: a file cannot be read.
        """
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                out = self._empty(max(0, stop - start))
                self._store.read_into(self._site.name, start, out)
                return layout.from_disk(out, self._site.dtype)
            index = np.arange(start, stop, step)
        numbers: NDArray[Any] = np.asarray(cast("Any", index))
        if numbers.dtype == np.bool_ and numbers.shape == (len(self),):
            numbers = np.flatnonzero(numbers)
        elif not numbers.size:
            numbers = numbers.astype(np.int64)
        if numbers.ndim > 1 or numbers.dtype.kind not in "iu":
            raise ShapeError(
                f"rows are given as {numbers.dtype} of shape {numbers.shape}; expected a number, a "
                "slice, or a list of numbers."
            )
        taken = self._take(np.atleast_1d(numbers).astype(np.int64))
        return taken if numbers.ndim else taken[0]

    def __getitems__(self, rows: list[int]) -> list[Tensor]:
        """Return several rows at once, as DataLoader asks for them."""
        return list(self[rows])

    def _take(self, numbers: NDArray[np.int64]) -> Tensor:
        numbers = np.where(numbers < 0, numbers + len(self), numbers)
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise IndexError(f"{self!r} has no row {numbers.min()} or {numbers.max()}.")
        order = np.argsort(numbers, kind="stable")
        ordered = numbers[order]
        out = self._empty(len(numbers))
        cuts = [0, *(np.flatnonzero(np.diff(ordered) != 1) + 1).tolist(), len(ordered)]
        for begin, end in pairwise(cuts):
            if begin < end:
                self._store.read_into(self._site.name, int(ordered[begin]), out[begin:end])
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return layout.from_disk(out, self._site.dtype)[torch.from_numpy(back)]

    def _empty(self, rows: int) -> NDArray[Any]:
        return np.empty((rows, self._site.width), layout.DTYPES[self._site.dtype][1])
