"""Conformance: matching pursuit, refinements, and directions that are mixtures of rows.

Every check is one line of the table in `probe-sae guide conformance`.
"""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor
from torch.nn.functional import normalize

from probe_sae.errors import SettingsError
from probe_sae.sae import OMP, SAE, LeaveOneOut, Lista
from probe_sae.sae.refine import refined
from probe_sae.sae.sparse import to_dense
from probe_sae.training import TrainSettings
from probe_sae.training.learner import Learner
from probe_sae.training.runs import Run

from .references import Problem, answer, chosen, pursuit
from .test_conformance import PLAIN, WIDTHS, prepared, same
from .test_conformance_codes import Rows, arrays, finished, raw

LINEAR = [case for case in PLAIN if case not in ("kl", "transcoder")]


def test_matching_pursuit_is_the_plain_loop() -> None:
    """Row by row, feature by feature, in plain numbers; a feature chosen twice is one entry."""
    sae, x = finished("matching_pursuit", features=5, k=5)
    scaled = x * sae.input_scale - sae.get_parameter("b_dec")
    codes, repeated = torch.zeros(len(x), 5, dtype=torch.float64), 0
    for n, row in enumerate(scaled):
        values, features, left = pursuit(row, sae.get_parameter("W_dec"), 5)
        for value, i in zip(values, features, strict=True):
            codes[n, i] += value
        repeated += len({i for v, i in zip(values, features, strict=True) if v}) < sum(
            v > 0 for v in values
        )
        assert same((x[n] - sae(x[n : n + 1])[0]) * sae.input_scale, left, 1e-9)

    sparse = sae.encode_sparse(x)

    assert repeated > 10
    assert same(sae.encode(x), codes, 1e-12)
    for values, indices in zip(sparse.values, sparse.indices, strict=True):
        firing = indices[values != 0].tolist()
        assert len(firing) == len(set(firing))


def test_more_rounds_of_matching_pursuit_never_leave_more() -> None:
    sae, x = finished("matching_pursuit", k=1)
    left = (x - sae(x)).square().sum(1)
    for k in range(2, 9):
        more, _ = finished("matching_pursuit", k=k)
        more.load_state_dict(sae.state_dict())
        before, left = left, (x - more(x)).square().sum(1)

        assert bool((left <= before * (1 + 1e-12)).all())


@pytest.mark.parametrize("arch", ["topk", "matching_pursuit", "omp"])
def test_orthogonal_directions_are_found_with_their_activations(arch: str) -> None:
    """Three ways to the same: where directions are at right angles, codes are products."""
    sae, x = finished("topk" if arch == "omp" else arch, features=6, k=3)
    axes = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(4)).double())
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(axes.Q) if name.startswith("W") else parameter.zero_()
    products = x * sae.input_scale @ axes.Q.T

    codes = sae.encode(x, OMP(3) if arch == "omp" else None)

    assert same(codes, products * chosen(products, 3, "rows"), 1e-6 if arch == "omp" else 1e-12)


def _omp_by_loops(row: Rows, directions: Rows, k: int) -> tuple[Rows, list[float]]:
    """Return the codes of one row and what each round leaves, with SciPy's least squares."""
    chosen_, left = list[int](), row
    codes, lefts = np.zeros(len(directions)), list[float]()
    for _ in range(k):
        products = [-np.inf if i in chosen_ else float(d @ left) for i, d in enumerate(directions)]
        chosen_.append(int(np.argmax(products)))
        values = nnls(directions[chosen_].T, row)[0]
        codes[:] = 0
        codes[chosen_] = values
        left = row - values @ directions[chosen_]
        lefts.append(float(left @ left))
    return codes, lefts


def _spread(features: int, spread: float, seed: int = 3) -> tuple[SAE, Tensor]:
    """Return a dictionary whose directions lie around one, and rows."""
    sae, x = finished("topk", features=features, k=3)
    around = torch.randn(features + 1, 6, generator=torch.Generator().manual_seed(seed)).double()
    sae.get_parameter("W_dec").copy_(normalize(around[0] + spread * around[1:], dim=1))
    return sae, x


@pytest.mark.parametrize(
    ("features", "spread", "k"),
    [(24, 1e9, 6), (12, 1e9, 3), (24, 0.1, 6)],
    ids=["wide", "narrow", "alike"],
)
def test_omp_is_the_non_negative_least_squares_of_its_features(
    features: int, spread: float, k: int
) -> None:
    sae, x = _spread(features, spread)
    scaled, directions, bias = arrays(
        x * sae.input_scale, sae.get_parameter("W_dec"), sae.get_parameter("b_dec")
    )

    codes = refined(sae, x, OMP(k))

    assert bool((codes.values >= 0).all())
    (got,) = arrays(to_dense(codes, features))
    for n, row in enumerate(scaled - bias):
        best = nnls(directions[codes.indices[n].numpy()].T, row)[1] ** 2
        error = float(np.sum((row - got[n] @ directions) ** 2))
        assert error <= best + 1e-9 * float(row @ row)
        wanted, lefts = _omp_by_loops(row, directions, k)
        assert error == pytest.approx(lefts[-1], abs=1e-6 * float(row @ row))
        assert np.allclose(got[n], wanted, atol=1e-3 * np.abs(wanted).max())


@pytest.mark.parametrize("spread", [1e9, 0.1], ids=["spread out", "alike"])
def test_the_error_of_omp_never_grows_with_k(spread: float) -> None:
    sae, x = _spread(24, spread)
    scaled = x * sae.input_scale - sae.get_parameter("b_dec")
    error = scaled.square().sum(1)
    for k in range(1, 7):
        codes = sae.encode(x, OMP(k))
        before, error = error, (scaled - codes @ sae.get_parameter("W_dec")).square().sum(1)

        assert bool((error <= before + 1e-6 * scaled.square().sum(1)).all())


def test_omp_is_never_worse_than_silence() -> None:
    for seed in range(30):
        sae, x = _spread(12, 1e9, seed)
        scaled = x * sae.input_scale - sae.get_parameter("b_dec")
        left = scaled - sae.encode(x, OMP(6)) @ sae.get_parameter("W_dec")

        assert bool((left.square().sum(1) <= scaled.square().sum(1)).all())


@pytest.mark.parametrize("case", [*LINEAR, "l1, deep", "kl"])
def test_lista_encodes_again_with_a_share_of_the_residual(case: str) -> None:
    sae, x = finished(case)
    moved = x
    for _ in range(2):
        x_hat = answer(Problem.of(sae, moved, running=True)).x_hat
        moved = x + 0.4 * (x - raw(sae, x_hat))

    codes = sae.encode(x, Lista(step=0.4, rounds=2))

    assert same(codes, answer(Problem.of(sae, moved, running=True)).codes, 1e-11)
    assert torch.equal(sae.encode(x, Lista(step=0.0)), sae.encode(x))


@pytest.mark.parametrize("case", LINEAR)
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_leave_one_out_keeps_what_it_says(case: str, threshold: float) -> None:
    """By loops: <r, d_i> + z_i |d_i|^2 over the threshold, r what the codes leave of the row."""
    sae, x = finished(case)
    decoder = sae.linear_decoder()
    assert decoder is not None
    codes, left, directions = arrays(sae.encode(x), (x - sae(x)) * sae.input_scale, decoder)
    wanted, dropped = codes.copy(), 0
    for n, i in zip(*codes.nonzero(), strict=True):
        d, z = directions[i], codes[n, i]
        best = float(left[n] @ d + z * (d @ d)) * np.sign(z)
        wanted[n, i] = z if best > threshold else 0.0
        dropped += best <= threshold

    assert np.array_equal(sae.encode(x, LeaveOneOut(threshold)).numpy(), wanted)
    assert dropped or not threshold


def test_leave_one_out_drops_what_would_be_better_at_zero() -> None:
    """Least squares of one activation, all others as they are: its sign decides."""
    sae, x = finished("topk", features=24, k=8)
    codes, scaled, directions, bias = arrays(
        sae.encode(x),
        x * sae.input_scale,
        sae.get_parameter("W_dec"),
        sae.get_parameter("b_dec"),
    )
    kept = sae.encode(x, LeaveOneOut()).numpy() != 0
    signs = list[bool]()
    for n, i in zip(*codes.nonzero(), strict=True):
        others = codes[n].copy()
        others[i] = 0
        rest = scaled[n] - bias - others @ directions
        signs.append(bool(np.linalg.lstsq(directions[i][:, None], rest)[0][0] > 0))
        assert kept[n, i] == signs[-1]

    assert len(set(signs)) == 2


@pytest.mark.parametrize("how", ["lista", "leave_one_out", "omp"])
def test_refining_raw_activations_is_refining_scaled_ones(how: str) -> None:
    for case in ("batchtopk", "crosscoder"):
        sae, x = finished(case)
        plain, _ = finished(case)
        plain.load_state_dict(sae.state_dict())
        plain.input_scale.fill_(1)

        assert same(sae.encode(x, how), plain.encode(x * sae.input_scale, how), 1e-9)


@pytest.mark.parametrize("how", ["lista", "leave_one_out", "omp"])
def test_a_transcoder_is_not_fitted_to_its_own_input(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WIDTHS, "transcoder", (6, 6))
    sae, x = finished("transcoder")

    with pytest.raises(SettingsError):
        sae.encode(x, how)


@pytest.mark.parametrize("delta", [0.0, 0.05])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_archetypal_directions_are_mixtures_of_rows_and_a_short_relaxation(
    delta: float, ema: float
) -> None:
    """Through training: W is not negative and sums to 1, the relaxation is at most delta long."""
    model, stream = prepared("archetypal", 300, delta=delta)
    trainer = TrainSettings(rows=30 * 50, batch_size=50, lr=0.05, ema=ema)
    rows, device = stream.float(), torch.device("cpu")
    learner = Learner(Run(model.settings, 0), (6,), rows, trainer, device)
    for step in range(30):
        learner.step(rows[step % 6 * 50 :][:50], step)
    sae = learner.finish(rows)
    weights, relaxation, points, W_dec, scaled = arrays(
        sae.get_parameter("mixture"),
        sae.get_parameter("relaxation"),
        sae.get_buffer("points"),
        sae.get_buffer("W_dec"),
        stream * sae.input_scale,
    )

    mixture = np.maximum(weights, 0) / np.maximum(weights, 0).sum(1, keepdims=True)
    assert bool((mixture >= 0).all())
    assert np.allclose(mixture.sum(1), 1)
    longest = float(np.linalg.norm(relaxation, axis=1).max())
    assert 0.5 * delta <= longest <= delta * (1 + 1e-6)
    made = mixture @ points + relaxation
    assert np.allclose(W_dec, made / np.linalg.norm(made, axis=1, keepdims=True), atol=1e-6)
    centred = scaled - scaled.mean(0)
    of_rows = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    assert min(float((of_rows @ point).max()) for point in points) > 1 - 1e-5
    if not delta:  # within the cone of the data
        assert max(nnls(points.T, direction)[1] for direction in W_dec) < 1e-6
