"""How much of a dictionary that is known has been found again."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from probe_sae.errors import SettingsError
from probe_sae.recording.synthetic import World, truth_of
from probe_sae.sae import SAE, make_sae
from probe_sae.shown import Shown

FOUND = 0.9
"""Cosine over which a direction counts as found."""
_ROWS = 16_384
_BATCH = 2048


@dataclass(frozen=True, repr=False)
class Recovery(Shown):
    """What of a world's directions a dictionary has, measured on rows it has not seen."""

    mmcs: float
    """Mean over true directions of the largest cosine with a learned one."""
    mmcs_at_chance: float
    """The same of an untrained dictionary of the same sizes: what chance gives."""
    mcc: float
    """Mean absolute cosine of true and learned directions matched one to one (Hungarian method)."""
    recovered: float
    """Share of true directions with a cosine over 0.9 to that of a feature that fires."""
    precision: float
    """Share of the features that fire whose direction has a cosine over 0.9 to a true one."""
    f1: float
    """Harmonic mean of `recovered` and `precision`."""
    detection_f1: float
    """Mean over features of F1 as detectors of the true one whose direction is nearest; 0 for a
    feature that never fires. Source: SynthSAEBench's F1."""
    uniqueness: float
    """Share of features whose nearest true direction is nearest to no other feature before it."""
    l0: float
    """Mean number of features that fire on a row."""
    true_l0: float
    """Mean number of true ones that do."""
    dead_fraction: float
    """Share of features that fire on no row."""
    fraction_unexplained: float
    """Sum of squared errors over that of the rows' deviations from their mean."""


@torch.no_grad()
def recovery(sae: SAE, world: World, *, rows: int = _ROWS, seed: int = 1 << 40) -> Recovery:
    """Return how much of a world a dictionary has found.

    Args:
        sae: trained on the world's rows.
        world: where the truth is known.
        rows: on how many of them to measure.
        seed: of these rows, which no stream of the world draws.

    Raises:
        SettingsError: the dictionary is not for rows of this width, or reconstructs others.
    """
    width = world.settings.d_model
    if not sae.is_autoencoder or sae.d_model != width:
        raise SettingsError(
            f"{sae} does not reconstruct rows of width {width}, which this world has."
        )
    from scipy.optimize import linear_sum_assignment  # slow to import

    cosines = world.directions @ normalize(sae.directions().float(), dim=1).T
    nearest = cosines.argmax(0).numpy()
    seen = _measured(sae, world, rows, seed, nearest)
    alive = torch.from_numpy(seen.fired > 0)
    living = cosines[:, alive]
    recovered = _share(living.amax(1)) if bool(alive.any()) else 0.0
    precision = _share(living.amax(0)) if bool(alive.any()) else 0.0
    matched = linear_sum_assignment(cosines.abs().numpy(), maximize=True)
    generator = torch.Generator().manual_seed(seed % (1 << 31) + 1)
    untrained = make_sae(sae.settings, sae.widths, generator).directions()
    return Recovery(
        mmcs=float(cosines.amax(1).mean()),
        mmcs_at_chance=float((world.directions @ normalize(untrained, dim=1).T).amax(1).mean()),
        mcc=float(cosines.abs().numpy()[matched].mean()),
        recovered=recovered,
        precision=precision,
        f1=2 * recovered * precision / max(1e-12, recovered + precision),
        detection_f1=float((2 * seen.both / np.maximum(1, seen.fired + seen.true)).mean()),
        uniqueness=len(np.unique(nearest)) / sae.features,
        l0=float(seen.fired.sum()) / rows,
        true_l0=seen.true_firings / rows,
        dead_fraction=1 - float(alive.double().mean()),
        fraction_unexplained=seen.fraction_unexplained,
    )


@dataclass(frozen=True)
class _Measured:
    """Firings over some rows, [features] of each; `true` are of each one's nearest direction."""

    fired: NDArray[np.float64]
    true: NDArray[np.float64]
    both: NDArray[np.float64]
    true_firings: int
    fraction_unexplained: float


def _measured(
    sae: SAE, world: World, rows: int, seed: int, nearest: NDArray[np.int64]
) -> _Measured:
    """Count firings and errors over rows of a world."""
    fired, true, both = (np.zeros(sae.features) for _ in range(3))
    squared, powers, true_firings = 0.0, 0.0, 0
    sums = torch.zeros(world.settings.d_model, dtype=torch.float64)
    for start in range(0, rows, _BATCH):
        firings = world.firings(min(_BATCH, rows - start), seed + start)
        x = world.rows(firings, seed + start)
        codes = sae.encode(x)
        fires = sae.fires(codes).numpy()
        truth = truth_of(firings, world.settings.features)[:, nearest]
        fired += fires.sum(0)
        true += truth.sum(0)
        both += (fires & truth).sum(0)
        true_firings += len(firings.features)
        squared += float((x - sae.reconstruct(x, codes)).double().square().sum())
        sums += x.double().sum(0)
        powers += float(x.double().square().sum())
    deviations = powers - float(sums.square().sum()) / rows
    return _Measured(fired, true, both, true_firings, squared / deviations)


def _share(cosines: Tensor) -> float:
    return float((cosines > FOUND).double().mean())
