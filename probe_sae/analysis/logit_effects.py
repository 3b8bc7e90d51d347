"""What a feature's direction does to the host's logits, straight through the unembedding."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
    parts: list[tuple[Tensor, ...]] = []
    for part in directions.float().split(max(1, _LOGITS_AT_ONCE // len(table))):
        effect = part @ table.T
        effect -= effect.mean(1, keepdim=True)
        up, down = effect.topk(count, -1), (-effect).topk(count, -1)
        parts.append((up.indices, up.values, down.indices, -down.values, *_spread(effect)))
    found = [torch.cat(column).numpy() for column in zip(*parts, strict=True)]
    found[0], found[2] = found[0].astype(np.int32), found[2].astype(np.int32)
    return LogitEffects(*found)


def _spread(effect: Tensor) -> tuple[Tensor, ...]:
    """Return histogram, range and moments of each line of effects whose mean is 0."""
    low, high = effect.aminmax(dim=1, keepdim=True)
    width = (high - low).clamp_min(torch.finfo(torch.float32).tiny)
    bins = ((effect - low) / width * LOGIT_BINS).long().clamp_(0, LOGIT_BINS - 1)
    histogram = torch.zeros(len(effect), LOGIT_BINS, dtype=torch.int64)
    histogram.scatter_add_(1, bins, torch.ones(1, 1, dtype=torch.int64).expand_as(bins))
    exact = effect.double()
    std = exact.square().mean(1).sqrt()
    scaled = exact / std[:, None]  # NaN where all effects are the same
    moments = (std, scaled.pow(3).mean(1), scaled.pow(4).mean(1))
    return histogram, torch.cat([low, high], 1), *(moment.float() for moment in moments)


def _no_logit_effects(features: int) -> LogitEffects:
    whole, real = np.zeros((features, 0), np.int32), np.zeros((features, 0), np.float32)
    none = np.full(features, np.nan, np.float32)
    bounds = np.full((features, 2), np.nan, np.float32)
    counts = np.zeros((features, 0), np.int64)
    return LogitEffects(whole, real, whole, real, counts, bounds, none, none, none)
