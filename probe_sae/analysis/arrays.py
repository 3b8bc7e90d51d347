"""What an analysis says of features and shows of their firings, as plain arrays."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe_sae.shown import Shown

TOP, RANDOM = 0, 1
FIFTHS = (2, 3, 4, 5, 6)
"""Values of `Examples.kind`."""


@dataclass(frozen=True, repr=False)
class Features(Shown):
    """One entry a feature; statistics are over the analysed rows. -1 and NaN stand for "none"."""

    firings: NDArray[np.int64]
    """[features] rows on which the feature fires."""
    density: NDArray[np.float64]
    """[features] firings / rows."""
    mean: NDArray[np.float32]
    """[features] mean of the firings (zeros left out)."""
    mean_activation: NDArray[np.float32]
    """[features] mean over all rows (zeros counted)."""
    std: NDArray[np.float32]
    """[features] standard deviation of the firings."""
    skew: NDArray[np.float32]
    """[features] third standardised moment of the firings."""
    kurtosis: NDArray[np.float32]
    """[features] fourth standardised moment of the firings (3 for a normal law)."""
    max: NDArray[np.float32]
    """[features] largest activation, 0 where dead."""
    histogram: NDArray[np.int64]
    """[features, bins] firings by activation, bins of equal width from 0 to `histogram_top`."""
    histogram_top: NDArray[np.float32]
    """[features] upper edge of the last bin."""
    quantiles: NDArray[np.float32]
    """[features, 5] 10, 25, 50, 75, 90 % of the firings, right to half a bin."""
    token_ids: NDArray[np.int32]
    """[features, n] the commonest tokens (image: classes) among the firings, commonest first."""
    token_shares: NDArray[np.float32]
    """[features, n] their share of the firings."""
    token_lifts: NDArray[np.float32]
    """[features, n] that share over the token's share of all rows."""
    token_undercount: NDArray[np.int64]
    """[features] how much too low the counts of tokens behind these may be; 0 is exact. The
    commonest 512 tokens of a feature are counted."""
    places: NDArray[np.int64]
    """[features, places] firings by place. Text: position in the document, 0, 1, 2 to 3, 4 to 7 and
    so on; images: cells of a grid of at most 64, row by row (`info["places"]` has all rows')."""
    nearest_ids: NDArray[np.int32]
    """[features, n] features with the nearest decoder directions."""
    nearest_cosines: NDArray[np.float32]
    """[features, n] cosines of these."""
    cofiring_ids: NDArray[np.int32]
    """[features, n] features that fire on the same rows most (by phi)."""
    cofiring_phis: NDArray[np.float32]
    """[features, n] phi coefficient of the two firings."""
    cofiring_counts: NDArray[np.int64]
    """[features, n] rows on which both fire."""
    cofiring_jaccards: NDArray[np.float32]
    """[features, n] these rows over those on which one of the two fires."""
    cofiring_npmis: NDArray[np.float32]
    """[features, n] normalised pointwise mutual information of the two firings, -1 to 1."""
    followed_ids: NDArray[np.int32]
    """[features, n] features of the next dictionary that fire on the same rows most (by phi); n = 0
    for a single dictionary."""
    followed_phis: NDArray[np.float32]
    """[features, n] phi coefficient of the two firings."""
    followed_cosines: NDArray[np.float32]
    """[features, n] cosine of the two decoder directions; NaN where they differ in width."""
    neuron_ids: NDArray[np.int32]
    """[features, n] dimensions of the site (or of other sites, `info["neurons"]`) that a feature's
    activation goes with most; -1 where it fires on no row looked at."""
    neuron_correlations: NDArray[np.float32]
    """[features, n] Pearson correlations of these, zeros counted."""
    part: NDArray[np.int32]
    """[features] number of the dictionary it is of, where several are analysed together."""
    decoder_norm: NDArray[np.float32]
    """[features] length of the decoder row."""
    x: NDArray[np.float32]
    """[features] place on the map (UMAP of decoder directions)."""
    y: NDArray[np.float32]
    """[features]"""
    cluster: NDArray[np.int32]
    """[features] density cluster on the map."""
    group: NDArray[np.int32]
    """[features] hierarchical cluster of decoder directions, about one for 40 features."""
    pca_x: NDArray[np.float32]
    """[features] decoder direction, of length 1, along the axis of most variance."""
    pca_y: NDArray[np.float32]
    """[features] along the next one."""
    module: NDArray[np.int32]
    """[features] community of features that fire together; 0 is the largest."""
    promoted_ids: NDArray[np.int32]
    """[features, n] tokens that the decoder direction makes likelier; n = 0 without unembedding."""
    promoted_values: NDArray[np.float32]
    """[features, n] their logit effect for one unit of activation, less its mean over tokens."""
    suppressed_ids: NDArray[np.int32]
    """[features, n] tokens that it makes less likely."""
    suppressed_values: NDArray[np.float32]
    """[features, n] their logit effect."""
    logit_histogram: NDArray[np.int64]
    """[features, bins] all tokens by logit effect; bins of equal width over `logit_range`, or no
    bins."""
    logit_range: NDArray[np.float32]
    """[features, 2] the smallest and the largest effect."""
    logit_std: NDArray[np.float32]
    """[features] standard deviation of the effects over all tokens."""
    logit_skew: NDArray[np.float32]
    """[features] their third standardised moment: above 0 where few tokens are promoted much."""
    logit_kurtosis: NDArray[np.float32]
    """[features] their fourth standardised moment (3 for a normal law)."""


@dataclass(frozen=True, repr=False)
class Examples(Shown):
    """Firings shown, by feature, kind, rank; each with the feature's activations around it."""

    feature: NDArray[np.int32]
    """[examples]"""
    kind: NDArray[np.uint8]
    """[examples] `TOP`: strongest firing of the context, at most one a context; `RANDOM`: a firing
    drawn uniformly from all of the feature's firings; `FIFTHS`: such a firing from the weakest to
    the strongest fifth of them."""
    rank: NDArray[np.int32]
    """[examples] 0 is the strongest (`RANDOM`: strongest of the sample)."""
    context: NDArray[np.int32]
    """[examples] index into the inputs."""
    position: NDArray[np.int32]
    """[examples] the firing's place in the context: token index, or y * grid width + x."""
    value: NDArray[np.float32]
    """[examples] its activation."""
    offsets: NDArray[np.int64]
    """[examples + 1] where the example's entries in the next two arrays start."""
    fired_position: NDArray[np.int32]
    """[entries] every place in the context where the feature fires."""
    fired_value: NDArray[np.float32]
    """[entries] its activation there."""
    loss: NDArray[np.float32]
    """[examples] what the host's loss of the input (of a text, summed over the tokens that are
    predicted) gains when the firing is taken out, in nats; NaN where that was not tried, or nothing
    is predicted after it."""

    def of_kinds(self, kinds: Collection[int]) -> "Examples":
        """Return the examples of some kinds."""
        kept = np.isin(self.kind, list(kinds))
        counts = np.diff(self.offsets)
        entries = np.repeat(kept, counts)
        return Examples(
            self.feature[kept],
            self.kind[kept],
            self.rank[kept],
            self.context[kept],
            self.position[kept],
            self.value[kept],
            np.concatenate([[0], np.cumsum(counts[kept])]).astype(np.int64),
            self.fired_position[entries],
            self.fired_value[entries],
            self.loss[kept],
        )

    def of(self, feature: int) -> slice:
        """Return the slice of the examples of one feature."""
        low, high = np.searchsorted(self.feature, [feature, feature + 1])
        return slice(int(low), int(high))
