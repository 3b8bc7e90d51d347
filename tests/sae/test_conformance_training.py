"""Conformance: updates, running averages, resampling, frozen halves, precision.

Every check is one line of the table in `probe-sae guide conformance`. That interrupts change no bit
is proven in `tests/training/test_resume.py`.
"""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from probe_sae.sae import (
    KL,
    L1,
    SAE,
    FrozenDecoder,
    FrozenEncoder,
    Gated,
    JumpReLU,
    Settings,
    TopK,
    fraction_unexplained,
)
from probe_sae.sae.resampling import resample
from probe_sae.training import TrainSettings, train
from probe_sae.training.learner import Learner
from probe_sae.training.runs import Run

from .references import Named, Problem, adam, gradients
from .test_conformance import CASES, EVERY, prepared, same

CPU = torch.device("cpu")
UNIT = [
    case
    for case in EVERY
    if CASES[case][0] not in ("l1", "kl", "archetypal", "frozen_decoder")
    and "tanh" not in case
    and case not in ("crosscoder, l1", "jumprelu, deep")
] + ["l1, unit norm"]
"""Those that keep the rows of W_dec at length 1 while they train."""


def learning(
    settings: Settings, rows: Tensor, widths: tuple[int, ...] = (6,), **values: Any
) -> Learner:
    """Return a learner in float64."""
    wanted: dict[str, Any] = {"rows": 10 * len(rows), "batch_size": len(rows)} | values
    learner = Learner(Run(settings, 0), widths, rows.float(), TrainSettings(**wanted), CPU)
    learner.sae.double()
    learner._average = {name: tensor.double() for name, tensor in learner._average.items()}
    return learner


def weights(sae: SAE) -> Named:
    return {name: p.detach().clone() for name, p in sae.named_parameters()}


def world(rows: int = 4000, seed: int = 0) -> Tensor:
    """Return sparse sums of 20 directions in 8 dimensions."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(20, 8, generator=generator)
    amounts = torch.rand(rows, 20, generator=generator)
    return (amounts * (torch.rand(rows, 20, generator=generator) < 0.1)) @ directions * 5 + 2


def _updates(order: str, sae: SAE, batches: list[Tensor], rate: float) -> Named:
    """Return weights after Adam, with gradients projected and clipped to 0.1 in some order."""
    now, past = weights(sae), list[Named]()
    for batch in batches:
        sae.load_state_dict(now, strict=False)
        grad = gradients(Problem.of(sae, batch))
        for what in order.split():
            if what == "project":
                along = (grad["W_dec"] * now["W_dec"]).sum(1, keepdim=True)
                grad["W_dec"] = grad["W_dec"] - along * now["W_dec"]
            if what == "clip":
                norm = math.sqrt(sum(float(g.square().sum()) for g in grad.values()))
                grad = {name: g * min(1.0, 0.1 / norm) for name, g in grad.items()}
        past.append(grad)
        for name in now:
            now[name] = now[name] + adam([grads[name] for grads in past], rate, sae.settings.betas)
        if "unit" in order:
            now["W_dec"] = now["W_dec"] / now["W_dec"].norm(dim=1, keepdim=True)
    return now


def test_gradients_are_projected_before_they_are_clipped_and_directions_scaled_last() -> None:
    """Plain Adam over three batches; every other order ends elsewhere."""
    _, rows = prepared("topk", 60)
    settings = TopK(features=12, k=3, aux_coefficient=0)
    learner = learning(settings, rows, clip=0.1, lr=0.02, warm_up=0.0, decay=0.0)
    with torch.no_grad():
        learner.sae.get_parameter("W_enc").mul_(3)  # the gradient is mostly along W_dec at first
    batches = [rows[:20] * 3, rows[20:40], rows[40:]]
    other = learning(settings, rows).sae
    ends: dict[str, Named] = {}
    for order in ("project clip unit", "clip project unit", "clip unit", "project clip"):
        other.load_state_dict(learner.sae.state_dict())
        ends[order] = _updates(order, other, batches, 0.02)

    for step, batch in enumerate(batches):
        learner.step(batch, step)

    right = ends.pop("project clip unit")
    for name, weight in weights(learner.sae).items():
        assert same(weight, right[name], 1e-6), name  # torch adds 1e-6 to the norm it clips by
    for order, wrong in ends.items():
        away = float((wrong["W_dec"] - right["W_dec"]).abs().max())
        assert away > 1e-4, order


def test_clipping_sees_the_norm_of_all_parameters_together() -> None:
    """Those that learn at another rate are no group of their own to it."""
    _, rows = prepared("jumprelu, target", 60)
    learner = learning(JumpReLU(features=12, k=3), rows, clip=1e-3)
    learner.step(rows, 0)

    grads = [p.grad for p in learner.sae.parameters() if p.grad is not None]

    assert len(learner._optimiser.param_groups) == 2
    assert sum(float(g.square().sum()) for g in grads) == pytest.approx(1e-6, rel=1e-4)


def test_thresholds_learn_ten_times_as_fast() -> None:
    """Adam's first step moves each number by its rate, whatever the gradient is."""
    _, rows = prepared("jumprelu, target", 60)
    settings = JumpReLU(features=12, k=3, bandwidth=5.0)
    learner = learning(settings, rows, lr=1e-4, warm_up=0.0, decay=0.0, clip=0.0)
    before = weights(learner.sae)
    learner.step(rows, 0)
    moved = {
        name: float((weight - before[name]).abs().median())
        for name, weight in weights(learner.sae).items()
    }

    assert moved["threshold"] == pytest.approx(1e-3, rel=1e-3)
    assert moved["b_enc"] == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("case", UNIT)
def test_the_decoder_that_is_returned_has_directions_of_length_one(case: str, ema: float) -> None:
    """After the last update, and after averaging, not before."""
    sae, rows = prepared(case, 200)
    parts = tuple(rows.float().split(list(sae.widths), 1))
    trainer = TrainSettings(rows=1000, batch_size=100, lr=0.03, ema=ema, decay=0.0)

    trained = train(parts, sae.settings, trainer, device="cpu")

    lengths = trained.get_parameter("W_dec").norm(dim=1)
    assert torch.allclose(lengths, torch.ones_like(lengths), atol=1e-6)


def test_a_chosen_feature_of_activation_zero_counts_as_silent() -> None:
    """Top-k has to choose k of them; those that say nothing come nearer to being dead."""
    _, rows = prepared("topk", 60)
    learner = learning(TopK(features=12, k=12), rows, lr=1e-9)
    with torch.no_grad():
        learner.sae.get_parameter("b_enc")[[2, 7]] = -1e6
    for step in range(3):
        learner.step(rows, step)

    assert learner._silent.nonzero().flatten().tolist() == [2, 7]
    assert learner._silent[[2, 7]].tolist() == [180, 180]


def test_the_average_of_weights_is_its_recurrence() -> None:
    """a <- a + (1 - decay) (w - a), with decay = min(ema, (1 + n) / (10 + n)) at step n."""
    _, rows = prepared("topk", 60)
    learner = learning(TopK(features=12, k=3), rows, ema=0.4, lr=0.01)
    wanted = weights(learner.sae)
    for step in range(10):
        learner.step(rows, step)
        decay = min(0.4, (1 + step) / (10 + step))
        for name, weight in weights(learner.sae).items():
            wanted[name] = decay * wanted[name] + (1 - decay) * weight
    last = weights(learner.sae)

    returned = weights(learner.finish(rows))

    wanted["W_dec"] = wanted["W_dec"] / wanted["W_dec"].norm(dim=1, keepdim=True)
    for name, weight in returned.items():
        assert same(weight, wanted[name], 1e-9), name
        assert not same(weight, last[name], 1e-4), name


def test_running_statistics_belong_to_the_weights_that_are_averaged() -> None:
    """With them, the dictionary is about as good as with the statistics of the rows themselves."""
    rows = world(20_000)
    settings = KL(features=24, hidden=(16,), batch_norm=True)
    trainer = TrainSettings(rows=100_000, batch_size=256, ema=0.99, lr=0.02, held_out=0.5)
    sae = train(rows, settings, trainer, device="cpu")

    as_returned = fraction_unexplained(rows, sae(rows))
    by_batch = fraction_unexplained(rows, sae.train()(rows))

    assert as_returned < 1.5 * by_batch


def test_a_last_unseen_row_that_comes_alone_is_no_error() -> None:
    settings = KL(features=24, hidden=(16,), batch_norm=True)
    trainer = TrainSettings(rows=1000, batch_size=256, ema=0.9)
    sae = train(world(2570), settings, trainer, device="cpu")  # 257 of which are unseen

    assert bool(sae(world(9)).isfinite().all())


@pytest.mark.parametrize("kind", [L1, Gated])
def test_resampling_changes_dead_features_and_no_others(kind: Any) -> None:
    _, rows = prepared("l1", 60)
    learner = learning(kind(features=12, k=3), rows)
    before = weights(learner.sae)
    dead = torch.tensor([2, 9])

    assert "W_dec" in learner.sae.resample(rows, dead, torch.Generator().manual_seed(0))

    for name, weight in weights(learner.sae).items():
        changed = (weight != before[name]).nonzero()[:, 0].unique().tolist()
        if name.startswith("W"):
            assert changed == [2, 9]
        elif len(weight) == 12:
            assert set(changed) <= {2, 9}
            assert weight[dead].tolist() == [0, 0]
        else:
            assert not changed


def test_resampled_features_point_at_rows_and_are_as_long_as_they_should_be() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = (9, 6), (9,), (9, 6), (5, 6)
    W_enc, b_enc, W_dec, x = (torch.randn(*s, generator=generator).double() for s in shapes)
    error = torch.tensor([0.0, 0.0, 7.0, 0.0, 0.0]).double()
    living = [i for i in range(9) if i not in (1, 4)]

    resample((W_enc, b_enc, W_dec), x, error, torch.tensor([1, 4]), generator)

    row = x[2] / x[2].norm()
    for dead in (1, 4):
        length = W_enc[dead].norm()
        assert length <= 0.2 * W_enc[living].norm(dim=1).mean()
        assert same(W_enc[dead], row * length, 1e-12)
        assert same(W_dec[dead], row * W_dec[living].norm(dim=1).mean(), 1e-12)
        assert b_enc[dead] == 0
    added = ((x @ W_enc[[1, 4]].T).clamp(min=0) @ W_dec[[1, 4]]).norm(dim=1) / x.norm(dim=1)
    assert float(added.max()) == pytest.approx(0.2)


def test_one_resampled_feature_is_a_fifth_as_long_as_the_living() -> None:
    generator = torch.Generator().manual_seed(0)
    W_enc = normalize(torch.randn(9, 6, generator=generator), dim=1).double()
    W_dec, b_enc, x = W_enc.clone(), torch.zeros(9).double(), torch.eye(6).double()

    resample((W_enc, b_enc, W_dec), x, torch.ones(6).double(), torch.tensor([3]), generator)

    assert float(W_enc[3].norm()) == pytest.approx(0.2)
    assert float(W_dec[3].norm()) == pytest.approx(1)


def test_rows_are_drawn_by_their_squared_loss() -> None:
    """Losses of 1, 2 and 3 draw features as 1 : 4 : 9; a row without loss draws none."""
    count, x = 14_000, torch.eye(4).double()
    shapes = (count + 1, 4), (count + 1,), (count + 1, 4)
    parts = [torch.ones(*shape).double() for shape in shapes]
    error = torch.tensor([1.0, 2.0, 3.0, 0.0]).double()
    generator = torch.Generator().manual_seed(0)

    resample((parts[0], parts[1], parts[2]), x, error, torch.arange(count), generator)

    drawn = Counter(parts[2][:count].argmax(1).tolist())
    assert [drawn[i] / 1000 for i in range(4)] == pytest.approx([1, 4, 9, 0], rel=0.05)


def _with_dead(settings: Settings, rows: Tensor, dead: list[int], **values: Any) -> Learner:
    """Return a learner after five steps, since two of which some features are silent."""
    learner = learning(settings, rows, (rows.shape[1],), dead_after=10**9, **values)
    for step in range(5):
        if step == 3:
            learner.sae.get_parameter("b_enc").data[dead] = -1e6
        learner.step(rows, step)
    learner._silent.zero_()
    learner._silent[dead] = 10**9
    return learner


@pytest.mark.parametrize("settings", [L1(features=24, k=3), Gated(features=24, k=3)])
def test_resampled_features_forget_adams_moments_and_only_they(settings: Settings) -> None:
    rows = world(400).double()
    learner = _with_dead(settings, rows, [2, 9])
    living = [i for i in range(24) if i not in (2, 9)]
    moments = {
        (name, which): learner._optimiser.state[p][which]
        for name, p in learner.sae.named_parameters()
        for which in ("exp_avg", "exp_avg_sq")
    }
    before = {key: moment.clone() for key, moment in moments.items()}

    learner._resample(rows, 4)

    for (name, which), moment in moments.items():
        kept = living if len(moment) == 24 else list(range(len(moment)))
        assert torch.equal(moment[kept], before[name, which][kept]), name
        if len(moment) == 24:
            assert float(before[name, "exp_avg_sq"][[2, 9]].max()) > 0
            assert float(moment[[2, 9]].abs().max()) == 0
    assert learner._silent.tolist() == [0] * 24


def test_resampling_leaves_moments_of_the_bias_alone() -> None:
    rows = world(400).double()
    learner = _with_dead(L1(features=8, k=3), rows, [2])
    moment = learner._optimiser.state[learner.sae.get_parameter("b_dec")]["exp_avg"]
    before = moment.clone()

    learner._resample(rows, 4)

    assert torch.equal(moment, before)


@pytest.mark.parametrize("settings", [L1(features=24, k=8), Gated(features=24, k=8)])
def test_rows_that_dead_features_begin_anew_at_are_explained_better_soon(
    settings: Settings,
) -> None:
    """Half of the features are dead; a twin in which they stay so shows what they are worth."""
    rows, dead = world(400).double(), list(range(12))
    begun, stays = (_with_dead(settings, rows, dead, lr=0.01) for _ in range(2))
    error = (rows - begun.sae(rows)).detach().square().sum(1)
    worst = error.topk(40).indices
    begun._resample(rows, 4)
    left: list[float] = []
    for learner in (begun, stays):
        learner._trainer = TrainSettings(
            rows=400 * 1000, batch_size=400, lr=0.01, dead_after=10**12
        )
        for step in range(100, 200):
            learner.step(rows, step)
        left.append(float((rows - learner.sae(rows)).detach()[worst].square().sum()))

    assert left[0] < 0.1 * float(error[worst].sum())
    assert left[0] < 0.7 * left[1]


@pytest.mark.parametrize(
    ("settings", "frozen"),
    [
        (FrozenDecoder(features=24, k=3), {"W_dec"}),
        (FrozenEncoder(features=24, k=3), {"W_enc", "b_enc"}),
    ],
    ids=["decoder", "encoder"],
)
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_frozen_half_keeps_every_bit_and_the_other_learns(
    settings: Settings, frozen: set[str], ema: float
) -> None:
    rows = world()
    trainer = TrainSettings(rows=20_000, batch_size=200, ema=ema)
    learner = Learner(Run(settings, 0), (8,), rows, trainer, CPU)
    before = weights(learner.sae)
    for step in range(100):
        learner.step(rows[step * 37 % 3000 :][:200], step)

    after = weights(learner.finish(rows))

    kept = {name for name, weight in after.items() if torch.equal(weight, before[name])}
    assert kept == frozen


def test_a_frozen_encoder_fires_as_it_was_drawn() -> None:
    rows = world().double()
    learner = learning(FrozenEncoder(features=24, k=3), rows, (8,))
    before = learner.sae.encode(rows)
    for step in range(10):
        learner.step(rows, step)

    assert same(learner.sae.encode(rows), before, 1e-9)


@pytest.mark.parametrize("case", ["topk", "batchtopk", "jumprelu, target", "l1", "kl, batch norm"])
def test_bfloat16_products_leave_weights_and_moments_in_float32(case: str) -> None:
    """Steps too small for bfloat16 (8 bits) still add up; the loss is the same but for rounding."""
    sae, rows = prepared(case, 64)
    exact, rough = (
        Learner(
            Run(sae.settings, 0),
            (6,),
            rows.float(),
            TrainSettings(rows=6400, batch_size=64, precision=precision, lr=1e-5, warm_up=0),
            CPU,
        )
        for precision in ("float32", "bf16")
    )
    before = weights(rough.sae)
    losses = [float(learner.step(rows.float(), 0).loss.detach()) for learner in (exact, rough)]

    moved = float((rough.sae.get_parameter("W_dec") - before["W_dec"]).detach().abs().max())
    state = list(rough._optimiser.state.values())
    assert {t.dtype for t in (*rough.sae.parameters(), *(s["exp_avg"] for s in state))} == {
        torch.float32
    }
    assert 1e-7 < moved < 1e-4
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0]
