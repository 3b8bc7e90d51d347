"""Conformance: estimators, penalties and limits of single losses, many by hand.

Every check is one line of the table in `probe-sae guide conformance`.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from probe_sae.sae import Matryoshka
from probe_sae.sae.architectures.hierarchical_topk import _PrefixError
from probe_sae.sae.architectures.jumprelu import jump, step_count
from probe_sae.sae.architectures.kl import kl_divergence
from probe_sae.sae.architectures.target_l0 import follow

from .references import Problem, answer
from .test_conformance import (
    DEAD,
    DEEP,
    FEATURES,
    grads,
    numbers,
    prepared,
    same,
)


@pytest.mark.parametrize(
    ("pre", "by_code", "by_count"),
    [
        (0.85, 0.0, 0.0),
        (0.95, -5.0, -5.0),
        (1.05, -5.0, -5.0),
        (1.15, 0.0, 0.0),
    ],
    ids=["below the window", "in it, below", "in it, above", "above the window"],
)
def test_thresholds_learn_from_both_sides_of_their_window(
    pre: float, by_code: float, by_count: float
) -> None:
    """threshold 1, bandwidth 0.2: -(1 / 0.2) for the code and -1 / 0.2 for the count."""
    threshold = torch.ones(1, dtype=torch.float64, requires_grad=True)
    row = torch.tensor([[pre]], dtype=torch.float64, requires_grad=True)

    for_code = torch.autograd.grad(jump(row, threshold, 0.2).sum(), [row, threshold])
    for_count = torch.autograd.grad(step_count(row, threshold, 0.2), threshold)
    through = torch.autograd.grad(jump(row, threshold, 0.2, through=True).sum(), row)

    assert float(for_code[1]) == pytest.approx(by_code)
    assert float(for_code[0]) == float(pre > 1)
    assert float(for_count[0]) == pytest.approx(by_count)
    assert float(through[0]) == pytest.approx(float(pre > 1) - by_code)


def test_a_jumps_threshold_gradient_is_the_slope_of_its_mean_over_many_rows() -> None:
    """E[code] falls as the threshold passes through spread-out rows: what the window estimates."""
    count = 200_001
    pre = torch.linspace(0, 2, count, dtype=torch.float64)[:, None]
    threshold = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)

    (slope,) = torch.autograd.grad(jump(pre, threshold, 0.2).mean(), threshold)

    def mean(at: float) -> float:
        return float((pre * (pre > at)).mean())

    assert float(slope) == pytest.approx((mean(0.75) - mean(0.65)) / 0.1, rel=1e-3)


@pytest.mark.parametrize("penalty", ["target", "step", "tanh"])
def test_a_window_reaches_pre_activations_for_tanh_only(penalty: str) -> None:
    sae, rows = prepared("jumprelu, target", penalty=penalty)
    sae.get_buffer("bandwidth").fill_(1e-9)
    closed = grads(sae, sae.step(rows).loss)["W_enc"]
    sae.get_buffer("bandwidth").fill_(1.0)

    opened = grads(sae, sae.step(rows).loss)["W_enc"]

    assert bool((opened == closed).all()) == (penalty != "tanh")


def test_dead_features_are_drawn_up_to_their_thresholds_and_living_ones_left_alone() -> None:
    sae, rows = prepared("jumprelu, target")
    with torch.no_grad():
        sae.get_parameter("b_enc")[DEAD] = -50.0
    without = grads(sae, sae.step(rows).loss)
    with_term = grads(sae, sae.step(rows, numbers(DEAD)).loss)

    pulled = with_term["b_enc"] - without["b_enc"]
    size = 1e-3 / float(sae.variance) ** 0.5
    assert pulled[DEAD].tolist() == pytest.approx([-size] * len(DEAD), rel=1e-9)
    pulled[DEAD] = 0
    assert float(pulled.abs().max()) < 1e-15


@pytest.mark.parametrize("case", ["l1, fixed coefficient", "gated, fixed coefficient"])
def test_without_penalty_only_the_squared_error_is_left(case: str) -> None:
    """A fixed coefficient rises from 0: at the start there is none."""
    sae, rows = prepared(case)
    with torch.no_grad():
        if "gated" in case:  # magnitudes and gates agree: both errors are the same
            sae.get_parameter("r_mag").zero_()
            sae.get_parameter("b_mag").copy_(sae.get_parameter("b_enc"))
    step = sae.step(rows, None, 0.0)

    error = float((step.target - step.x_hat).detach().square().sum(1).mean() / sae.variance)
    assert float(step.loss.detach()) == pytest.approx(error * (1 + ("gated" in case)), rel=1e-12)


@pytest.mark.parametrize("values", [{}, DEEP | {"between": "relu"}])
def test_saying_less_along_longer_directions_is_no_way_around_the_penalty(
    values: dict[str, Any],
) -> None:
    sae, rows = prepared("l1", **values)
    before = sae.step(rows).loss
    with torch.no_grad():
        sae.get_parameter("W_enc").div_(3)
        sae.get_parameter("b_enc").div_(3)
        sae.get_parameter("W_dec").mul_(3)

    assert float(sae.step(rows).loss.detach()) == pytest.approx(float(before.detach()), rel=1e-12)


@pytest.mark.parametrize("case", ["l1, batch norm", "gated, batch norm", "jumprelu, batch norm"])
def test_saying_less_before_a_batch_norm_is_no_way_around_the_penalty(case: str) -> None:
    """One behind the features would give codes a tenth as strong the same reconstruction."""
    sae, rows = prepared(case)
    codes = answer(Problem.of(sae, rows)).codes

    strong, weak = (sae.decode(codes * share).detach().var(0).sum() for share in (1.0, 0.1))

    assert float(weak / strong) < 0.1


@pytest.mark.parametrize(("mean", "slope"), [(0.05, 0.0), (0.2, 0.9375), (0.01, -4.0404040404)])
def test_the_divergence_is_ngs_formula(mean: float, slope: float) -> None:
    """And its slope is -rho / mean + (1 - rho) / (1 - mean); both by hand."""
    rho = 0.05
    at = torch.tensor(mean, dtype=torch.float64, requires_grad=True)

    got = kl_divergence(rho, at)

    wanted = rho * math.log(rho / mean) + (1 - rho) * math.log((1 - rho) / (1 - mean))
    assert float(got.detach()) == pytest.approx(wanted, rel=1e-12, abs=1e-15)
    assert float(torch.autograd.grad(got, at)[0]) == pytest.approx(slope, abs=1e-9)


def test_the_divergence_of_features_that_never_or_always_fire_is_finite() -> None:
    mean = torch.tensor([0.0, 1e-30, 1.0], dtype=torch.float64, requires_grad=True)

    got = kl_divergence(0.05, mean)

    assert bool(got.isfinite().all())
    assert bool(torch.autograd.grad(got.sum(), mean)[0].isfinite().all())


def test_matryoshka_of_one_group_is_batchtopk() -> None:
    one, rows = prepared("matryoshka", groups=[1.0])
    whole, _ = prepared("batchtopk")
    whole.load_state_dict(one.state_dict())

    assert float(one.step(rows, numbers(DEAD)).loss.detach()) == pytest.approx(
        float(whole.step(rows, numbers(DEAD)).loss.detach()), rel=1e-12
    )


def test_batchtopk_is_topk_until_its_batches_choose() -> None:
    batched, rows = prepared("batchtopk", k=3, by_row=0.8)
    alone, _ = prepared("topk", k=3)
    alone.load_state_dict(batched.state_dict(), strict=False)
    wanted = float(alone.step(rows).loss.detach())

    early, late = (float(batched.step(rows, share=at).loss.detach()) for at in (0.79, 0.8))
    assert early == pytest.approx(wanted, rel=1e-12)
    assert late != pytest.approx(wanted, rel=1e-3)


def test_prefixes_of_matryoshka_are_the_shares_of_its_features() -> None:
    assert Matryoshka(features=64).sizes == (2, 6, 14, 30, 64)
    assert Matryoshka(features=4, k=2).sizes == (1, 2, 4)


def test_hierarchical_of_one_firing_is_topk() -> None:
    one, rows = prepared("hierarchical_topk", k=1)
    plain, _ = prepared("topk", k=1)
    plain.load_state_dict(one.state_dict())
    got, wanted = (sae.step(rows, numbers(DEAD)).loss for sae in (one, plain))

    assert float(got.detach()) == pytest.approx(float(wanted.detach()), rel=1e-12)
    by_one, by_plain = grads(one, got), grads(plain, wanted)
    assert all(same(by_one[name], by_plain[name], 1e-9) for name in by_plain)


def test_the_backward_pass_that_saves_memory_is_plain_autograd() -> None:
    """A feature may even come twice in a row."""
    generator = torch.Generator().manual_seed(0)
    indices = torch.randint(6, (9, 4), generator=generator)
    x, values, decoder = (
        torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((9, 5), (9, 4), (6, 5))
    )
    total = torch.zeros((), dtype=torch.float64)
    for j in range(1, 5):
        x_hat = (values[:, :j, None] * decoder[indices[:, :j]]).sum(1)
        total = total + (x - x_hat).square().sum() / 4
    wanted = torch.autograd.grad(3 * total, [x, values, decoder])

    got = _PrefixError.apply(x, values, indices, decoder)

    assert isinstance(got, Tensor)
    assert float(got.detach()) == pytest.approx(float(total.detach()), rel=1e-12)
    for mine, theirs in zip(
        torch.autograd.grad(3 * got, [x, values, decoder]), wanted, strict=True
    ):
        assert same(mine, theirs, 1e-12)


@pytest.mark.parametrize(("l0", "factor"), [(6.0, math.e**0.02), (3.0, 1.0), (0.0, math.e**-0.02)])
def test_a_coefficient_that_is_steered_rises_while_too_many_fire(l0: float, factor: float) -> None:
    coefficient = torch.tensor(0.4, dtype=torch.float64)

    follow(coefficient, l0, 3)

    assert float(coefficient) == pytest.approx(0.4 * factor, rel=1e-12)


def test_the_l1_penalty_of_a_crosscoder_adds_up_lengths_over_sites() -> None:
    """By loops in NumPy, from numbers alone."""
    sae, rows = prepared("crosscoder, l1")
    sae.get_buffer("coefficient").zero_()
    plain = float(sae.step(rows).loss.detach())
    sae.get_buffer("coefficient").fill_(1.0)
    x, scale = rows.numpy(), sae.input_scale.numpy()
    W_enc, b_enc, W_dec, b_dec = (
        sae.get_parameter(name).detach().numpy() for name in ("W_enc", "b_enc", "W_dec", "b_dec")
    )

    total = 0.0
    for row in x:
        for i in range(FEATURES):
            code = max(0.0, float(np.dot(W_enc[i], row * scale - b_dec) + b_enc[i]))
            total += code * float(np.linalg.norm(W_dec[i, :4]) + np.linalg.norm(W_dec[i, 4:]))
    total /= len(x) * float(sae.variance) ** 0.5

    assert float(sae.step(rows).loss.detach()) - plain == pytest.approx(total, rel=1e-10)
