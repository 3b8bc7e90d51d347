"""The compiled loop over a feature's effects on all tokens."""

import math

import numpy as np
from numpy.typing import NDArray

from probe_sae.sae.kernels.compiled import fast


@fast
def spread(
    effect: NDArray[np.float32],
    histogram: NDArray[np.int64],
    bounds: NDArray[np.float32],
    moments: NDArray[np.float32],
) -> None:
    """Write how the effects of each feature are spread.

    Args:
        effect: [features, tokens] with mean 0 in each line.
        histogram: to be counted up, [features, bins], from the smallest to the largest effect.
        bounds: to be written, smallest and largest effect, [features, 2].
        moments: to be written, standard deviation and the next two standardised moments,
            [features, 3]; NaN where all effects are the same.
    """
    bins = histogram.shape[1]
    for row in range(len(effect)):
        line = effect[row]
        low, high = line[0], line[0]
        square, cube, fourth = 0.0, 0.0, 0.0
        for i in range(len(line)):
            low, high = min(low, line[i]), max(high, line[i])
            exact = float(line[i])
            square += exact * exact
            cube += exact * exact * exact
            fourth += exact * exact * exact * exact
        scale = bins / max(np.float64(high) - low, 1e-30)
        for i in range(len(line)):
            place = int((np.float64(line[i]) - low) * scale)
            histogram[row, max(0, min(place, bins - 1))] += 1
        variance = square / len(line)
        bounds[row, 0], bounds[row, 1] = low, high
        moments[row, 0] = math.sqrt(variance)
        moments[row, 1] = cube / len(line) / variance**1.5 if variance > 0 else math.nan
        moments[row, 2] = fourth / len(line) / variance**2 if variance > 0 else math.nan
