"""What a dictionary must be better than: nothing learned, or nothing sparse learned.

All are fitted on rows that the dictionary was trained on, and measured as it is. Source of the
random ones: "Sanity checks for sparse autoencoders" 2026, where they came close to trained ones.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from probe_sae.errors import SettingsError, ShapeError, StoreError
from probe_sae.evaluation.held_rows import check_same_sites
from probe_sae.progress import say
from probe_sae.sae import (
    OMP,
    SAE,
    BatchTopK,
    PlainSAE,
    Settings,
    SparseCodes,
    TopK,
    Transcoder,
    make_sae,
)
from probe_sae.sae.refine import refined
from probe_sae.store import SitesStream, StoreStream

FIT_ROWS = 65_536
"""Training rows from which the principal components are taken; fewer for long rows."""
SAMPLE_ROWS = 4096
"""Training rows from which untrained dictionaries take scale, mean and threshold."""
_WIDEST = 4096
"""Rows longer than this have too many principal components to find."""
_FIT_WORK, _PURSUIT_WORK = 1e11, 5e10
"""Multiplications that a fit and a pursuit may take, about 5 s on two cores each."""
_BATCH = 4096


class Codec(Protocol):
    """What is measured: gives codes of rows and reconstructions. A dictionary is one."""

    features: int

    def encode_sparse(self, x: Tensor) -> SparseCodes:
        """Return codes of rows, [rows, d_model]."""
        ...

    def reconstruct(self, x: Tensor, codes: SparseCodes) -> Tensor:
        """Return reconstructions, [rows, d_out]."""
        ...

    def fires(self, activations: Tensor) -> Tensor:
        """Return which activations are firings."""
        ...

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is encoded and what is to be reconstructed of rows."""
        ...


@dataclass(frozen=True)
class Baseline:
    """One of them, with what it costs."""

    codec: Codec
    most_rows: int = 1 << 62
    """Rows that it is measured on, if there are as many."""
    runs_in_host: bool = True
    """Whether the host's loss is measured with it."""

    def __call__(self, rows: Tensor) -> Tensor:
        """Return reconstructions of rows, [rows, width], which may be on another device."""
        scale = getattr(self.codec, "input_scale", None)
        x = rows.to(scale.device) if isinstance(scale, Tensor) else rows
        return self.codec.reconstruct(x, self.codec.encode_sparse(x)).to(rows)


class Constant:
    """The same for every row, with no features at all."""

    features = 0

    def __init__(self, sae: SAE, row: Tensor) -> None:
        """Take what to say, [d_out], and the dictionary that says of what."""
        self._sae, self._row = sae, row

    def encode_sparse(self, x: Tensor) -> SparseCodes:
        """Return no codes."""
        return SparseCodes(x.new_zeros(len(x), 0), x.new_zeros(len(x), 0).long())

    def reconstruct(self, x: Tensor, codes: SparseCodes) -> Tensor:
        """Return the row, [rows, d_out] float64."""
        return self._row.expand(len(x), -1)

    def fires(self, activations: Tensor) -> Tensor:
        """Return the firings, of which there are none."""
        return activations != 0

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the dictionary encodes and reconstructs."""
        return self._sae.split(rows)


class _OfRows:
    """What reconstructs the rows that it encodes."""

    features: int

    def fires(self, activations: Tensor) -> Tensor:
        """See `Codec`."""
        return activations != 0

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """See `Codec`."""
        return rows, rows


class Components(_OfRows):
    """The k strongest principal components of each row: as many numbers as the dictionary uses.

    Axes are orthogonal and so the k largest coefficients of a row are the best k of these axes.
    """

    def __init__(self, mean: Tensor, axes: Tensor, k: int) -> None:
        """Take a basis, [components, d_model] float64 with rows of length 1, and their mean."""
        self._mean, self._axes, self._k = mean, axes, min(k, len(axes))
        self.features = len(axes)

    def encode_sparse(self, x: Tensor) -> SparseCodes:
        """See `Codec`."""
        centred = (x.double() - self._mean.to(x.device)).to(x.dtype)
        every = centred @ self._axes.to(centred).T
        indices = every.abs().topk(self._k, 1).indices
        return SparseCodes(every.gather(1, indices), indices)

    def reconstruct(self, x: Tensor, codes: SparseCodes) -> Tensor:
        """See `Codec`."""
        dense = codes.values.new_zeros(len(x), self.features)
        dense.scatter_(1, codes.indices, codes.values)
        return (dense @ self._axes.to(dense) + self._mean.to(x.device)).to(x.dtype)


class Pursued(_OfRows):
    """Random directions, with the best codes that orthogonal matching pursuit finds."""

    def __init__(self, sae: SAE, k: int) -> None:
        """Take an untrained dictionary."""
        self._sae, self._how, self.features = sae, OMP(k), sae.features

    def encode_sparse(self, x: Tensor) -> SparseCodes:
        """See `Codec`."""
        return refined(self._sae, x, self._how)

    def reconstruct(self, x: Tensor, codes: SparseCodes) -> Tensor:
        """See `Codec`."""
        return self._sae.decode(codes)


@torch.no_grad()
def principal_components(
    batches: Iterable[Tensor], centre: Tensor, k: int, rows: int = FIT_ROWS
) -> Components:
    """Return the principal components of rows, [rows, d_model] a batch.

    The covariance is summed up in float64, batch by batch, of rows less `centre`, [d_model], so
    that a large mean costs no digits.

    Raises:
        StoreError: rows are not finite.
    """
    width = len(centre)
    scatter = torch.zeros(width, width, dtype=torch.float64)
    total, count = torch.zeros(width, dtype=torch.float64), 0
    for batch in batches:
        shifted = batch.double() - centre
        scatter.addmm_(shifted.T, shifted)
        total += shifted.sum(0)
        count += len(shifted)
        if count >= rows:
            break
    mean = total / count
    if not bool(scatter.isfinite().all()):
        raise StoreError(
            "rows that principal components are to be found of hold NaN or infinity, which a store "
            "does not take in: it is damaged. `probe-sae store verify` says more."
        )
    _, axes = torch.linalg.eigh(scatter / count - mean.outer(mean))
    return Components(centre + mean, axes.T.contiguous(), k)


@torch.no_grad()
def untrained(sae: SAE, sample: Tensor, seed: int) -> SAE:
    """Return a dictionary as one was before its training: same settings, other random numbers.

    It knows scale, mean and threshold of the rows, as any training does before its first step. Of
    another library's, whose training is not known, it is a BatchTopK of the same sizes and L0.
    """
    settings = _alike(sae, sample) if isinstance(sae, PlainSAE) else sae.settings
    fresh = make_sae(settings, sae.widths, torch.Generator().manual_seed(seed))
    fresh.initialise(sample, torch.Generator().manual_seed(seed))
    fresh.eval()
    fresh.finish(sample)
    return fresh.requires_grad_(False)


def _alike(sae: PlainSAE, sample: Tensor) -> Settings:
    """Return settings that could be trained, of the sizes and the mean L0 of a plain dictionary."""
    codes = sae.encode_sparse(sae.split(sample)[0])
    k = max(1e-3, float((codes.values != 0).sum()) / len(sample))
    if sae.is_autoencoder:
        return BatchTopK(sae.features, k=k)
    return Transcoder(sae.features, k=k, skip=sae.W_skip is not None)


@torch.no_grad()
def random_directions(sae: SAE, sample: Tensor, k: int, seed: int) -> Pursued:
    """Return as many random directions of length 1, whose codes are found by pursuit."""
    settings = TopK(features=sae.features, k=k)
    drawn = make_sae(settings, sae.d_model, torch.Generator().manual_seed(seed))
    drawn.initialise(sample, torch.Generator().manual_seed(seed))
    return Pursued(drawn.requires_grad_(False), k)


def baselines_of(
    sae: SAE, stream: StoreStream | SitesStream, centre: Tensor, l0: float, seed: int
) -> dict[str, Baseline]:
    """Return the baselines of a dictionary, but for the mean, which needs no codec.

    Args:
        sae: the dictionary.
        stream: rows that it was trained on.
        centre: near their mean, [d_model].
        l0: features that it fires on a row; baselines use as many numbers.
        seed: of what is random.
    """
    sample = stream.sample(SAMPLE_ROWS)
    found = {"untrained": Baseline(untrained(sae, sample, 1_000_003 + seed))}
    if not sae.is_autoencoder:
        say("pca and random directions are no baselines of a transcoder; it has the others.")
        return found
    k = max(1, min(round(l0), sae.features, sae.d_model))
    if sae.d_model > _WIDEST:
        say(f"rows of {sae.d_model} are too long for the baseline pca; it is left out.")
    else:
        rows = int(min(FIT_ROWS, max(4 * sae.d_model, _FIT_WORK / sae.d_model**2)))
        found["pca"] = Baseline(principal_components(stream.epoch(0, _BATCH), centre, k, rows))
    # Each choice of a pursuit looks at all features, and solves for those chosen before.
    work = k * (sae.features * sae.d_model + k**3)
    most = int(min(1024, max(128, _PURSUIT_WORK / work)))
    pursued = random_directions(sae, sample, k, 2_000_003 + seed)
    found["random"] = Baseline(pursued, most, runs_in_host=False)
    return found


def beside_of(sae: SAE, beside: Mapping[str, SAE] | None, taken: set[str]) -> dict[str, Baseline]:
    """Return the caller's own dictionaries as baselines.

    Raises:
        ShapeError: one takes other rows.
        SettingsError: it is of another site, or its name is a baseline's already.
    """
    found: dict[str, Baseline] = {}
    for name, other in (beside or {}).items():
        if other.widths != sae.widths or other.is_autoencoder != sae.is_autoencoder:
            raise ShapeError(
                f"{name!r} takes rows of {other.widths}, the dictionary beside it of {sae.widths}; "
                "compare dictionaries of the same sites."
            )
        check_same_sites(sae, other)
        if name in taken:
            raise SettingsError(f"{name!r} is the name of a baseline already; choose another.")
        found[name] = Baseline(other)
    return found
