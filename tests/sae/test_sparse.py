"""The sparse kernels equal the dense formulas: values, gradients, and finite differences."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from probe_sae.sae import selection, sparse
from probe_sae.sae.kernels import Flat, reference
from probe_sae.sae.selection import PreActivations
from probe_sae.sae.sparse import SparseCodes

ROWS, D_MODEL, FEATURES, K = 40, 12, 50, 4
Weights = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture
def weights() -> Weights:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        made = torch.randn(*shape, dtype=torch.float64, generator=generator)
        return made.requires_grad_()

    return (
        normal(ROWS, D_MODEL),
        normal(FEATURES, D_MODEL),
        normal(FEATURES),
        normal(FEATURES, D_MODEL),
    )


def _top_mask(pre: Tensor) -> Tensor:
    return torch.zeros_like(pre).scatter(1, pre.topk(K).indices, 1.0)


def _batch_mask(pre: Tensor) -> Tensor:
    return (pre >= pre.flatten().topk(K * ROWS).values[-1]).double()


SELECTIONS: list[tuple[selection.Select, Callable[[Tensor], Tensor]]] = [
    (partial(selection.top_k, k=K), _top_mask),
    (partial(selection.batch_top_k, k=K), _batch_mask),
]


@pytest.mark.parametrize(("select", "mask"), SELECTIONS)
def test_values_and_gradients_equal_the_dense_formula(
    weights: Weights, select: selection.Select, mask: Callable[[Tensor], Tensor]
) -> None:
    x, W_enc, b_enc, W_dec = weights
    codes = sparse.encode(x, W_enc, b_enc, select)
    loss = (sparse.decode(codes, W_dec) - x).pow(2).sum() + codes.values.pow(3).sum()
    grads = torch.autograd.grad(loss, weights)

    pre = x @ W_enc.T + b_enc
    dense = pre.relu() * mask(pre)
    expected = (dense @ W_dec - x).pow(2).sum() + dense.pow(3).sum()
    expected_grads = torch.autograd.grad(expected, weights)

    assert torch.allclose(sparse.to_dense(codes, FEATURES), dense)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    for got, wanted in zip(grads, expected_grads, strict=True):
        assert torch.allclose(got, wanted, rtol=1e-10, atol=1e-12)


def test_the_decoder_passes_the_finite_difference_test(weights: Weights) -> None:
    x, W_enc, b_enc, W_dec = weights
    with torch.no_grad():
        codes = sparse.encode(x, W_enc, b_enc, partial(selection.top_k, k=K))
    values = codes.values.clamp_min(0.1).requires_grad_()

    def decode(values: Tensor, W_dec: Tensor) -> Tensor:
        return sparse.decode(SparseCodes(values, codes.indices), W_dec)

    assert torch.autograd.gradcheck(decode, (values, W_dec))


def test_the_encoder_passes_the_finite_difference_test(weights: Weights) -> None:
    x, W_enc, b_enc, _ = weights

    def encode(x: Tensor, W_enc: Tensor, b_enc: Tensor) -> Tensor:
        codes = sparse.encode(x, W_enc, b_enc, partial(selection.top_k, k=K))
        return sparse.to_dense(codes, FEATURES)

    assert torch.autograd.gradcheck(encode, (x[:3], W_enc, b_enc), eps=1e-7, atol=1e-5)


def test_batch_top_k_is_exact_where_one_row_takes_nearly_all() -> None:
    x = torch.zeros(ROWS, FEATURES)
    x[0] = torch.arange(FEATURES) + 100.0
    x[1:, 0] = torch.arange(ROWS - 1) * 0.001 + 1
    pre = PreActivations(x, torch.eye(FEATURES), torch.zeros(FEATURES))

    codes = selection.batch_top_k(pre, k=1.3)

    assert int((codes.values > 0).sum()) == round(ROWS * 1.3)
    assert int((codes.values[0] > 0).sum()) == FEATURES


def test_batch_top_k_is_exact_where_the_first_rows_are_unlike_the_rest() -> None:
    """The guess comes from the first rows; here it is far too high, and then too low."""
    x = torch.rand(500, FEATURES, generator=torch.Generator().manual_seed(1))
    for scale in (100.0, 0.001):
        x[:100] = torch.rand(100, FEATURES, generator=torch.Generator().manual_seed(2)) * scale
        pre = PreActivations(x, torch.eye(FEATURES), torch.zeros(FEATURES))

        dense = sparse.to_dense(selection.batch_top_k(pre, k=3), FEATURES)

        lowest = x.flatten().sort(descending=True).values[1499]
        assert torch.equal(dense, x * (x >= lowest))


def test_a_batch_that_says_half_as_much_does_not_list_all_that_is_positive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All would be half of rows x features: 670 MB of a batch of 4,096 and 16,384 features."""
    x = torch.randn(400, 32, generator=torch.Generator().manual_seed(0))
    W = torch.randn(300, 32, generator=torch.Generator().manual_seed(1))
    select, listed = selection.BatchTopKSelect(4), list[int]()
    real = PreActivations.over

    def watched(self: PreActivations, limits: Tensor) -> Flat:
        found = real(self, limits)
        listed.append(len(found.values))
        return found

    monkeypatch.setattr(PreActivations, "over", watched)
    for scale in (1.0, 0.5, 0.25):
        codes = select(PreActivations(scale * x, W, torch.zeros(300)))
        assert int((codes.values > 0).sum()) == 1600

    assert max(listed) < 400 * 300 / 8


def test_above_finds_every_firing() -> None:
    x = torch.rand(ROWS, FEATURES, generator=torch.Generator().manual_seed(1))
    pre = PreActivations(x, torch.eye(FEATURES), torch.zeros(FEATURES))

    codes = selection.above(pre, threshold=0.5)

    assert torch.equal(sparse.to_dense(codes, FEATURES), x * (x >= 0.5))


def test_rows_in_chunks_equal_rows_at_once(
    monkeypatch: pytest.MonkeyPatch, weights: Weights
) -> None:
    x, W_enc, b_enc, _ = (w.detach() for w in weights)
    whole = PreActivations(x, W_enc, b_enc).top(K).values
    monkeypatch.setattr(reference, "CHUNK_ROWS", 7)

    parts = PreActivations(x, W_enc, b_enc).top(K).values

    assert torch.allclose(whole.sort().values, parts.sort().values)
