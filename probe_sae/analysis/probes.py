"""Probes: whether a few features tell labels, beside the same probe on everything else.

A probe on features says little by itself. Beside it stand the same probe on the site's own
dimensions (neurons), on principal components, and on the features of a random dictionary.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.analysis.probe_examples import (
    Examples,
    Question,
    examples_of_store,
    examples_of_tensor,
    store_of,
)
from probe_sae.analysis.probe_fits import Split, differences, fit, split_by_group
from probe_sae.analysis.probe_scores import Chosen, Probes
from probe_sae.errors import SettingsError
from probe_sae.interop import as_sae
from probe_sae.progress import progress
from probe_sae.sae import SAE, TopK, make_sae
from probe_sae.store import Store

_SAMPLE_ROWS = 4096


def probe(
    sae: SAE | str | Path,
    rows: Store | str | Path | Tensor | NDArray[Any],
    labels: Sequence[Any] | NDArray[Any] | Tensor | str,
    *,
    k: int | Sequence[int] = (1, 2, 5, 16),
    pool: str | None = None,
    groups: Sequence[Any] | NDArray[Any] | Tensor | str | None = None,
    repeats: int = 5,
    test: float = 0.25,
    most: int = 10_000,
    seed: int = 0,
) -> Probes:
    """Learn to tell labels from a dictionary's features, and from baselines of the same size.

    For each class against all others (for two classes, the second against the first), inputs are
    ranked by |E[z | class] - E[z | not]| on the training part alone, and a logistic regression is
    fitted to the first k of them, and to all. The same is done with:

    - `neurons`: the dimensions of the raw activations; all of them are the usual linear probe;
    - `components`: the first k principal components of the training part;
    - `random features`: an untrained TopK dictionary of as many features, of which as many fire
      on a row, drawn anew for every repeat.

    Rows that the dictionary was trained on take part: its training knew no labels. Costs
    4 len(k) + 3 fits for each class and repeat.

    Args:
        sae: the dictionary, or its folder.
        rows: a store (or its folder), or raw activations, [rows, d_model].
        labels: one a row, or one a context of the store: numbers, words or booleans, 2 to 50
            different; None and NaN are left out. Or a name: `class` (of a store's images), or a
            column of the store such as `token`.
        k: how many inputs the sparse probes have; at most all features.
        pool: None, an example is a row; `mean` or `max`, it is a context (of a tensor: a group)
            whose codes, and activations, are pooled.
        groups: what is never on both sides of a split: `document` (default) or `context` of a
            store, or an array, one a context (of a tensor: one a row, by default each its own).
        repeats: splits, each drawn anew.
        test: share of the examples to be scored on.
        most: examples at most; more are sampled.
        seed: of the sample, the splits and the random dictionaries.

    Raises:
        ShapeError: labels or groups do not fit the rows, or rows the dictionary.
        SettingsError: a setting is out of range, or labels do not make classes.

    Source: k-sparse probing, Gurnee et al. 2023; random baselines, "Sanity checks for sparse
    autoencoders", 2026.
    """
    sae = as_sae(sae)
    sizes = _checked(k, repeats, test, sae.features)
    question = Question(labels, groups, pool, most, seed)
    store = store_of(rows)
    if store is not None:
        examples = examples_of_store(sae, store, question)
    else:
        given: Any = rows
        examples = examples_of_tensor(given, question)
    return _probed(sae, examples, sizes, repeats, test, seed)


def _checked(k: int | Sequence[int], repeats: int, test: float, features: int) -> tuple[int, ...]:
    sizes = sorted({min(int(size), features) for size in ([k] if isinstance(k, int) else k)})
    if any(size < 1 for size in sizes):
        raise SettingsError(f"k is {k}; expected whole numbers from 1.")
    if repeats < 2 or not 0 < test < 1:
        raise SettingsError(
            f"repeats is {repeats} and test {test}; expected at least 2 splits (one has no "
            "interval) and a share between 0 and 1."
        )
    return tuple(sizes)


def _probed(
    sae: SAE, examples: Examples, sizes: tuple[int, ...], repeats: int, test: float, seed: int
) -> Probes:
    codes, activations = examples.codes(sae), examples.activations()
    named = examples.classes[1:] if len(examples.classes) == 2 else examples.classes
    probes: tuple[tuple[str, int | None], ...] = ()
    measured: list[NDArray[np.float64]] = []
    chosen: list[Chosen] = []
    shares: list[float] = []
    with progress("probe", repeats) as advance:
        for repeat in range(repeats):
            generator = np.random.default_rng([seed, repeat, 5])
            split = split_by_group(
                examples.group, examples.label, examples.classes, test, generator
            )
            inputs = {
                "features": codes,
                "random features": examples.codes(_random_like(sae, examples, seed, repeat)),
                "neurons": activations,
                "components": _components(activations, split, max(sizes, default=1)),
            }
            classes: list[list[_Result]] = []
            for name in named:
                is_class = examples.label == examples.classes.index(name)
                classes.append(list(_fits(inputs, is_class, split, sizes)))
            probes = tuple((result.inputs, result.k) for result in classes[0])
            measured.append(np.stack([[r.scores for r in results] for results in classes], 1))
            chosen += _chosen(classes, repeat)
            shares.append(len(split.test) / len(examples.label))
            advance(1)
    return Probes(
        named,
        probes,
        np.stack(measured),
        tuple(chosen),
        _mean_differences(codes, examples, named),
        len(examples.label),
        float(np.mean(shares)),
    )


def _chosen(classes: "list[list[_Result]]", repeat: int) -> list[Chosen]:
    return [
        Chosen(of, result.k, repeat, result.numbers, result.weights)
        for of, results in enumerate(classes)
        for result in results
        if result.inputs == "features" and result.k is not None
    ]


@dataclass(frozen=True)
class _Result:
    """What one probe of one class did."""

    inputs: str
    k: int | None
    """How many inputs it had; None for all."""
    scores: NDArray[np.float64]
    numbers: NDArray[np.int64]
    weights: NDArray[np.float64]


def _fits(
    inputs: Mapping[str, Any],
    is_class: NDArray[np.bool_],
    split: Split,
    sizes: tuple[int, ...],
) -> Iterator[_Result]:
    """Yield each probe of one class."""
    learnt, truth = is_class[split.train], is_class[split.test]
    for which, matrix in inputs.items():
        train, held = matrix[split.train], matrix[split.test]
        width = matrix.shape[1]
        order = np.arange(width)
        if which != "components":
            order = np.argsort(-np.abs(differences(train, learnt)), kind="stable")
        for size in sizes:
            numbers = order[: min(size, width)]
            result = fit(_columns(train, numbers), learnt, _columns(held, numbers), truth)
            yield _Result(which, size, result.scores, numbers, result.weights)
        if which != "components":  # all of them are the neurons, turned
            result = fit(train, learnt, held, truth)
            yield _Result(which, None, result.scores, np.arange(width), result.weights)


def _columns(matrix: Any, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    some = matrix[:, numbers]
    return some if isinstance(some, np.ndarray) else some.toarray()


def _components(activations: NDArray[np.float64], split: Split, count: int) -> NDArray[np.float64]:
    """Return principal components, found on the training part, of all examples."""
    from sklearn.decomposition import PCA

    train = activations[split.train]
    count = min(count, *train.shape)
    model = PCA(count, svd_solver="auto", random_state=0).fit(train)
    return np.asarray(model.transform(activations))


def _random_like(sae: SAE, examples: Examples, seed: int, repeat: int) -> SAE:
    """Return an untrained dictionary of the same size, of which as many features fire on a row."""
    generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + repeat)
    sample = examples.rows[:: max(1, len(examples.rows) // _SAMPLE_ROWS)]
    with torch.no_grad():
        codes = sae.encode_sparse(sample.to(sae.input_scale.device))
        l0 = float(sae.fires(codes.values).sum()) / len(sample)
        size = min(max(1, round(l0)), sae.features)
        random = make_sae(TopK(features=sae.features, k=size), sample.shape[1], generator)
        random.initialise(sample, generator)
    return random.requires_grad_(False)


def _mean_differences(
    codes: Any, examples: Examples, named: tuple[str, ...]
) -> NDArray[np.float64]:
    """Return E[z | class] - E[z | not] over all examples, [classes, features]."""
    return np.stack(
        [differences(codes, examples.label == examples.classes.index(name)) for name in named]
    )
