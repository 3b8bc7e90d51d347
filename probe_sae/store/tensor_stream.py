"""Shuffled batches of rows that are in memory."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from probe_sae.errors import ShapeError


class TensorStream:
    """The rows of a tensor in memory, as shuffled batches."""

    def __init__(
        self,
        rows: Tensor,
        seed: int,
        *,
        widths: tuple[int, ...] | None = None,
        numbers: Tensor | None = None,
    ) -> None:
        """Stream `rows`, [rows, width].

        Args:
            rows: what to stream.
            seed: of the order.
            widths: of the sites that rows hold one after the other; one by default.
            numbers: which rows of the tensor to stream; all by default. They are not copied.

        Raises:
            ShapeError: `rows` is not two-dimensional or is empty.
        """
        if rows.ndim != 2 or not len(rows):
            raise ShapeError(f"rows have shape {tuple(rows.shape)}, expected [rows, d_model].")
        self._data, self.seed = rows, seed
        self.rows = len(rows) if numbers is None else len(numbers)
        self.widths = widths or (rows.shape[1],)
        self._numbers = numbers

    def row_number(self, number: int, batch: int, place: int) -> int:
        """Return which row is at a place of an epoch; see `StoreStream.row_number`."""
        return int(self._numbered(np.random.default_rng([self.seed, number]))[place])

    def epoch(self, number: int, batch: int, start: int = 0) -> Iterator[Tensor]:
        """Yield [batch, width]: each row once, in an order drawn from seed and `number`.

        Args:
            number: which epoch.
            batch: rows of a batch; the last may be shorter.
            start: batches to leave out, as an earlier run has seen them.
        """
        order = self._numbered(np.random.default_rng([self.seed, number]))
        for begin in range(start * batch, self.rows, batch):
            yield self._data[order[begin : begin + batch]]

    def sample(self, count: int) -> Tensor:
        """Return up to `count` rows drawn without repeats, [rows, width] float32."""
        order = self._numbered(np.random.default_rng([self.seed, 1 << 32]))
        return self._data[order[:count]].float()

    def _numbered(self, generator: np.random.Generator) -> Tensor:
        """Return the numbers of all rows of the stream, in an order that is drawn."""
        order = torch.from_numpy(generator.permutation(self.rows))
        return order if self._numbers is None else self._numbers[order]
