"""Better codes from a trained dictionary, at the price of more work for each row."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from probe_sae.errors import SettingsError, near
from probe_sae.sae.sparse import SparseCodes

if TYPE_CHECKING:
    from probe_sae.sae.dictionary import SAE


@dataclass(frozen=True)
class Lista:
    """Encode again, with a share of what the first codes left added to the row.

    pre' = W_enc (x + step * (x - x_hat)) + b_enc: one step of a learned ISTA.
    Source: Gregor and LeCun 2010; as an SAE's: chanind 2025, SynthSAEBench.
    """

    step: float = 0.3
    """Share of the residual."""
    rounds: int = 1
    """How often."""


@dataclass(frozen=True)
class LeaveOneOut:
    """Drop firings without which the reconstruction is as good.

    Keeps feature i where <r, d_i> + z_i |d_i|^2 > threshold, r what the codes leave of the row:
    that is |d_i|^2 times the best activation of i if all others stay; of a negative one, its
    magnitude.
    """

    threshold: float = 0.0
    """In the units of codes."""


@dataclass(frozen=True)
class OMP:
    """Choose k features one by one, and fit all of them again after each choice.

    Orthogonal matching pursuit over the decoder's directions; activations are never negative.
    Source: Pati et al. 1993; non-negative: Bruckstein et al. 2008.
    """

    k: int = 32
    """Features of a row; all where there are fewer."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise SettingsError(f"k is {self.k}; expected at least 1.")


Refinement = Lista | LeaveOneOut | OMP
_BY_NAME: dict[str, Refinement] = {"lista": Lista(), "leave_one_out": LeaveOneOut(), "omp": OMP()}
_CHUNK_ROWS = 512


def refined(sae: "SAE", x: Tensor, how: Refinement | str) -> SparseCodes:
    """Return better codes of raw activations.

    Args:
        sae: the dictionary.
        x: raw activations, [rows, d_model].
        how: which refinement, or its name.

    Raises:
        SettingsError: there is no such refinement, or the dictionary's decoder is no matrix.
    """
    if isinstance(how, str):
        if how not in _BY_NAME:
            hint = near(how, _BY_NAME)
            raise SettingsError(f"no refinement {how!r}; there are {', '.join(_BY_NAME)}.{hint}")
        how = _BY_NAME[how]
        if isinstance(how, OMP):
            k = getattr(sae.settings, "k", how.k)
            how = replace(how, k=max(1, round(k)))
    if not isinstance(how, (Lista, LeaveOneOut, OMP)):  # pyright: ignore[reportUnnecessaryIsInstance]
        names = ", ".join(_BY_NAME)
        raise SettingsError(f"refine is {how!r}; expected Lista, LeaveOneOut, OMP, or {names}.")
    x = x.to(sae.input_scale.dtype)
    if not sae.is_autoencoder:
        raise SettingsError(
            "a transcoder's codes cannot be refined: what they are to reconstruct is not there."
        )
    if isinstance(how, Lista):
        codes = sae.encode_sparse(x)
        for _ in range(how.rounds):
            codes = sae.encode_sparse(x + how.step * (x - sae.reconstruct(x, codes)))
        return codes
    decoder = sae.linear_decoder()
    if decoder is None:
        raise SettingsError(
            f"{sae.settings.arch} with these settings has no matrix of directions to fit rows "
            "with; only `lista` refines it."
        )
    scale = sae.input_scale
    if isinstance(how, LeaveOneOut):
        codes = sae.encode_sparse(x)
        left = (x - sae.decode(codes)) * scale
        return _without_idle(codes, left, decoder, how.threshold)
    bias = sae.decode(torch.zeros(1, sae.features, device=scale.device, dtype=scale.dtype))
    wanted = (x - bias) * scale
    parts = [_omp(rows, decoder, min(how.k, sae.features)) for rows in wanted.split(_CHUNK_ROWS)]
    return SparseCodes(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _without_idle(
    codes: SparseCodes, left: Tensor, decoder: Tensor, threshold: float
) -> SparseCodes:
    """Return codes with those set to 0 whose best activation is not over the threshold."""
    values = codes.values.clone()
    for place in range(values.shape[1]):
        directions = decoder[codes.indices[:, place]]
        best = (left * directions).sum(1) + values[:, place] * directions.square().sum(1)
        kept = best * values[:, place].sign() > threshold
        values[:, place] = torch.where(kept, values[:, place], 0.0)
    return SparseCodes(values, codes.indices)


def _omp(x: Tensor, decoder: Tensor, k: int) -> SparseCodes:
    """Return k features of each row of `x`, [rows, d_out] without its bias."""
    rows = len(x)
    chosen = torch.zeros(rows, k, dtype=torch.int64, device=x.device)
    values, left = x.new_zeros(rows, k), x
    gram, towards = x.new_zeros(rows, k, k), x.new_zeros(rows, k)
    directions = x.new_zeros(rows, k, x.shape[1])
    for j in range(k):
        match = left @ decoder.T
        match.scatter_(1, chosen[:, :j], float("-inf"))
        chosen[:, j] = match.argmax(1)
        directions[:, j] = decoder[chosen[:, j]]
        products = torch.einsum("rd,rkd->rk", directions[:, j], directions[:, : j + 1])
        gram[:, j, : j + 1] = gram[:, : j + 1, j] = products
        towards[:, j] = (directions[:, j] * x).sum(1)
        _fit(gram, towards, values, j + 1)
        left = x - torch.einsum("rk,rkd->rd", values[:, : j + 1], directions[:, : j + 1])
    return SparseCodes(values, chosen)


def _fit(gram: Tensor, towards: Tensor, values: Tensor, count: int) -> None:
    """Fit the first values of each row, none negative, in place; the last is new.

    An active set, for all rows at once. Source: Lawson and Hanson 1974, "Solving least squares
    problems", chapter 23.
    """
    inner, goal = gram[:, :count, :count], towards[:, :count]
    fitted = values[:, :count].clone()
    active = fitted > 0
    active[:, -1] = goal[:, -1] > (inner[:, -1] * fitted).sum(1)
    todo = torch.arange(len(fitted), device=fitted.device)
    for _ in range(3 * count + 3):
        mine = active[todo]
        exact = _solved(inner[todo], goal[todo], mine)
        is_outside = mine & (exact <= 0)
        now = fitted[todo]
        # How far the way to the exact solution leads before a value becomes negative.
        share = torch.where(is_outside, now / (now - exact).clamp_min(1e-30), 1.0).amin(1)
        now = (now + share[:, None] * (exact - now)).clamp_min(0.0)
        mine = mine & ~(is_outside & (now <= 1e-12))
        now = torch.where(mine, now, 0.0)
        slope = goal[todo] - (inner[todo] @ now[:, :, None])[:, :, 0]
        wanted = torch.where(mine, -torch.inf, slope)
        best, which = wanted.max(1)
        arrived = ~is_outside.any(1)
        grows = arrived & (best > 1e-6 * goal[todo].abs().amax(1))
        mine[grows.nonzero()[:, 0], which[grows]] = True
        fitted[todo], active[todo] = now, mine
        todo = todo[~arrived | grows]
        if not len(todo):
            break
    values[:, :count] = fitted


def _solved(inner: Tensor, goal: Tensor, active: Tensor) -> Tensor:
    """Return the least squares of each row over its active features; 0 for the others."""
    both = active[:, :, None] & active[:, None, :]
    identity = torch.eye(inner.shape[1], dtype=inner.dtype, device=inner.device)
    ridge = 10 * torch.finfo(inner.dtype).eps * identity
    system = torch.where(both, inner, 0.0) + torch.where(active[:, :, None], ridge, identity)
    return torch.linalg.solve(system, torch.where(active, goal, 0.0))
