"""The compiled kernels give what the plain formulas give, whatever rows and weights are like."""

import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from probe_sae.sae import selection, sparse
from probe_sae.sae.kernels import SparseCodes, cpu, cpu_keys, cpu_screens, kernels_for, reference
from probe_sae.sae.kernels import cpu_selecting as loops

from .kernel_samples import SUMS, sample


@pytest.fixture(params=["bfloat16", "bfloat16, weights as they are", "int8", "float32"])
def product(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With products in bfloat16 first, which every CPU can do slowly, in int8, and without."""
    kind = str(request.param)
    if kind == "int8" and not cpu_screens.multiplies_bytes():
        pytest.skip("this CPU's sums of products of bytes are not exact")
    monkeypatch.setattr(cpu_screens, "has_bfloat16", lambda: "bfloat16" in kind)
    monkeypatch.setattr(cpu_screens, "has_int8", lambda: kind == "int8")
    if "as they are" in kind:
        monkeypatch.setattr(cpu_screens, "_product_of_laid_out", lambda: None)
    return kind


@pytest.fixture(params=[cpu_screens.Bfloat16Screen, cpu_screens.Int8Screen])
def make(request: pytest.FixtureRequest) -> Callable[..., cpu_screens.Screen | None]:
    if request.param is cpu_screens.Int8Screen and not cpu_screens.multiplies_bytes():
        pytest.skip("this CPU's sums of products of bytes are not exact")
    return request.param.of


def dense(codes: SparseCodes, features: int) -> Tensor:
    return sparse.to_dense(codes, features)


def seen_through(screen: cpu_screens.Screen) -> Tensor:
    """Return all pre-activations as a screen shows them, in its units."""
    every = slice(0, len(screen.unit))
    return torch.from_numpy(screen.patterns(every)).view(torch.bfloat16).double()


def chosen(screen: cpu_screens.Screen, x: Tensor, W: Tensor, b: Tensor, k: int) -> SparseCodes:
    """Return what is chosen through a screen."""
    codes = SparseCodes(torch.zeros(len(x), k), torch.zeros(len(x), k, dtype=torch.int64))
    known = x.numpy(), W.numpy(), b.numpy(), screen.unit.numpy(), screen.reach.numpy()
    patterns = screen.patterns(slice(0, len(x)))
    loops.top_screened(patterns, *known, codes.values.numpy(), codes.indices.numpy())
    return codes


SIZES = [(40, 12, 50, 4), (300, 33, 129, 17), (600, 64, 1000, 32), (5, 3, 7, 7), (1, 1, 1, 1)]


@pytest.mark.parametrize(("rows", "d", "features", "k"), SIZES)
def test_the_largest_of_each_row_are_found(
    rows: int, d: int, features: int, k: int, product: str
) -> None:
    x, W, b = sample(rows, d, features)

    got, wanted = cpu.top(x, W, b, k), reference.top(x, W, b, k)

    assert got.values.shape == got.indices.shape == (rows, k)
    torch.testing.assert_close(dense(got, features), dense(wanted, features), rtol=1e-4, atol=1e-4)
    # every feature stands once in a row: nothing is counted twice
    assert all(len(set(row.tolist())) == k for row in got.indices)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 10_000),
    scale=st.floats(1e-6, 1e6),
    shift=st.floats(-4, 4),
    spread=st.floats(0, 4),
    k=st.integers(1, 60),
)
def test_a_screen_loses_nothing(
    make: Callable[..., cpu_screens.Screen | None],
    seed: int,
    scale: float,
    shift: float,
    spread: float,
    k: int,
) -> None:
    """Also where hardly anything is positive, nearly all is, or rows are tiny, huge or both."""
    x, W, b = sample(70, 24, 203, seed)
    lengths = 10 ** (spread * torch.rand(70, 1, generator=torch.Generator().manual_seed(seed)))
    x, b = x * scale * lengths, (b + shift) * scale
    screen = make(x, W, b)
    assume(screen is not None)
    assert screen is not None
    exact = x.double() @ W.double().T + b.double()
    in_units = exact / screen.unit[:, None]

    missed = (seen_through(screen) - in_units).abs()
    assert bool((missed <= screen.reach[:, None] + 2**-8 * in_units.abs() * 1.01).all())
    found = chosen(screen, x, W, b, k).values.double().sort(1, descending=True).values
    # what float32 itself can tell apart
    blur = 1e-5 * (scale + exact.abs().amax(1, keepdim=True))
    wanted = exact.topk(k).values.clamp_min(0)
    assert bool(((found - wanted).abs() <= blur + 1e-4 * wanted).all())


@pytest.mark.parametrize("bias", [127 * 127.0, 50 * 127.0 + 63])
def test_what_rounding_takes_from_biases_is_known(bias: float) -> None:
    """Rows and weights are whole numbers of units, so that nothing else is lost."""
    if not cpu_screens.multiplies_bytes():
        pytest.skip("this CPU's sums of products of bytes are not exact")
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-127, 128, (60, 8), generator=generator).float()
    W = torch.randint(-127, 128, (40, 8), generator=generator).float()
    x[:, 0] = W[:, 0] = 127
    unit = 127 / torch.linspace(20, 127, 60)
    b = torch.full((40,), 127 * 127.0)
    b[1:] = bias

    screen = cpu_screens.Int8Screen.of(x * unit[:, None], W, b)
    assert screen is not None
    found = screen.x.double() @ screen.weights.double().T
    missed = (found - (x.double() @ W.double().T + b / unit[:, None])).abs().amax(1)

    assert bool((missed <= screen.reach).all())
    assert float((missed / screen.reach).max()) > 0.5


def test_biases_that_dwarf_rows_are_left_to_float32() -> None:
    x, W, b = sample(70, 24, 203)

    assert cpu_screens.Int8Screen.of(x * 1e-4, W, b) is None
    assert cpu_screens.Int8Screen.of(x, W, b) is not None
    assert cpu_screens.Int8Screen.of(0 * x, W, 0 * b) is not None
    assert cpu_screens.Int8Screen.of(x[:0], W, b) is None


@pytest.mark.parametrize("size", [1e-24, 1e-22, 1e-15])
def test_rows_whose_squares_are_nothing_are_coded_as_others(size: float, product: str) -> None:
    _, W, b = sample(300, 33, 129)
    small = size * torch.randn(300, 33, generator=torch.Generator().manual_seed(1))

    got, wanted = cpu.top(small, W, 0 * b, 17), reference.top(small, W, 0 * b, 17)

    torch.testing.assert_close(
        dense(got, 129) / size, dense(wanted, 129) / size, rtol=1e-4, atol=1e-4
    )


def test_rows_too_wide_for_sums_of_32_bits_are_left_to_float32() -> None:
    wide = torch.ones(2, 140_000)

    assert cpu_screens.Int8Screen.of(wide, wide, torch.zeros(2)) is None


def test_keys_are_ordered_as_numbers_and_the_one_below_is_found() -> None:
    bits = np.arange(-32768, 32768).astype(np.int16)
    numbers = torch.from_numpy(bits.copy()).view(torch.bfloat16).float().numpy()
    cpu_keys.order(bits)
    number_of = dict(zip(bits.tolist(), numbers.tolist(), strict=True))
    values = torch.randn(2000, generator=torch.Generator().manual_seed(0)) ** 5

    for value in values.tolist():
        key = cpu_keys.key_below(np.float32(value), np.empty(1, np.float32))
        assert number_of[key] <= value < number_of[key + 1] or number_of[key] == value
    finite = [number_of[key] for key in sorted(number_of) if np.isfinite(number_of[key])]
    assert finite == sorted(finite)


@pytest.mark.parametrize("k", [3, 40, 90])
def test_what_cancels_is_found_although_a_screen_has_its_sign_wrong(
    make: Callable[..., cpu_screens.Screen | None], k: int
) -> None:
    """Rows and weights are long, their products short: rounding takes more than is left."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(300, 16, generator=generator)
    W = torch.randn(100, 16, generator=generator)
    x[:, 8:] = 40.0
    W[:, 8:] = torch.tensor([3.0, -3.0] * 4) + 0.01 * torch.randn(100, 8, generator=generator)
    b = torch.full((100,), -2.0)
    screen, exact = make(x, W, b), x @ W.T + b
    assert screen is not None
    assert float(((seen_through(screen) > 0) != (exact > 0)).float().mean()) > 0.01

    got = chosen(screen, x, W, b, k)

    wanted = exact.topk(k)
    torch.testing.assert_close(
        dense(got, 100),
        torch.zeros(300, 100).scatter(1, wanted.indices, wanted.values.clamp_min(0)),
        rtol=1e-4,
        atol=1e-3,
    )
    flat = cpu.over(x, W, b, torch.zeros(100))
    is_clear, mask = exact.abs() > 1e-3, torch.zeros_like(exact, dtype=torch.bool)
    mask[flat.rows, flat.features] = True
    assert torch.equal(mask & is_clear, (exact > 0) & is_clear)


def test_of_those_that_tie_as_many_are_kept_as_there_is_room_for(product: str) -> None:
    x, all_of, biases = sample(60, 12, 50)
    alike = torch.arange(400) % 8
    W, b = all_of[alike], biases[alike]

    got = cpu.top(x, W, b, 77)

    assert all(len(set(row.tolist())) == 77 for row in got.indices)
    wanted = (x @ W.T + b).topk(77).values.clamp_min(0)
    torch.testing.assert_close(got.values.sort(1, descending=True).values, wanted)


@pytest.mark.parametrize("part", ["rows", "weights", "biases"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number_is_seen_in_the_codes(part: str, wrong: float, product: str) -> None:
    """The trainer then stops and says so; nothing is read or written past its end."""
    x, W, b = sample(300, 33, 129)
    {"rows": x, "weights": W, "biases": b}[part][3] = wrong

    codes = cpu.top(x, W, b, 17)

    assert not bool(codes.values.isfinite().all())
    assert 0 <= int(codes.indices.min()) <= int(codes.indices.max()) < 129
    assert len(cpu.over(x, W, b, b + 1).rows) == len(reference.over(x, W, b, b + 1).rows)


@pytest.mark.parametrize("limit", [-1.0, 0.0, 0.7, 3.0, 1e9, float("inf")])
def test_all_over_their_limit_are_found(limit: float, product: str) -> None:
    x, W, b = sample(300, 33, 129)
    generator = torch.Generator().manual_seed(3)
    limits = limit + 0.1 * torch.rand(129, generator=generator)

    got, wanted = cpu.over(x, W, b, limits), reference.over(x, W, b, limits)

    # a value that is its limit to the last bits may be judged either way
    pre = x @ W.T + b
    is_clear = (pre - limits).abs() > 1e-4
    assert bool((got.rows.diff() >= 0).all())
    for found in (got, wanted):
        mask = torch.zeros_like(pre, dtype=torch.bool)
        mask[found.rows, found.features] = True
        assert int(mask.sum()) == len(found.rows)
        assert torch.equal(mask & is_clear, (pre > limits) & is_clear)
    torch.testing.assert_close(got.values, pre[got.rows, got.features], rtol=1e-4, atol=1e-4)


def test_more_firings_than_there_was_room_for_are_all_found(
    monkeypatch: pytest.MonkeyPatch, product: str
) -> None:
    monkeypatch.setattr(cpu, "ROOM", 1)
    x, W, b = sample(600, 12, 200)

    got = cpu.over(x, W, b, torch.full((200,), -1e30))

    assert len(got.rows) == 600 * 200


def test_products_are_float32_whatever_torch_is_told_to_multiply_in(product: str) -> None:
    """With one thread autocast reaches the loops' products; with several it does not."""
    x, W, b = sample(300, 33, 129)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    wanted = (*cpu.top(x, W, b, 17), *cpu.over(x, W, b, b.abs()))
    with torch.autocast("cpu", torch.bfloat16):
        got = (*cpu.top(x, W, b, 17), *cpu.over(x, W, b, b.abs()))
    torch.set_num_threads(before)

    assert all(torch.equal(mine, plain) for mine, plain in zip(got, wanted, strict=True))


@pytest.fixture
def firings() -> tuple[SparseCodes, Tensor, Tensor]:
    """Codes of which some are zero, whole rows and features too; weights of features; rows."""
    generator = torch.Generator().manual_seed(1)
    x, W, b = sample(700, 20, 90)
    codes = reference.top(x, W, b, 9)
    values = codes.values * (torch.rand(codes.values.shape, generator=generator) < 0.7)
    values[10] = 0
    values[codes.indices == 5] = 0
    return SparseCodes(values, codes.indices), W, x


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("threads", [1, 3])
def test_sums_over_firings_are_the_plain_ones(
    name: str, threads: int, firings: tuple[SparseCodes, Tensor, Tensor]
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = SUMS[name](cpu, *firings)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)

    wanted = SUMS[name](reference, *firings)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-3)


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    x, W, b = sample(2000, 64, 512)
    before, found = torch.get_num_threads(), list[list[Tensor]]()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        codes = cpu.top(x, W, b, 8)
        sums = [SUMS[name](cpu, codes, W, x) for name in SUMS]
        found.append([*codes, *cpu.over(x, W, b, b.abs()), *sums])
    torch.set_num_threads(before)

    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


def test_small_work_and_doubles_are_left_to_the_plain_formulas() -> None:
    large = torch.zeros(1 << 10, 1 << 10)

    assert kernels_for(large, 1 << 10) is cpu
    assert kernels_for(large, 1) is reference
    assert kernels_for(large.double(), 1 << 10) is reference


def test_gradients_of_a_large_step_are_those_of_the_dense_formula() -> None:
    x, W, b = sample(512, 64, 8192, seed=4)
    x = x / x.norm(dim=1, keepdim=True).clamp_min(1)
    parts = [W, b, W.flip(0).clone(), torch.randn(64, generator=torch.Generator().manual_seed(9))]
    for part in parts:
        part.requires_grad_()
    W_enc, b_enc, W_dec, b_dec = parts
    assert kernels_for(W_enc, len(x)) is cpu

    codes = sparse.encode(x, W_enc, b_enc, selection.BatchTopKSelect(5), b_dec)
    _, squared = sparse.squared_error(codes, W_dec, b_dec, x)
    got = torch.autograd.grad(squared, parts)

    mask = dense(codes, 8192).detach() != 0
    pre = ((x - b_dec) @ W_enc.T + b_enc) * mask
    wanted = torch.autograd.grad((pre @ W_dec + b_dec - x).square().sum(), parts)
    for mine, plain in zip(got, wanted, strict=True):
        scale = float(plain.abs().max())
        torch.testing.assert_close(mine, plain, rtol=1e-3, atol=1e-5 * scale)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX processes")
def test_a_forked_process_has_threads_of_its_own() -> None:
    code = """
import os, torch
from probe_sae.sae.kernels import cpu
torch.set_num_threads(2)
x = torch.randn(600, 8)
cpu.dots(cpu.top(x, x, x[:, 0], 3), x, x)
child = os.fork()
if not child:
    torch.set_num_threads(2)
    values, indices = (torch.ones(600, 3), torch.zeros(600, 3, dtype=torch.int64))
    os._exit(not bool((cpu.dots(cpu.SparseCodes(values, indices), x, x)[:, 0] == x @ x[0]).any()))
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], timeout=100)

    assert done.returncode == 0


@pytest.mark.parametrize("is_transposed", [False, True])
def test_lengths_are_kept_and_restored(is_transposed: bool) -> None:
    """Of more rows than one thread takes, one of them zero, also where memory is not in rows."""
    _, weights, _ = sample(2, 37, 2500)
    weights[7] = 0
    grad = torch.randn(2500, 37)
    if is_transposed:
        weights, grad = weights.T.contiguous().T, grad.T.contiguous().T
    directions, slopes, plain, plain_slopes = (t.clone() for t in (weights, grad, weights, grad))

    cpu.unit_rows(directions)
    reference.unit_rows(plain)
    cpu.keep_lengths(directions, slopes)
    reference.keep_lengths(plain, plain_slopes)

    torch.testing.assert_close(directions, plain)
    torch.testing.assert_close(slopes, plain_slopes)
    assert not directions[7].any()
    assert float((slopes * directions).sum(1).abs().max()) < 1e-5
