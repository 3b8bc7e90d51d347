"""What an analysis holds: everything a report shows, as plain arrays."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.arrays import Examples, Features
from probe_sae.analysis.cofiring import Pairs
from probe_sae.analysis.contexts import ImageInputs, TextInputs, visible
from probe_sae.errors import SettingsError, near
from probe_sae.shown import Fact, Shown, main_metrics, name_in

if TYPE_CHECKING:
    from probe_sae.analysis.labels import BackgroundRows, Labels, RuleScore, SampledFirings
    from probe_sae.analysis.one_feature import Feature
    from probe_sae.analysis.pixels import Pixels
    from probe_sae.analysis.sampled import SampledRows


@dataclass(frozen=True, repr=False)
class Analysis(Shown):
    """What is known of one dictionary on one site; `load_analysis` reads it."""

    info: Mapping[str, Any]
    """`kind` ("text" or "image"), `site`, `host`, `dataset`, `store`, `sae`, `split`, `rows`,
    `contexts`, `metrics` (or None), `definitions`, `training` (list of log lines), `versions`;
    `parts`, the dictionaries with site and first feature; `modules`, each with cohesion and
    stability, and `structure`, how far they can be trusted; `places`, `neurons`, `cofiring`,
    `loss_examples`."""
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
