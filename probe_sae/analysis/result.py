"""What an analysis holds: everything a report shows, as plain arrays."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.cofiring import Pairs
from probe_sae.analysis.contexts import ImageInputs, TextInputs, visible
from probe_sae.errors import SettingsError, near
from probe_sae.shown import Fact, Shown, main_metrics, name_in

if TYPE_CHECKING:
    from probe_sae.analysis.labels import BackgroundRows, Labels, RuleScore, SampledFirings
    from probe_sae.analysis.one_feature import Feature
    from probe_sae.analysis.pixels import Pixels
    from probe_sae.analysis.sampled import SampledRows

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
    """[examples] what the host's loss of the input (of a text, summed over its tokens) gains when
    the firing is taken out, in nats; NaN where that was not tried."""

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


@dataclass(frozen=True, repr=False)
class Analysis(Shown):
    """What is known of one dictionary on one site; `load_analysis` reads it."""

    info: Mapping[str, Any]
    """`kind` ("text" or "image"), `site`, `host`, `dataset`, `store`, `sae`, `split`, `rows`,
    `contexts`, `metrics` (or None), `definitions`, `training` (list of log lines), `versions`;
    `parts`, the dictionaries with site and first feature; `modules`, each with cohesion and
    stability, and `structure`, how far they can be trusted; `places`, `neurons`, `cofiring`."""
    columns: Features
    examples: Examples
    inputs: TextInputs | ImageInputs
    pairs: Pairs
    """Each feature's 32 strongest partners, all pairs of a module's 200 commonest members, and how
    often they fire together."""
    rows: "SampledRows"
    """Some rows with all that fires on them."""
    drawn: "SampledFirings"
    """A uniform sample of each feature's firings, at most 100, that labels are learned from."""
    labels: "Labels"
    """A label a feature, found and scored without a language model."""
    tree: NDArray[np.int32]
    """[merges, 2] hierarchical clustering of the living features' directions: below n the n living
    features in order, n + i what merge i made."""
    pixels: "Pixels | None" = None
    """What can be drawn where rows are images' pixels."""
    directions: NDArray[np.float16] | None = None
    """[features, d] decoder directions of length 1, to compare with another analysis; None where
    several dictionaries of different widths are analysed together, or in an older file."""

    def _facts(self) -> list[Fact]:
        info = self.info
        known = [Fact(name, name_in(info.get(name))) for name in ("host", "dataset", "site")]
        known += [Fact(name, info.get(name)) for name in ("rows", "contexts")]
        known += [
            Fact("features", self.count),
            Fact("dead", int((self.columns.firings == 0).sum()), "Features that never fire here."),
            Fact("clear labels", int(self.labels.is_clear.sum()), "Features that a rule tells."),
            Fact("modules", len(info.get("modules") or ()), "Features that fire together."),
        ]
        return known + main_metrics(info)

    @property
    def count(self) -> int:
        """Number of features."""
        return len(self.columns.firings)

    def feature(self, number: int, examples: int = 8) -> "Feature":
        """Return what is known of one feature: label, numbers, tokens, partners, examples.

        Args:
            number: which feature.
            examples: how many of its strongest firings, one a context.

        Raises:
            SettingsError: there is no such feature.
        """
        from probe_sae.analysis.one_feature import feature_of

        return feature_of(self, number, examples)

    def label(self, feature: int) -> str:
        """Return the feature's label: in words where a rule tells its firings, else `unclear`."""
        return self.labels.label[feature]

    def background(self) -> "BackgroundRows":
        """Return the sampled rows as what labels are scored against."""
        from probe_sae.analysis.labels import BackgroundRows

        rows = self.rows
        whole = (rows.context, rows.position, rows.offsets, rows.feature)
        return BackgroundRows(*(column.astype(np.int64) for column in whole))

    def score_rule(self, rule: Mapping[str, Any], feature: int) -> "RuleScore":
        """Return how well a rule of yours tells a feature's firings, on the rows of the labels.

        Args:
            rule: see `probe-sae guide labels`.
            feature: of which feature.

        Raises:
            SettingsError: there is no such feature, or the rule is none.
        """
        from probe_sae.analysis.labels import score_rule

        given = self.drawn, self.background(), self.inputs, self.columns.density
        return score_rule(rule, feature, *given, seed=int(self.info.get("seed", 0)))

    def tokens(self, feature: int, count: int = 3) -> str:
        """Return the commonest tokens or classes of a feature's firings, with their shares."""
        shares = zip(
            self.columns.token_ids[feature][:count],
            self.columns.token_shares[feature][:count],
            strict=True,
        )
        named = [(self.token_text(int(token)), share) for token, share in shares if token >= 0]
        return " · ".join(f"{visible(text)} {share:.0%}" for text, share in named)

    def token_text(self, token: int) -> str:
        """Return the text of a token id, or the name of a class."""
        if isinstance(self.inputs, TextInputs):
            return self.inputs.piece(token)
        return self.inputs.classes[token] if token < len(self.inputs.classes) else str(token)

    def figure(self, name: str, *given: Any, **options: Any) -> Any:
        """Return a plotly figure: `map`, `histogram`, `density`, `module`, `codes` or `rows`.

        Arguments behind the name are those of the functions in `probe_sae.analysis.figures`, such
        as `analysis.figure("histogram", 123)` or `analysis.figure("map", colour="density")`.

        Raises:
            SettingsError: there is no such figure, feature or module.
        """
        from probe_sae.analysis import figures

        known = ("map", "histogram", "density", "module", "codes", "rows")
        if name not in known:
            raise SettingsError(
                f"no figure {name!r}; there are {', '.join(known)}.{near(name, known)}"
            )
        return getattr(figures, f"{name}_figure")(self, *given, **options)

    def features(self) -> Any:
        """Return one line a feature as a pandas DataFrame: label, its score, scalar columns."""
        import pandas as pd

        columns = {f.name: getattr(self.columns, f.name) for f in fields(Features)}
        table = pd.DataFrame({n: v for n, v in columns.items() if v.ndim == 1})
        table.insert(0, "label", self.labels.label)
        scores = ("is_clear", "balanced_accuracy", "low", "high", "precision", "hard_accuracy")
        for place, name in enumerate(scores, 1):
            table.insert(place, name, getattr(self.labels, name))
        table.insert(len(scores) + 1, "tokens", [self.tokens(i) for i in range(self.count)])
        table.index.name = "feature"
        return table
