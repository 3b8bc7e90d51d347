"""Statistics of a site's rows, gathered while they are written and merged exactly."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK_VALUES = 1 << 15
"""Taken in at a time: they stay in the cache, and torch computes so few on one thread.

The host computes on all cores meanwhile; two teams of threads on the same cores wait for each
other, which made this twelve times slower.
"""


@dataclass
class RowStatistics:
    """Count, mean and scatter per dimension, largest magnitude, mean norm; all in float64."""

    count: int = 0
    mean: Tensor | None = None
    scatter: Tensor | None = None
    """Sum of squared deviations from the mean, [width]."""
    largest: float = 0.0
    norm_sum: float = 0.0

    def add(self, rows: Tensor) -> None:
        """Take in `rows`, [rows, width].

        Source: Chan, Golub, LeVeque 1979, the pairwise update of mean and scatter.
        """
        if not len(rows):
            return
        width = rows.shape[1]
        shift = rows[0].double()
        total, squares = torch.zeros_like(shift), torch.zeros_like(shift)
        norm_sum = largest = 0.0
        for block in rows.split(max(1, BLOCK_VALUES // width)):
            low, high = torch.aminmax(block)
            largest = max(largest, -float(low), float(high))
            values = block.double()
            norm_sum += float(torch.linalg.vector_norm(values, dim=1).sum())
            values -= shift
            total += values.sum(0)
            squares += values.square_().sum(0)
        mean = total / len(rows)
        scatter = (squares - total * mean).clamp_min_(0)
        self.merge(RowStatistics(len(rows), shift + mean, scatter, largest, norm_sum))

    def merge(self, other: "RowStatistics") -> None:
        """Take in what `other` has seen."""
        if other.mean is None or other.scatter is None:
            return
        if self.mean is None or self.scatter is None:
            self.count, self.mean, self.scatter = other.count, other.mean, other.scatter
        else:
            total = self.count + other.count
            delta = other.mean - self.mean
            self.scatter = (
                self.scatter + other.scatter + delta.square() * (self.count * other.count / total)
            )
            self.mean = self.mean + delta * (other.count / total)
            self.count = total
        self.largest = max(self.largest, other.largest)
        self.norm_sum += other.norm_sum

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {
            "count": self.count,
            "mean": [] if self.mean is None else self.mean.tolist(),
            "scatter": [] if self.scatter is None else self.scatter.tolist(),
            "largest": self.largest,
            "norm_sum": self.norm_sum,
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "RowStatistics":
        """Return the statistics that `to_json` wrote."""
        mean = torch.tensor(saved["mean"], dtype=torch.float64) if saved["mean"] else None
        scatter = torch.tensor(saved["scatter"], dtype=torch.float64) if saved["scatter"] else None
        return cls(saved["count"], mean, scatter, saved["largest"], saved["norm_sum"])

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """Return what `from_arrays` reads: every number in an array of its own, [n]."""
        named = self.to_json().items()
        return {name: np.atleast_1d(np.array(value, np.float64)) for name, value in named}

    @classmethod
    def from_arrays(cls, saved: dict[str, NDArray[np.float64]]) -> "RowStatistics":
        """Return the statistics that `arrays` gave."""
        return cls.from_json(
            {
                "count": int(saved["count"][0]),
                "mean": saved["mean"].tolist(),
                "scatter": saved["scatter"].tolist(),
                "largest": float(saved["largest"][0]),
                "norm_sum": float(saved["norm_sum"][0]),
            }
        )

    @property
    def mean_square_norm(self) -> float:
        """Mean of the squared length of a row: E||x||^2."""
        if self.mean is None or self.scatter is None or not self.count:
            return 0.0
        return float((self.scatter / self.count + self.mean.square()).sum())
