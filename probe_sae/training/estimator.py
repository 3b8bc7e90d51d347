"""A dictionary as a scikit-learn transformer, for pipelines, clones and searches over settings."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from probe_sae.devices import device_for
from probe_sae.errors import SettingsError
from probe_sae.sae import SAE, ReconstructionMeter, SparseCodes, architecture, names_of
from probe_sae.training.beginning import train
from probe_sae.training.settings import split_settings

DTYPES = (np.float64, np.float32)
"""What rows may be; others become the first."""
_OF_SEVERAL = ("transcoder", "crosscoder")
CHUNK = 2048
"""Rows that are encoded or decoded at once."""
FEWEST = 10
"""Rows that a dictionary is fitted to: a tenth is kept from training, and is to hold a row."""
EPOCHS = 100
"""Times that a run reads few rows, by default."""


class SparseAutoencoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A sparse autoencoder with scikit-learn's conventions.

    `fit` learns what `probe_sae.train` learns from the same rows, settings and seed, to the bit;
    `transform` gives `sae_.encode`, `inverse_transform` gives `sae_.decode`, both computed in
    float32. Rows come as NumPy arrays, pandas tables, lists or CPU tensors; what is returned has
    their precision, float32 or float64; float16 gives float32. There is no `partial_fit`.

    Attributes:
        sae_: the dictionary.
        n_features_in_: width of a row.
        feature_names_in_: names of the columns, where a table was fitted.

    Args:
        features: size of the dictionary.
        k: features that fire on a row; the architecture's own by default.
        arch: which architecture of one site; `probe-sae list archs` has them all.
        rows: rows consumed by training, which epochs repeat; by default 2 million, or 100 epochs
            where that is less.
        batch_size: rows of a step; by default 4096, or an eighth of the rows where that is less.
        settings: any other field of the architecture's or the trainer's settings, such as
            `{"lr": 5e-4, "held_out": 0}`.
        random_state: an int is the seed; None draws one from NumPy's global state.
        device: where to train and encode; a GPU where there is one, by default.
        sparse_output: whether codes are a SciPy CSR matrix, which holds no zeros, or dense.
    """

    sae_: SAE

    def __init__(
        self,
        features: int = 4096,
        k: float | None = None,
        arch: str = "batchtopk",
        *,
        rows: int | None = None,
        batch_size: int | None = None,
        settings: Mapping[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = None,
        device: str | None = None,
        sparse_output: bool = False,
    ) -> None:
        self.features = features
        self.k = k
        self.arch = arch
        self.rows = rows
        self.batch_size = batch_size
        self.settings = settings
        self.random_state = random_state
        self.device = device
        self.sparse_output = sparse_output

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn a dictionary from rows.

        A tenth of them is kept from training, to calibrate thresholds with (`held_out`).

        Args:
            X: [rows, width].
            y: not used.

        Raises:
            ValueError: X is not finite numbers in two dimensions, or fewer than 10 rows.
            SettingsError: a setting is unknown or out of range, or there is nothing to learn.
        """
        given = self._validated(X, reset=True, ensure_min_samples=FEWEST)
        arch, trainer = split_settings(self._table(len(given)))
        self.sae_ = train(_tensor(given), arch, trainer, device=self.device)
        self._n_features_out = self.sae_.features
        return self

    def transform(self, X: Any) -> Any:
        """Return the codes of rows, [rows, features]; a CSR matrix with `sparse_output`.

        Args:
            X: [rows, width].

        Raises:
            ValueError: X is of another width than what was fitted, or not finite.
            NotFittedError: nothing was fitted.
        """
        check_is_fitted(self)
        given = self._validated(X)
        sae = self._on_device()
        if self.sparse_output:
            parts = [_csr(sae.encode_sparse(some), sae.features) for some in _chunks(given, sae)]
            return sparse.vstack(parts, format="csr", dtype=given.dtype)
        codes = np.empty((len(given), sae.features), given.dtype)
        for first, some in zip(range(0, len(given), CHUNK), _chunks(given, sae), strict=True):
            codes[first : first + CHUNK] = sae.encode(some).cpu().numpy()
        return codes

    def inverse_transform(self, X: Any) -> Any:
        """Return the rows that codes reconstruct, [rows, width].

        Args:
            X: [rows, features], dense or sparse.

        Raises:
            ValueError: X is not of as many columns as there are features, or not finite.
            NotFittedError: nothing was fitted.
        """
        check_is_fitted(self)
        sae = self._on_device()
        checks: dict[str, Any] = {"accept_sparse": "csr", "dtype": DTYPES}
        codes = check_array(_on_cpu(X), **checks)
        if codes.shape[1] != sae.features:
            raise ValueError(
                f"codes have {codes.shape[1]} columns; expected {sae.features}, one a feature."
            )
        rows = np.empty((codes.shape[0], sae.d_out), codes.dtype)
        for first, some in zip(range(0, len(rows), CHUNK), _chunks(codes, sae), strict=True):
            rows[first : first + CHUNK] = sae.decode(some).cpu().numpy()
        return rows

    def score(self, X: Any, y: Any = None) -> float:
        """Return 1 - fraction unexplained: 1 is perfect, 0 no better than the mean of these rows.

        sum((x - x_hat)^2) / sum((x - mean of x)^2) over rows and columns is what is unexplained, in
        float64. NaN where the rows do not vary.

        Args:
            X: [rows, width].
            y: not used.

        Raises:
            ValueError: X is of another width than what was fitted, or not finite.
            NotFittedError: nothing was fitted.
        """
        check_is_fitted(self)
        sae, meter = self._on_device(), ReconstructionMeter(features=0)
        for some in _chunks(self._validated(X), sae):
            meter.add(some, sae(some))
        return 1 - meter.fraction_unexplained

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _validated(self, X: Any, **checks: Any) -> np.ndarray:
        """Return rows as an array of floats; raise as scikit-learn does where they are none."""
        checks = {"reset": False, "dtype": DTYPES, **checks}
        return np.asarray(validate_data(self, _on_cpu(X), **checks))

    def _table(self, rows: int) -> dict[str, Any]:
        """Return all settings, as `split_settings` takes them, for a fit to so many rows."""
        self._check_size()
        of_run = {
            "arch": self.arch,
            "features": self.features,
            "rows": min(2_000_000, EPOCHS * rows) if self.rows is None else self.rows,
            "batch_size": min(4096, -(-rows // 8)) if self.batch_size is None else self.batch_size,
            "seed": _seed(self.random_state),
        } | ({} if self.k is None else {"k": self.k})
        others = dict(self.settings or {})
        if twice := sorted(others.keys() & {*of_run, "k"}):
            raise SettingsError(
                f"settings hold {', '.join(twice)}; give SparseAutoencoder(...) that itself"
                f"{', seed as random_state' if 'seed' in twice else ''}."
            )
        return of_run | others

    def _check_size(self) -> None:
        """Raise where the architecture is not for rows of one site, or its own k is too large."""
        kind = architecture(self.arch)
        if self.arch in _OF_SEVERAL:
            raise SettingsError(
                f"a {self.arch} learns from rows of several sites, and SparseAutoencoder has those "
                "of one; choose another arch, or call probe_sae.train with a tuple of tensors."
            )
        own = getattr(kind, "k", None) if "k" in names_of(kind) else None
        if self.k is None and own is not None and own > self.features:
            raise SettingsError(
                f"k is {own:g}, the default of {self.arch}, but there are {self.features} "
                f"features; give k, between 1 and {self.features}."
            )

    def _on_device(self) -> SAE:
        """Return the dictionary where it is to be computed with; `sae_` stays on the CPU."""
        device = device_for(self.device)
        return self.sae_ if device.type == "cpu" else copy.deepcopy(self.sae_).to(device)


def _on_cpu(X: Any) -> Any:
    """Return what scikit-learn can validate: a tensor's numbers, half precision as float32."""
    if not isinstance(X, Tensor):
        kinds = getattr(X, "dtypes", getattr(X, "dtype", None))  # of a table, of an array
        return X.astype(np.float32) if kinds is not None and np.all(kinds == np.float16) else X
    rows = X.detach().cpu()
    return (rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows).numpy()


def _seed(random_state: int | np.random.RandomState | None) -> int:
    if isinstance(random_state, (int, np.integer)):
        return int(random_state)
    return int(check_random_state(random_state).randint(1 << 31))


def _tensor(rows: np.ndarray) -> Tensor:
    """Return rows as float32, in memory that may be written to."""
    return torch.from_numpy(np.require(rows, np.float32, ["C", "W"]))


def _chunks(rows: Any, sae: SAE) -> Iterator[Tensor]:
    """Yield some rows of an array or a CSR matrix at a time, where a dictionary is."""
    for first in range(0, rows.shape[0], CHUNK):
        some = rows[first : first + CHUNK]
        some = some.toarray() if sparse.issparse(some) else some
        yield _tensor(some).to(sae.input_scale.device)


def _csr(codes: SparseCodes, features: int) -> sparse.csr_matrix:
    """Return codes as a CSR matrix without zeros."""
    rows, places = (codes.values != 0).nonzero(as_tuple=True)
    columns, values = codes.indices[rows, places].cpu(), codes.values[rows, places].cpu()
    shape = (len(codes.values), features)
    matrix = sparse.csr_matrix((values.numpy(), (rows.cpu().numpy(), columns.numpy())), shape)
    matrix.sort_indices()
    return matrix
