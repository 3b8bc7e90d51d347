"""One probe: split by groups, choose inputs on the training part, fit, score on the other part."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probe_sae.errors import SettingsError

METRICS = ("balanced_accuracy", "auc", "f1")
_TRIES = 200


class Split(NamedTuple):
    """Which examples a probe learns from, and on which it is scored."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]


class Fit(NamedTuple):
    """What a probe scored and what it made of its inputs."""

    scores: NDArray[np.float64]
    """[metrics] as `METRICS`, on the test part."""
    weights: NDArray[np.float64]
    """[inputs] log-odds for one unit more of each input."""


def split_by_group(
    group: NDArray[np.int64],
    label: NDArray[np.int64],
    classes: tuple[str, ...],
    share: float,
    generator: np.random.Generator,
) -> Split:
    """Deal whole groups to the two sides until both have every class.

    Raises:
        SettingsError: a class is in one group only, or no deal in 200 gives both sides all classes.
    """
    names, index = np.unique(group, return_inverse=True)
    for i, name in enumerate(classes):
        groups = len(np.unique(index[label == i]))
        if groups < 2:
            raise SettingsError(
                f"class {name} is in {groups} group only, and a group is never on both sides of a "
                "split. Label more documents, or group by less (groups='context')."
            )
    for _ in range(_TRIES):
        order = generator.permutation(len(names))
        sizes = np.cumsum(np.bincount(index)[order])
        count = int(np.searchsorted(sizes, share * len(group), side="left")) + 1
        is_test = np.isin(index, order[: min(count, len(names) - 1)])
        sides = [len(np.unique(label[side])) for side in (is_test, ~is_test)]
        if min(sides) == len(classes):
            return Split(np.flatnonzero(~is_test), np.flatnonzero(is_test))
    raise SettingsError(
        f"no deal of {len(names)} groups puts each of {len(classes)} classes on both sides; "
        "label more groups, or leave out the rarest classes."
    )


def differences(inputs: Any, is_class: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return E[z | class] - E[z | not] of each input, [inputs].

    Args:
        inputs: dense or CSR, [examples, inputs].
        is_class: [examples].
    """
    inside = np.asarray(inputs[is_class].mean(0)).ravel()
    return inside - np.asarray(inputs[~is_class].mean(0)).ravel()


def fit(train: Any, is_class: NDArray[np.bool_], test: Any, truth: NDArray[np.bool_]) -> Fit:
    """Fit a logistic regression and score it.

    Inputs are brought to a standard deviation of 1 on the training part (dense ones also to a
    mean of 0); the penalty is the square of the weights, C = 1; both classes weigh the same.

    Args:
        train: dense or CSR, [examples, inputs].
        is_class: [examples].
        test: other examples.
        truth: theirs.
    """
    from scipy.sparse import issparse
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler(with_mean=not issparse(train)).fit(train)
    model = LogisticRegression(class_weight="balanced", max_iter=2000)
    model.fit(scaler.transform(train), is_class)
    margin = model.decision_function(scaler.transform(test))
    scale: NDArray[np.float64] = np.asarray(scaler.scale_)
    return Fit(scored(np.asarray(margin), truth), np.asarray(model.coef_)[0] / scale)


def scored(margin: NDArray[np.float64], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the metrics of margins, which say yes above 0: as `METRICS`.

    Balanced accuracy (TPR + TNR) / 2; area under the ROC curve, ties count a half; F1 of the yes.
    """
    from scipy.stats import rankdata

    says = margin > 0
    hits, positives = int((says & truth).sum()), int(truth.sum())
    negatives = len(truth) - positives
    recall, refused = hits / positives, int((~says & ~truth).sum()) / negatives
    ranks = rankdata(margin)[truth].sum() - positives * (positives + 1) / 2
    f1 = 2 * hits / max(1, int(says.sum()) + positives)
    return np.array([(recall + refused) / 2, ranks / (positives * negatives), f1])
