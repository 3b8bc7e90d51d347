"""What probes scored: means over splits, their intervals, and which features were chosen."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.probe_fits import METRICS
from probe_sae.errors import SettingsError
from probe_sae.shown import Tabled

_CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean over splits, and where it lies at 95 %."""

    mean: float
    low: float
    high: float


class Chosen(NamedTuple):
    """The features that one sparse probe chose."""

    of: int
    """Index of the class."""
    k: int
    repeat: int
    features: NDArray[np.int64]
    weights: NDArray[np.float64]
    """Log-odds for one unit more of activation."""


@dataclass(frozen=True, repr=False)
class Probes(Tabled):
    """What `probe` found; `table()` and `features()` show it."""

    classes: tuple[str, ...]
    """Those that were told from all others; of two classes, the second."""
    probes: tuple[tuple[str, int | None], ...]
    """What each probe had: which inputs, and how many of them; None for all."""
    scores: NDArray[np.float64]
    """[repeats, probes, classes, metrics]: balanced accuracy, AUC, F1 on the test part."""
    chosen: tuple[Chosen, ...]
    differences: NDArray[np.float64]
    """[classes, features] E[z | class] - E[z | not] over all examples."""
    examples: int
    test_share: float
    """Share of the examples that were scored, mean over repeats."""

    def interval(self, inputs: str, k: int | None, metric: str = "balanced_accuracy") -> Interval:
        """Return one score, mean over classes.

        Args:
            inputs: `features`, `random features`, `neurons` or `components`.
            k: how many of them; None for all.
            metric: `balanced_accuracy`, `auc` or `f1`.

        Raises:
            SettingsError: there was no such probe or metric.
        """
        values = self._values(inputs, k, metric)
        low, high = (min(1.0, max(0.0, x)) for x in _around(values, self.test_share))
        return Interval(float(values.mean()), low, high)

    def margin(
        self, over: str, k: int | None, metric: str = "balanced_accuracy", *, over_k: int | None = 0
    ) -> Interval:
        """Return how much better features are than other inputs, split by split.

        Args:
            over: the other inputs.
            k: how many features; None for all.
            metric: which score.
            over_k: how many of the others; as many as features, by default.

        Raises:
            SettingsError: there was no such probe or metric.
        """
        other = self._values(over, k if over_k == 0 else over_k, metric)
        values = self._values("features", k, metric) - other
        return Interval(float(values.mean()), *_around(values, self.test_share))

    def table(self, *, by_class: bool = False) -> Any:
        """Return one line a probe as a pandas DataFrame; with `by_class`, one a probe and class.

        `k` is `all` for dense probes. Each score is a mean over splits; `_low` and `_high` are its
        95 % interval, which grows for splits that share examples (Nadeau and Bengio 2003).
        """
        import pandas as pd

        lines: list[dict[str, Any]] = []
        for i, (inputs, k) in enumerate(self.probes):
            for of, name in enumerate(self.classes if by_class else ("",)):
                line: dict[str, Any] = {"inputs": inputs, "k": "all" if k is None else k}
                line |= {"class": name} if by_class else {}
                for j, metric in enumerate(METRICS):
                    part = self.scores[:, i, :, j]
                    values = part[:, of] if by_class else part.mean(1)
                    low, high = _around(values, self.test_share)
                    line[metric] = values.mean()
                    line[f"{metric}_low"], line[f"{metric}_high"] = max(0, low), min(1, high)
                lines.append(line)
        return pd.DataFrame(lines)

    def features(self) -> Any:
        """Return the features that the sparse probes chose as a pandas DataFrame.

        One line a class, k and feature, the most often chosen first: `weight` (mean over the
        splits that chose it), `chosen` (share of these), `difference` E[z | class] - E[z | not].
        """
        import pandas as pd

        found: dict[tuple[int, int, int], list[float]] = {}
        for one in self.chosen:
            for feature, weight in zip(one.features.tolist(), one.weights.tolist(), strict=True):
                found.setdefault((one.of, one.k, feature), []).append(weight)
        columns = ["class", "k", "feature", "weight", "chosen", "difference"]
        lines = [
            (of, k, feature, float(np.mean(weights)), len(weights) / len(self.scores))
            for (of, k, feature), weights in found.items()
        ]
        lines.sort(key=lambda line: (line[0], line[1], -line[4], -abs(line[3])))
        return pd.DataFrame(
            [(self.classes[x[0]], *x[1:], self.differences[x[0], x[2]]) for x in lines],
            columns=columns,
        )

    def _values(self, inputs: str, k: int | None, metric: str) -> NDArray[np.float64]:
        """Return the mean over classes of a score in each split, [repeats]."""
        if (inputs, k) not in self.probes or metric not in METRICS:
            had = ", ".join(f"{name} {'all' if n is None else n}" for name, n in self.probes)
            raise SettingsError(
                f"no probe of {inputs!r}, k={k}, or no score {metric!r}; there are {had}, and "
                f"{', '.join(METRICS)}."
            )
        place = self.probes.index((inputs, k))
        return self.scores[:, place, :, METRICS.index(metric)].mean(1)


def _around(values: NDArray[np.float64], test_share: float) -> tuple[float, float]:
    """Return the interval of a mean over random splits of the same examples.

    mean +- t sqrt((1 / repeats + test / train) variance): splits share examples, so that their
    mean is less certain than that of independent ones. Source: Nadeau and Bengio 2003, "Inference
    for the generalization error".
    """
    from scipy.stats import t

    repeats = len(values)
    spread = (1 / repeats + test_share / (1 - test_share)) * values.var(ddof=1)
    reach = float(t.ppf((1 + _CONFIDENCE) / 2, repeats - 1) * spread**0.5)
    return float(values.mean() - reach), float(values.mean() + reach)
