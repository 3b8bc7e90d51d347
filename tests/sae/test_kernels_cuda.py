"""The kernels for GPUs give what the plain formulas give: on a GPU, or in Triton's interpreter."""

import pytest
import torch
from torch import Tensor

from probe_sae.sae import selection, sparse
from probe_sae.sae.kernels import Flat, SparseCodes, reference

from .kernel_samples import SUMS, Sample
from .kernel_samples import sample as plain_sample

pytest.importorskip("triton")
from probe_sae.sae.kernels import cuda

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SCALE = 8 if DEVICE == "cuda" else 1
"""The interpreter takes a millisecond for what a GPU does in a microsecond."""


def sample(rows: int, d: int, features: int, seed: int = 0) -> Sample:
    """Return the sample where the kernels run."""
    x, W, b = plain_sample(rows, d, features, seed)
    return x.to(DEVICE), W.to(DEVICE), b.to(DEVICE)


def dense(codes: SparseCodes, features: int) -> Tensor:
    return sparse.to_dense(codes, features)


def exactly(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    return x.double() @ W.double().T + b.double()


SIZES = [(7, 33, 129, 17), (4, 300, 40, 5), (5, 3, 7, 7), (1, 1, 1, 1)]


@pytest.mark.parametrize(("rows", "d", "features", "k"), SIZES)
def test_the_largest_of_each_row_are_found(rows: int, d: int, features: int, k: int) -> None:
    x, W, b = sample(rows * SCALE, d, features)

    got = cuda.top(x, W, b, k)

    wanted = exactly(x, W, b).topk(k)
    assert got.values.shape == got.indices.shape == (len(x), k)
    assert all(len(set(row.tolist())) == k for row in got.indices)
    there = torch.zeros(len(x), features, dtype=torch.float64, device=DEVICE)
    there.scatter_(1, wanted.indices, wanted.values.clamp_min(0))
    torch.testing.assert_close(dense(got, features).double(), there, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("scale", "shift"), [(1e-12, 0.0), (1e12, 0.0), (1.0, -3.0), (1.0, 3.0)])
def test_rounding_to_float16_loses_nothing(scale: float, shift: float) -> None:
    """Also where hardly anything is positive, nearly all is, or rows are tiny or huge."""
    x, W, b = sample(5 * SCALE, 24, 103, seed=7)
    x, b = x * scale, (b + shift) * scale
    pre = exactly(x, W, b)

    for k in (1, 13):
        got = cuda.top(x, W, b, k).values.double().sort(1, descending=True).values

        blur = 1e-6 * scale * (1 + float(pre.abs().max()) / scale)
        torch.testing.assert_close(got, pre.topk(k).values.clamp_min(0), rtol=1e-4, atol=blur)


def test_what_cancels_is_found_although_float16_has_its_sign_wrong() -> None:
    """Rows and weights are long, their products short: rounding takes more than is left."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(10 * SCALE, 16, generator=generator).to(DEVICE)
    W = torch.randn(100, 16, generator=generator).to(DEVICE)
    x[:, 8:] = 400.0
    W[:, 8:] *= 0.001
    W[:, 8:] += torch.tensor([3.0, -3.0] * 4).to(DEVICE)
    b = torch.full((100,), -2.0, device=DEVICE)
    pre = exactly(x, W, b)
    rounded = (x.half() @ W.half().T + b.half()).double()
    assert float(((rounded > 0) != (pre > 0)).double().mean()) > 0.01

    got = cuda.top(x, W, b, 9)
    flat = cuda.over(x, W, b, torch.zeros(100, device=DEVICE))

    wanted = pre.topk(9)
    there = torch.zeros_like(pre).scatter(1, wanted.indices, wanted.values.clamp_min(0))
    torch.testing.assert_close(dense(got, 100).double(), there, rtol=1e-3, atol=2e-3)
    mask = torch.zeros_like(pre, dtype=torch.bool)
    mask[flat.rows, flat.features] = True
    is_clear = pre.abs() > 1e-2
    assert torch.equal(mask & is_clear, (pre > 0) & is_clear)


@pytest.mark.parametrize("k", [1, 3, 20])
def test_rows_where_more_may_decide_than_can_be_listed_are_right(k: int) -> None:
    """Zeros, and directions that are nearly alike, of which float16 cannot tell the largest."""
    x, W, b = sample(4, 12, 300, seed=1)
    x[0], b[:] = 0, 0.25
    noise = torch.randn(W.shape, generator=torch.Generator().manual_seed(2))
    alike = W[7] + 1e-6 * noise.to(DEVICE)
    assert _may_decide(x, alike, b, k) > cuda._power(2 * k + 64)

    got = cuda.top(x, alike, b, k)

    assert all(len(set(row.tolist())) == k for row in got.indices)
    assert bool((got.values.diff() <= 0).all())
    pre = exactly(x, alike, b)
    wanted = pre.topk(k).values.relu().float()
    torch.testing.assert_close(got.values, wanted, rtol=1e-5, atol=1e-5)
    there = pre.gather(1, got.indices).relu().float()
    torch.testing.assert_close(got.values, there, rtol=1e-5, atol=1e-5)
    assert torch.equal(got.indices[0].cpu(), torch.arange(k))  # all tie


def _may_decide(x: Tensor, W: Tensor, b: Tensor, k: int) -> int:
    """Return how many features of a row float16 does not tell from its k largest, at least."""
    pre = exactly(x, W, b)
    kth = pre.topk(k).values[:, -1:]
    return int((pre >= kth - kth.abs() * 2**-10).sum(1).min())


def test_more_than_candidates_are_listed_for_are_sorted_plainly() -> None:
    x, W, b = sample(6, 12, 400)

    got = cuda.top(x, W, b, 300)

    torch.testing.assert_close(dense(got, 400), dense(reference.top(x, W, b, 300), 400))


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy's, in the interpreter
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_seen_in_the_codes(wrong: float) -> None:
    x, W, b = sample(12, 33, 129)
    W[3] = wrong

    codes = cuda.top(x, W, b, 17)

    assert not bool(codes.values.isfinite().all())
    assert 0 <= int(codes.indices.min()) <= int(codes.indices.max()) < 129


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_row_that_is_no_number_spoils_no_other() -> None:
    x, W, b = sample(12, 33, 129)
    wanted = cuda.top(x, W, b, 5)
    x[2], x[5, 3] = float("inf"), float("nan")

    got = cuda.top(x, W, b, 5)

    others = [i for i in range(12) if i not in (2, 5)]
    assert torch.equal(got.indices[others], wanted.indices[others])
    assert torch.equal(got.values[others], wanted.values[others])


@pytest.mark.parametrize("limit", [-1.0, 0.7, 1e9, float("inf")])
def test_all_over_their_limit_are_found(limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "CHUNK_VALUES", 700)  # five rows at once
    x, W, b = sample(12 * SCALE, 33, 129)
    limits = limit + 0.1 * torch.rand(129, generator=torch.Generator().manual_seed(3)).to(DEVICE)

    got = cuda.over(x, W, b, limits)

    # a value that is its limit to the last bits may be judged either way
    pre = exactly(x, W, b)
    is_clear = (pre - limits).abs() > 1e-4
    mask = torch.zeros_like(pre, dtype=torch.bool)
    mask[got.rows, got.features] = True
    assert int(mask.sum()) == len(got.rows)
    assert bool((got.rows.diff() >= 0).all())
    assert torch.equal(mask & is_clear, (pre > limits) & is_clear)
    wanted = pre[got.rows, got.features].float()
    torch.testing.assert_close(got.values, wanted, rtol=1e-4, atol=1e-4)


def test_rows_in_pieces_are_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, W, b = sample(12, 12, 70)
    wanted = cuda.top(x, W, b, 4)
    monkeypatch.setattr(cuda, "CHUNK_VALUES", 300)

    got = cuda.top(x, W, b, 4)

    assert torch.equal(got.values, wanted.values)
    assert torch.equal(got.indices, wanted.indices)


@pytest.fixture
def firings() -> tuple[SparseCodes, Tensor, Tensor]:
    """Codes of which some are zero, whole rows and features too, and one feature nearly always."""
    generator = torch.Generator().manual_seed(1)
    x, W, b = sample(40, 20, 90)
    b[8] = 50
    codes = reference.top(x, W, b, 9)
    drawn = torch.rand(codes.values.shape, generator=generator).to(DEVICE)
    values = codes.values * (drawn < 0.7)
    values[10] = 0
    values[codes.indices == 5] = 0
    return SparseCodes(values, codes.indices), W, x


CASES = [*((name, 64) for name in SUMS), ("sums_by_feature", 4)]


@pytest.mark.parametrize(("name", "piece"), CASES)
def test_sums_over_firings_are_the_plain_ones(
    name: str,
    piece: int,
    firings: tuple[SparseCodes, Tensor, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda, "PIECE", piece)

    got = SUMS[name](cuda, *firings)

    torch.testing.assert_close(got, SUMS[name](reference, *firings), rtol=1e-4, atol=1e-3)
    assert torch.equal(got, SUMS[name](cuda, *firings))


def test_no_rows_give_nothing() -> None:
    x, W, b = sample(4, 12, 50)

    assert cuda.top(x[:0], W, b, 4).values.shape == (0, 4)
    assert isinstance(cuda.over(x[:0], W, b, b), Flat)
    codes = SparseCodes(x.new_zeros(0, 4), torch.zeros(0, 4, dtype=torch.int64, device=DEVICE))
    assert cuda.weighted_sums(codes, W).shape == (0, 12)
    assert cuda.dots(codes, W, x[:0]).shape == (0, 4)
    assert not bool(cuda.sums_by_feature(codes, codes.values, x[:0], torch.ones_like(W)).any())


def test_gradients_of_a_step_are_those_of_the_dense_formula(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (sparse, selection):
        monkeypatch.setattr(module, "kernels_for", lambda W, rows: cuda)
    x, W, b = sample(8 * SCALE, 24, 110, seed=4)
    x = x / x.norm(dim=1, keepdim=True).clamp_min(1)
    parts = [W, b, W.flip(0).clone(), x.mean(0)]
    for part in parts:
        part.requires_grad_()
    W_enc, b_enc, W_dec, b_dec = parts

    with torch.autocast(DEVICE, torch.bfloat16):  # rounds nothing here
        codes = sparse.encode(x, W_enc, b_enc, selection.BatchTopKSelect(5), b_dec)
        _, squared = sparse.squared_error(codes, W_dec, b_dec, x)
    got = torch.autograd.grad(squared, parts)

    mask = dense(codes, 110).detach() != 0
    assert int(mask.sum()) == 5 * len(x)
    pre = ((x - b_dec) @ W_enc.T + b_enc) * mask
    wanted = torch.autograd.grad((pre @ W_dec + b_dec - x).square().sum(), parts)
    for mine, plain in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-3, atol=1e-5 * float(plain.abs().max()))


def test_lengths_are_kept_and_restored() -> None:
    _, W, _ = sample(2, 37, 20)
    directions, grad = W.clone(), torch.randn(20, 37).to(DEVICE)
    plain, plain_grad = W.clone(), grad.clone()

    cuda.unit_rows(directions)
    reference.unit_rows(plain)
    cuda.keep_lengths(directions, grad)
    reference.keep_lengths(plain, plain_grad)

    torch.testing.assert_close(directions, plain)
    torch.testing.assert_close(grad, plain_grad)
    assert float((grad * directions).sum(1).abs().max()) < 1e-5
