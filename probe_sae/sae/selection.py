"""What chooses the firings of a batch from its pre-activations."""

from math import isfinite
from typing import Protocol

import torch
from torch import Tensor

from probe_sae.sae.kernels import Flat, SparseCodes, in_rows, kernels_for

TYPICAL_ROWS = 256
"""Rows from which BatchTopK guesses its first threshold."""
CAUTION = 0.97
"""A guess is so much of the threshold that was right last time: too high costs another pass."""


class Select(Protocol):
    """Choose the firings from pre-activations."""

    def __call__(self, pre_activations: "PreActivations") -> SparseCodes:
        """Return the codes chosen; differentiation goes through their values."""
        ...


class PreActivations:
    """x @ W_enc.T + b_enc of some rows, computed in chunks of rows when asked for."""

    def __init__(self, x: Tensor, W_enc: Tensor, b_enc: Tensor) -> None:
        """Take `x` [rows, d_model], `W_enc` [features, d_model], `b_enc` [features]."""
        self.x, self.W_enc, self.b_enc = x.detach(), W_enc.detach(), b_enc.detach()
        self.rows, self.features = len(x), len(W_enc)
        self._kernels = kernels_for(self.W_enc, len(x))

    def top(self, count: int) -> SparseCodes:
        """Return the `count` largest of each row, in no order; 0 where they are not positive."""
        return self._kernels.top(self.x, self.W_enc, self.b_enc, min(count, self.features))

    def largest(self, count: int) -> SparseCodes:
        """Return the `count` of largest magnitude of each row, in no order, with their signs."""
        count = min(count, self.features)
        up, down = self.top(count), self._kernels.top(self.x, -self.W_enc, -self.b_enc, count)
        both = torch.cat([up.values, -down.values], 1)
        chosen = both.abs().topk(count, -1, sorted=False).indices
        indices = torch.cat([up.indices, down.indices], 1)
        return SparseCodes(both.gather(1, chosen), indices.gather(1, chosen))

    def over(self, limits: Tensor) -> Flat:
        """Return all over their feature's limit, [features], sorted by row."""
        return self._kernels.over(self.x, self.W_enc, self.b_enc, limits)

    def at_least(self, threshold: float) -> Flat:
        """Return all that are positive and reach `threshold`, sorted by row."""
        limit = torch.full((), threshold, dtype=self.x.dtype, device=self.x.device)
        below = torch.nextafter(limit, limit.new_full((), -torch.inf)) if threshold > 0 else limit
        return self.over(below.clamp_min(0).expand(self.features))

    def typical(self, k: float) -> float:
        """Return the value that about k pre-activations of a row reach, from a few rows; or 0."""
        few = PreActivations(self.x[:TYPICAL_ROWS], self.W_enc, self.b_enc)
        values = few.top(max(1, round(2 * k))).values.flatten()
        below = len(values) - round(few.rows * k)
        return float(values.kthvalue(max(1, below)).values) if len(values) else 0.0


def top_k(pre_activations: PreActivations, k: int) -> SparseCodes:
    """Keep the k largest positive pre-activations of each row.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders".
    """
    return pre_activations.top(k)


def signed_top_k(pre_activations: PreActivations, k: int) -> SparseCodes:
    """Keep the k pre-activations of largest magnitude of each row, with their signs."""
    return pre_activations.largest(k)


class BatchTopKSelect:
    """Keep the rows * k largest positive pre-activations of the whole batch, exactly.

    The threshold of the batch before is a guess that finds the candidates in one pass; only where
    it is too high are the rows encoded again. What is chosen does not depend on the guess.

    Source: Bussmann et al. 2024, "BatchTopK sparse autoencoders".
    """

    def __init__(self, k: float) -> None:
        """Take the mean number of firings of a row."""
        self._k, self._guess = k, float("nan")

    def __call__(self, pre_activations: PreActivations) -> SparseCodes:
        """Return the codes of a batch."""
        wanted = round(pre_activations.rows * self._k)
        guess = self._guess
        if not isfinite(guess):
            guess = 0.8 * pre_activations.typical(self._k)
        found = pre_activations.at_least(guess)
        for lower in (0.7 * guess, 0.4 * guess, 0.1 * guess, 0.0):
            if guess and len(found.values) < wanted:
                found = pre_activations.at_least(lower)
        is_enough = wanted and len(found.values) >= wanted
        if is_enough or not wanted:
            kept = _largest(found.values, wanted)
            found = Flat(*(column[kept] for column in found))
        self._guess = CAUTION * float(found.values.min()) if is_enough else 0.0
        return in_rows(found, pre_activations.rows)


def batch_top_k(pre_activations: PreActivations, k: float) -> SparseCodes:
    """Return what `BatchTopKSelect` chooses of a batch alone."""
    return BatchTopKSelect(k)(pre_activations)


def _largest(values: Tensor, count: int) -> Tensor:
    """Return where the `count` largest of a list are; of those that tie, the first."""
    if not count:
        return torch.zeros_like(values, dtype=torch.bool)
    if values.is_cuda:  # one sort is faster there than to look for the lowest
        return values.argsort(descending=True, stable=True)[:count].sort().values
    lowest = values.kthvalue(len(values) - count + 1).values
    kept = values >= lowest
    spare = int(kept.sum()) - count
    if spare:
        kept[(values == lowest).nonzero()[-spare:, 0]] = False
    return kept


def above(pre_activations: PreActivations, threshold: float) -> SparseCodes:
    """Keep every positive pre-activation that is at least `threshold`."""
    return in_rows(pre_activations.at_least(threshold), pre_activations.rows)


def over(pre_activations: PreActivations, thresholds: Tensor) -> SparseCodes:
    """Keep every pre-activation that is over its feature's threshold, [features], none negative."""
    return in_rows(pre_activations.over(thresholds), pre_activations.rows)
