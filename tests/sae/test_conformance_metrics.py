"""Conformance: metrics of a reconstruction on data that break careless ones.

Every check is one line of the table in `probe-sae guide conformance`.
"""

import math

import pytest
import torch
from torch import Tensor

from probe_sae.sae import ReconstructionMeter, SparseCodes, TopK, fraction_unexplained

from .test_conformance_training import learning, world


def _hostile(rows: int = 1000, far: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return rows far from zero, each dimension elsewhere and of its own scale, and guesses."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.1, 1.0, 3.0, 10.0])
    offset = torch.tensor([1e4, -1e4, 3e3, 0.0]).double() * far
    x = (torch.randn(rows, 4, generator=generator) * spread).double() + offset
    return x, x + torch.randn(rows, 4, generator=generator).double() * spread * 0.3


def _exactly(x: Tensor, x_hat: Tensor) -> float:
    """Return the fraction unexplained in Python's exact sums."""
    errors, deviations = list[float](), list[float]()
    for column, guesses in zip(x.T.tolist(), x_hat.T.tolist(), strict=True):
        mean = math.fsum(column) / len(column)
        deviations += [(value - mean) ** 2 for value in column]
        errors += [(value - guess) ** 2 for value, guess in zip(column, guesses, strict=True)]
    return math.fsum(errors) / math.fsum(deviations)


def _in_batches(x: Tensor, x_hat: Tensor, sizes: list[int]) -> float:
    meter = ReconstructionMeter(0)
    for part, guess in zip(x.split(sizes), x_hat.split(sizes), strict=True):
        meter.add(part, guess)
    return meter.fraction_unexplained


@pytest.mark.parametrize("far", [1.0, 1000.0])
@pytest.mark.parametrize("sizes", [[1000], [1, 2, 3, 994], [250] * 4, [999, 1]])
def test_the_fraction_unexplained_is_exact_far_from_zero_and_in_uneven_batches(
    sizes: list[int], far: float
) -> None:
    x, x_hat = _hostile(far=far)

    assert _in_batches(x, x_hat, sizes) == pytest.approx(_exactly(x, x_hat), rel=1e-9)


def test_rows_in_the_order_of_their_size_are_the_same_rows() -> None:
    """Batches that differ in mean: averaging over batches would forget what lies between them."""
    x, x_hat = _hostile()
    order = x[:, 3].argsort()
    fractions = [
        fraction_unexplained(part, guess)
        for part, guess in zip(x[order].split(100), x_hat[order].split(100), strict=True)
    ]

    got = _in_batches(x[order], x_hat[order], [100] * 10)

    assert got == pytest.approx(_exactly(x, x_hat), rel=1e-9)
    assert sum(fractions) / 10 > 2 * got


@pytest.mark.parametrize("scale", [1e-3, 10.0, 1e6])
def test_the_unit_of_data_does_not_change_the_fraction_unexplained(scale: float) -> None:
    """Nor can it bring the share that is explained over 1."""
    x, x_hat = _hostile()

    got = fraction_unexplained(x * scale, x_hat * scale)

    assert got == pytest.approx(fraction_unexplained(x, x_hat), rel=1e-9)
    assert 0 < got < 1


def test_the_mean_of_each_dimension_explains_nothing_and_one_mean_for_all_far_less() -> None:
    """A centre common to all dimensions would count their offsets as variance that is explained."""
    x, _ = _hostile()

    assert fraction_unexplained(x, x.mean(0).expand_as(x)) == pytest.approx(1, rel=1e-9)
    assert fraction_unexplained(x, x.mean().expand_as(x)) > 1e4


def test_a_constant_error_counts_as_much_as_it_is() -> None:
    """bias^2 over variance is added, though the error does not vary at all."""
    x, _ = _hostile()
    variance = float(x.var(0, correction=0).sum())

    got = fraction_unexplained(x, x + 2)

    assert got == pytest.approx(4 * 4 / variance, rel=1e-9)


def test_rows_that_do_not_vary_have_no_fraction() -> None:
    x = torch.full((100, 3), 1e4 + 0.1)

    assert math.isnan(fraction_unexplained(x, x + 1))


def test_firings_dead_and_dense_features_are_those_of_a_loop() -> None:
    """Entries of value 0, chosen or padding, are no firings: 40 of 100 rows fire nothing."""
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(100, 9, generator=generator) - 1.5
    dense[:40] = -1
    dense[:, 4] = -1
    values, indices = dense.topk(5)
    codes = SparseCodes(values.relu(), indices)
    meter = ReconstructionMeter(9)
    for start in range(0, 100, 30):
        part = SparseCodes(codes.values[start : start + 30], codes.indices[start : start + 30])
        meter.add(torch.zeros(len(part.values), 2), torch.zeros(len(part.values), 2), part)

    counts = [sum(bool(row[i] > 0) for row in dense) for i in range(9)]
    assert int((codes.values > 0).sum()) == sum(counts) < 5 * 60
    assert meter.fired.tolist() == counts
    assert meter.l0 == sum(counts) / 100
    assert meter.dead_fraction == sum(count == 0 for count in counts) / 9 > 0
    assert meter.dense_fraction == sum(count > 10 for count in counts) / 9


def test_the_log_of_a_training_holds_the_numbers_of_its_batches() -> None:
    rows = world(2000).double()
    learner = learning(TopK(features=24, k=3), rows[:500], (8,))
    result = learner.step(rows[:500], 0)
    learner.note(result, 0, 500, 1.0)

    line = learner.log[-1]
    target, x_hat = result.target.detach(), result.x_hat.detach()
    assert line["fraction_unexplained"] == pytest.approx(_exactly(target, x_hat), rel=1e-9)
    assert line["loss"] == pytest.approx(float(result.loss.detach()), rel=1e-12)
    assert line["l0"] == float(result.fired.sum()) / 500
