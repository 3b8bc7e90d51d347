"""The streamed metrics equal their formulas, on data that break careless ones."""

import pytest
import torch

from probe_sae.errors import ShapeError
from probe_sae.sae import ReconstructionMeter, SparseCodes, fraction_unexplained


def exact(x: torch.Tensor, x_hat: torch.Tensor) -> float:
    """Return the fraction unexplained by its definition, at once, in float64."""
    x, x_hat = x.double(), x_hat.double()
    return float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum())


def data(offset: float = 0.0, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(1000, 6, generator=generator) + offset) * scale
    return x, x + 0.1 * scale * torch.randn(1000, 6, generator=generator)


def test_predicting_the_mean_explains_nothing() -> None:
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))

    assert fraction_unexplained(x, x.mean(0).expand_as(x)) == pytest.approx(1)


def test_a_perfect_reconstruction_leaves_nothing() -> None:
    x, _ = data()

    assert fraction_unexplained(x, x) == 0


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_uneven_batches_equal_the_whole_on_data_far_from_zero(offset: float, scale: float) -> None:
    x, x_hat = data(offset, scale)
    meter = ReconstructionMeter(0)
    for part, part_hat in zip(
        x.split([1, 500, 3, 496]), x_hat.split([1, 500, 3, 496]), strict=True
    ):
        meter.add(part, part_hat)

    assert meter.fraction_unexplained == pytest.approx(exact(x, x_hat), rel=1e-9)


def test_a_constant_error_is_seen() -> None:
    x, _ = data()

    assert fraction_unexplained(x, x + 3) > 5


def test_scaling_data_and_reconstruction_changes_nothing() -> None:
    x, x_hat = data()

    assert fraction_unexplained(x * 10, x_hat * 10) == pytest.approx(
        fraction_unexplained(x, x_hat), rel=1e-5
    )


def test_firings_are_counted_without_their_padding() -> None:
    meter = ReconstructionMeter(4)
    codes = SparseCodes(torch.tensor([[1.0, 0.0], [2.0, 3.0]]), torch.tensor([[0, 0], [0, 2]]))

    meter.add(torch.zeros(2, 3), torch.zeros(2, 3), codes)

    assert meter.l0 == 1.5
    assert meter.fired.tolist() == [2, 0, 1, 0]
    assert meter.dead_fraction == 0.5
    assert meter.dense_fraction == 0.5


def test_shapes_that_differ_are_an_error() -> None:
    with pytest.raises(ShapeError):
        fraction_unexplained(torch.zeros(3, 2), torch.zeros(3, 3))
