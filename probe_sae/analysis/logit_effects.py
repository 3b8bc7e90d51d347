"""What a feature's direction does to the host's logits, straight through the unembedding."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.analysis.logit_loops import spread

LOGIT_BINS = 40
_LOGITS_AT_ONCE = 1 << 25


class LogitEffects(NamedTuple):
    """What a feature's direction does to all logits, less its mean over tokens."""

    promoted_ids: NDArray[np.int32]
    """[features, n] the tokens that it makes likelier."""
    promoted_values: NDArray[np.float32]
    suppressed_ids: NDArray[np.int32]
    """[features, n] those that it makes less likely."""
    suppressed_values: NDArray[np.float32]
    logit_histogram: NDArray[np.int64]
    """[features, bins] tokens by effect, bins of equal width over `logit_range`."""
    logit_range: NDArray[np.float32]
    """[features, 2] the smallest and the largest effect."""
    logit_std: NDArray[np.float32]
    """[features] standard deviation over tokens, and the next two standardised moments."""
    logit_skew: NDArray[np.float32]
    logit_kurtosis: NDArray[np.float32]


def logit_effects(directions: Tensor, unembedding: Tensor | None, count: int = 10) -> LogitEffects:
    """Return the direct effect of each feature on the logits, up to the final norm's scaling.

    Args:
        directions: what one unit of activation adds to the site, [features, width].
        unembedding: [tokens, width]; None, or another width, gives n = 0, no bins and NaN.
        count: tokens in each direction.
    """
    if unembedding is None or unembedding.shape[1] != directions.shape[1]:
        return _no_logit_effects(len(directions))
    table = unembedding.detach().cpu().float()
    count = min(count, len(table))
    parts: list[tuple[NDArray[Any], ...]] = []
    for part in directions.float().split(max(1, _LOGITS_AT_ONCE // len(table))):
        effect = part @ table.T
        effect -= effect.mean(1, keepdim=True)
        up, down = effect.topk(count, -1), (-effect).topk(count, -1)
        named = (up.indices.int(), up.values, down.indices.int(), -down.values)
        parts.append((*(each.numpy() for each in named), *_spread(effect.numpy())))
    return LogitEffects(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _spread(effect: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
    """Return histogram, range and moments of each line of effects whose mean is 0."""
    histogram = np.zeros((len(effect), LOGIT_BINS), np.int64)
    bounds, moments = np.empty((len(effect), 2), np.float32), np.empty((len(effect), 3), np.float32)
    spread(effect, histogram, bounds, moments)
    return histogram, bounds, *moments.T


def _no_logit_effects(features: int) -> LogitEffects:
    whole, real = np.zeros((features, 0), np.int32), np.zeros((features, 0), np.float32)
    none = np.full(features, np.nan, np.float32)
    bounds = np.full((features, 2), np.nan, np.float32)
    counts = np.zeros((features, 0), np.int64)
    return LogitEffects(whole, real, whole, real, counts, bounds, none, none, none)
