"""Statistics of a site's rows, gathered while they are written and merged exactly."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


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
        rows = rows.double()
        mean = rows.mean(0)
        other = RowStatistics(
            len(rows),
            mean,
            (rows - mean).square().sum(0),
            float(rows.abs().max()),
            float(rows.norm(dim=1).sum()),
        )
        self.merge(other)

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

    @property
    def mean_square_norm(self) -> float:
        """Mean of the squared length of a row: E||x||^2."""
        if self.mean is None or self.scatter is None or not self.count:
            return 0.0
        return float((self.scatter / self.count + self.mean.square()).sum())
