"""What a probe learns from: labelled rows, or whole contexts pooled, and which belong together.

At most so many examples are drawn; of a store only those are read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_sae.analysis.code_matrix import check_pool, code_matrix, pooled_codes, pooled_rows
from probe_sae.errors import SettingsError, ShapeError
from probe_sae.evaluation import sites_of
from probe_sae.sae import SAE
from probe_sae.store import Store, as_store

MOST_CLASSES = 50
_COLUMN_ROWS = 1 << 18


@dataclass(frozen=True)
class Examples:
    """Labelled examples: single rows, or contexts whose rows are pooled."""

    rows: Tensor
    """What the dictionary encodes, of all rows, [rows, d_model] float32."""
    owner: NDArray[np.int64]
    """[rows] the example that each row belongs to."""
    classes: tuple[str, ...]
    label: NDArray[np.int64]
    """[examples] index into `classes`."""
    group: NDArray[np.int64]
    """[examples] document, context or whatever else must not be on both sides of a split."""
    pool: str | None
    """How an example's rows become one; None where each example is one row."""

    def activations(self) -> NDArray[np.float64]:
        """Return the raw activations of each example, [examples, d_model]."""
        x = self.rows
        if self.pool is not None:
            x = pooled_rows(x, self.owner, len(self.label), self.pool)
        return x.double().numpy()

    def codes(self, sae: SAE) -> Any:
        """Return the codes of each example, CSR [examples, features]."""
        codes = code_matrix(sae, self.rows)
        if self.pool is not None:
            codes = pooled_codes(codes, self.owner, len(self.label), self.pool)
        return codes


@dataclass(frozen=True)
class Question:
    """What is asked of examples, as `probe` takes it."""

    labels: Any
    groups: Any
    pool: str | None
    most: int
    seed: int


def examples_of_tensor(rows: Tensor | NDArray[Any], question: Question) -> Examples:
    """Return the examples in a tensor of rows, [rows, width].

    Raises:
        ShapeError: labels or groups are not one a row.
        SettingsError: rows are to be pooled without groups, or labels do not make classes.
    """
    x = torch.as_tensor(rows).detach().cpu()
    if x.ndim != 2:
        raise ShapeError(f"the rows have shape {tuple(x.shape)}; expected [rows, width].")
    count = len(x)
    groups = np.arange(count) if question.groups is None else question.groups
    group = _numbered(_column(groups, count, "groups"))
    labels = _column(question.labels, count, "labels")
    if question.pool is None:
        taken = drawn(_known(labels), question)
        classes, label = _classes(labels[taken])
        own = np.arange(len(taken))
        return Examples(x[taken].float(), own, classes, label, group[taken], None)
    check_pool(question.pool)
    if question.groups is None:
        raise SettingsError("pooled rows need groups, such as groups=document of each row.")
    first = np.unique(group, return_index=True)[1]
    if (labels != labels[first][group]).any():
        raise SettingsError("rows of one group have different labels; pooled, they need one.")
    taken = drawn(_known(labels[first]), question)
    classes, label = _classes(labels[first][taken])
    inside = np.flatnonzero(np.isin(group, taken))
    owner = np.searchsorted(taken, group[inside])
    return Examples(x[inside].float(), owner, classes, label, taken, question.pool)


def examples_of_store(sae: SAE, store: Store, question: Question) -> Examples:
    """Return the examples in a store; labels are one a row, one a context, or a name.

    Raises:
        ShapeError: there are neither as many labels as rows nor as contexts.
        SettingsError: the store has no such labels, or they do not make classes.
    """
    sites = sites_of(sae, store)
    labels = _named(store, question.labels) if isinstance(question.labels, str) else question.labels
    column = _column(labels, None, "labels")
    if len(column) not in (store.rows, store.contexts):
        raise ShapeError(
            f"there are {len(column)} labels; the store has {store.rows:,} rows and "
            f"{store.contexts:,} contexts. Give one for each of either."
        )
    of_contexts = len(column) == store.contexts
    if question.pool is not None:
        check_pool(question.pool)
        if not of_contexts:
            raise SettingsError(
                "pooled, an example is a context: give one label for each of the "
                f"{store.contexts:,}."
            )
        taken = drawn(_known(column), question)
        wanted = np.zeros(store.contexts, np.bool_)
        wanted[taken] = True
        numbers = np.flatnonzero(store.marked(wanted))
        context, document = _places(store, numbers)
        present, owner = np.unique(context, return_inverse=True)  # a context may have no rows
        label, first = column[present], np.unique(owner, return_index=True)[1]
        context, document = present, document[first]
    else:
        numbers = _drawn_rows(store, column, question, of_contexts)
        context, document = _places(store, numbers)
        label, owner = column[context if of_contexts else numbers], np.arange(len(numbers))
    group = _groups(store, question.groups, context, document)
    rows = sae.split(torch.cat([store[site][numbers].float() for site in sites], 1))[0]
    classes, codes = _classes(label)
    return Examples(rows, owner.astype(np.int64), classes, codes, group, question.pool)


def drawn(known: NDArray[np.bool_], question: Question) -> NDArray[np.int64]:
    """Return the numbers of up to `most` of the examples whose label is known, sorted."""
    if question.most < 2:
        raise SettingsError(f"most is {question.most}; expected at least 2 examples.")
    count = int(known.sum())
    if count <= question.most:
        return np.flatnonzero(known)
    generator = np.random.default_rng([question.seed, 3])
    if count <= 4 * question.most:
        chosen = generator.choice(np.flatnonzero(known), question.most, replace=False)
        return np.sort(chosen)
    found = np.zeros(0, np.int64)
    while len(found) < question.most:  # without a list of all that are known
        more = generator.integers(0, len(known), 2 * question.most)
        found = np.concatenate([found, more[known[more]]])
        found = found[np.sort(np.unique(found, return_index=True)[1])]
    return np.sort(found[: question.most])


def _drawn_rows(
    store: Store, column: NDArray[Any], question: Question, of_contexts: bool
) -> NDArray[np.int64]:
    known = _known(column)
    return drawn(store.marked(known) if of_contexts else known, question)


def _named(store: Store, name: str) -> NDArray[Any]:
    """Return the class of each image, [contexts], or a column of the rows."""
    if name == "class":
        labels = np.array([context.label for context in store.inputs()], np.int64)
        if store.kind != "image" or (labels < 0).all():
            raise SettingsError(
                f"{store.folder} knows no classes; give an array of labels, one a row or context."
            )
        names = store.provenance.get("classes") or [str(i) for i in range(int(labels.max()) + 1)]
        return np.array([None if i < 0 else names[i] for i in labels.tolist()], object)
    return store.column(name)


def _places(
    store: Store, numbers: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return context and document of some rows, [rows] each, without holding whole columns."""
    contexts: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    documents: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    for start in range(0, store.rows, _COLUMN_ROWS):
        for block in store.ranges(start, start + _COLUMN_ROWS):
            low, high = np.searchsorted(numbers, [block.start, block.stop])
            inside = numbers[low:high] - block.start
            contexts.append(block.columns["context"][inside])
            documents.append(block.columns["doc"][inside])
    return np.concatenate(contexts), np.concatenate(documents)


def _groups(
    store: Store, groups: Any, context: NDArray[np.int64], document: NDArray[np.int64]
) -> NDArray[np.int64]:
    if groups is None or (isinstance(groups, str) and groups == "document"):
        return document
    if isinstance(groups, str):
        if groups != "context":
            raise SettingsError(f"groups is {groups!r}; expected document, context or an array.")
        return context
    return _numbered(_column(groups, store.contexts, "groups"))[context]


def _column(values: Any, count: int | None, name: str) -> NDArray[Any]:
    column: NDArray[Any] = np.asarray(values.cpu() if isinstance(values, Tensor) else values)
    if column.ndim != 1 or count not in (None, len(column)):
        wanted = "one axis" if count is None else f"[{count}]"
        raise ShapeError(f"{name} have shape {column.shape}; expected {wanted}, one an example.")
    return column


def _known(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark labels that are there: neither None nor NaN."""
    if labels.dtype.kind == "O":
        return np.array([label is not None and label == label for label in labels.tolist()])
    return ~np.isnan(labels) if labels.dtype.kind == "f" else np.ones(len(labels), np.bool_)


def _numbered(groups: NDArray[Any]) -> NDArray[np.int64]:
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def _classes(labels: NDArray[Any]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    plain = labels.astype(str) if labels.dtype.kind == "O" else labels
    names, index = np.unique(plain, return_inverse=True)
    if not 2 <= len(names) <= MOST_CLASSES:
        raise SettingsError(
            f"the labels have {len(names)} different values; a probe tells 2 to {MOST_CLASSES} "
            "classes apart. Make classes of numbers, such as labels > 3."
        )
    return tuple(map(str, names.tolist())), index.astype(np.int64)


def store_of(rows: Any) -> Store | None:
    """Return the store that was given, opened where it is a path; None for rows themselves."""
    return as_store(rows) if isinstance(rows, (Store, str, Path)) else None
