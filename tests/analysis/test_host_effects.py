"""Effects on the output are what the formulas say, and nothing where the output does not look."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from probe_sae.analysis.effect_results import Effects
from probe_sae.analysis.host_effects import ablation_effects, steering_effects
from probe_sae.errors import SettingsError, ShapeError, SiteNotFound
from probe_sae.host import Ablate, Host, edit, load_host
from probe_sae.recording import frame_of, load_dataset
from probe_sae.sae import SAE, Crosscoder, TopK, make_sae

from .planted import WIDTH, perfect_sae, planted

SITE, FEATURE, UNREAD = "path:site@out", 5, 6
CROSSCODER = make_sae(Crosscoder(features=8, k=2), (WIDTH, WIDTH))
TEXT_SITE, IMAGE_SITE = "blocks.1.resid_post", "blocks.2.resid_post"


class Line(nn.Module):
    """A linear classifier of rows, or of all rows up to each; it does not read UNREAD."""

    def __init__(self, *, adds_up: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.site = nn.Identity()
        self.head = nn.Linear(WIDTH, 7)
        self.adds_up = adds_up
        away = perfect_sae().get_parameter("W_dec")[UNREAD]
        with torch.no_grad():
            self.head.weight -= torch.outer(self.head.weight @ away, away)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.site(x)
        return self.head(rows.cumsum(1) if self.adds_up else rows)


def kl(before: Tensor, now: Tensor) -> Tensor:
    p, q = (logits.double().log_softmax(-1) for logits in (before, now))
    return (p.exp() * (p - q)).sum(-1)


@pytest.fixture
def line() -> Host:
    return Host(Line(), "line")


@pytest.fixture(scope="module")
def code_lm() -> Host:
    return load_host("bundled:code-lm", device="cpu")


def dictionary(width: int) -> SAE:
    sae = make_sae(TopK(features=64, k=6), width, torch.Generator().manual_seed(4))
    return sae.requires_grad_(False)


def test_ablation_of_a_linear_host_is_the_closed_form(line: Host) -> None:
    world = planted(50)
    codes = world.sae.encode(world.rows)[:, FEATURE]
    fires = codes > 0
    step = codes[:, None] * world.sae.get_parameter("W_dec")[FEATURE]
    with torch.no_grad():
        before, now = line.model(world.rows), line.model(world.rows - step)
    shift = (now.log_softmax(1) - before.log_softmax(1))[fires].mean(0)

    (found,) = ablation_effects(line, world.sae, FEATURE, world.rows, SITE, batch_size=7).effects

    assert (found.rows, found.inputs) == (int(fires.sum()), int(fires.sum()))
    assert found.kl == pytest.approx(float(kl(before, now)[fires].mean()), rel=1e-4)
    assert math.isnan(found.kl_after)
    assert math.isnan(found.loss_change)
    order = shift.argsort(descending=True).tolist()
    assert [int(one.name) for one in found.likelier] == [i for i in order[:5] if shift[i] > 0]
    assert found.likelier[0].change == pytest.approx(float(shift.max()), rel=1e-4)
    assert int(found.less_likely[0].name) == order[-1]


def test_a_feature_that_the_output_does_not_read_has_no_effect(line: Host) -> None:
    world = planted(50)

    ablated = ablation_effects(line, world.sae, [UNREAD, FEATURE], world.rows, SITE)
    steered = steering_effects(line, world.sae, UNREAD, world.rows, SITE, scales=(50.0,))

    unread, read = ablated.effects
    assert unread.rows > 0
    assert unread.kl == pytest.approx(0, abs=1e-9)
    assert read.kl > 1e-3
    assert steered.effects[0].kl == pytest.approx(0, abs=1e-6)
    assert steered.effects[0].control is not None
    assert steered.effects[0].control.kl > 0.1


@pytest.mark.parametrize("mode", ["add", "clamp"])
def test_steering_a_linear_host_is_the_closed_form(line: Host, mode: str) -> None:
    world = planted(40)
    direction = world.sae.get_parameter("W_dec")[FEATURE]
    effects = steering_effects(
        line, world.sae, FEATURE, world.rows, SITE, scales=(1.0, 3.0), mode=mode, batch_size=9
    ).effects

    assert [one.scale for one in effects] == [1, 3]
    for one in effects:
        own = world.codes[:, FEATURE, None] if mode == "clamp" else 0
        with torch.no_grad():
            before = line.model(world.rows)
            now = line.model(world.rows + (one.scale - own) * direction)
        assert one.rows == 40
        assert one.kl == pytest.approx(float(kl(before, now).mean()), rel=1e-4)
    assert effects[1].kl > effects[0].kl


def test_a_random_direction_moves_rows_as_far() -> None:
    seen: list[Tensor] = []

    class Spy(Line):
        def forward(self, x: Tensor) -> Tensor:
            rows = self.site(x)
            seen.append(rows.detach().clone())
            return self.head(rows)

    world = planted(20)
    steering_effects(
        Host(Spy(), "spy"), world.sae, FEATURE, world.rows, SITE, scales=(4.0,), batch_size=20
    )

    original, steered, control = seen[-3:]  # a run to gather the rows came before
    assert torch.equal(original, world.rows)
    assert (steered - original).norm(dim=1) == pytest.approx(np.full(20, 4.0), rel=1e-4)
    assert (control - original).norm(dim=1) == pytest.approx(np.full(20, 4.0), rel=1e-4)
    assert (control - steered).norm(dim=1).min() > 2


def test_effects_are_split_into_here_and_after() -> None:
    """A host that adds up its rows carries a change on; one that does not, does not."""
    world = planted(60)
    inputs = world.rows.reshape(6, 10, WIDTH)
    codes = world.sae.encode(world.rows)[:, FEATURE].reshape(6, 10)
    fires = codes > 0
    step = codes[..., None] * world.sae.get_parameter("W_dec")[FEATURE]
    after = (fires.cumsum(1) > 0) & ~fires
    for adds_up in (True, False):
        host = Host(Line(adds_up=adds_up), "line")
        with torch.no_grad():
            change = kl(host.model(inputs), host.model(inputs - step))

        (found,) = ablation_effects(host, world.sae, FEATURE, inputs, SITE, batch_size=4).effects

        assert found.inputs == int(fires.any(1).sum())
        assert found.kl == pytest.approx(float(change[fires].mean()), rel=1e-4)
        expected = float(change[after].mean()) if adds_up else 0.0
        assert found.kl_after == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_the_control_of_an_ablation_fires_as_often(line: Host) -> None:
    world = planted(80)
    counts = (world.sae.encode(world.rows) > 0).sum(0)
    effects = ablation_effects(line, world.sae, [1, 2, 3], world.rows, SITE).effects

    controls = [one.control for one in effects]
    for one, control in zip(effects, controls, strict=True):
        assert control is not None
        assert control.feature not in (1, 2, 3)
        assert control.rows == int(counts[control.feature])
        nearest = min(abs(int(counts[i]) - one.rows) for i in range(WIDTH) if i not in (1, 2, 3))
        assert abs(control.rows - one.rows) <= nearest + 4  # an earlier one may have taken it
    assert len({control.feature for control in controls if control}) == 3

    far = ablation_effects(line, world.sae, [1], world.rows, SITE, control="direction").effects
    alone = ablation_effects(line, world.sae, [1], world.rows, SITE, control="none").effects
    assert far[0].control is not None
    assert (far[0].control.feature, far[0].control.rows) == (-1, far[0].rows)
    assert alone[0].control is None


def test_a_language_models_effects_equal_those_of_its_own_logits(code_lm: Host) -> None:
    sae = dictionary(224)
    text = "def load(path):\n    with open(path) as file:\n        return file.read()\n"
    frame = frame_of(code_lm.tokenizer)
    ids = code_lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    batch = torch.tensor([[*frame.before, *ids, *frame.after]])
    held: list[Tensor] = []

    def without(rows: Tensor) -> Tensor:
        changed = rows.clone()
        start = len(frame.before)
        changed[0, start:] = Ablate(sae, feature)(rows[0, start:])
        held.append((changed != rows).any(-1)[0])
        return changed

    effects = ablation_effects(code_lm, sae, range(64), [text, "x = 1"], TEXT_SITE).effects
    feature = max(effects, key=lambda one: one.rows).feature
    (found,) = ablation_effects(code_lm, sae, feature, [text], TEXT_SITE).effects
    before = code_lm(input_ids=batch).logits[0]
    with edit(code_lm, TEXT_SITE, without):
        now = code_lm(input_ids=batch).logits[0]
    fires = held[0]
    losses = [
        cross_entropy(logits[:-1], batch[0, 1:], reduction="none") for logits in (before, now)
    ]

    assert found.rows == int(fires.sum()) > 3
    assert found.kl == pytest.approx(float(kl(before, now)[fires].mean()), rel=1e-3)
    change = (losses[1] - losses[0])[fires[:-1]]
    assert found.loss_change == pytest.approx(float(change.mean()), rel=1e-3, abs=1e-5)
    after = (fires.cumsum(0) > 0) & ~fires
    if bool(after.any()):
        assert found.kl_after == pytest.approx(float(kl(before, now)[after].mean()), rel=1e-3)


def test_steering_a_classifier_changes_its_loss() -> None:
    host = load_host("bundled:digits-vit", device="cpu")
    sae = dictionary(64)
    sae.provenance = {"sites": [IMAGE_SITE]}

    found = steering_effects(
        host, sae, [3], load_dataset("digits"), scales=(0.0, 30.0), contexts=12
    )

    still, strong = found.effects
    assert (still.inputs, still.rows) == (12, 12 * 64)
    assert (still.kl, still.loss_change) == (pytest.approx(0, abs=1e-9), 0)
    assert strong.kl > 1e-3
    assert strong.loss_change != 0
    table = found.table()
    assert list(table["scale"]) == [0, 30]
    assert {"control_kl", "likelier", "less_likely"} <= set(table.columns)
    assert isinstance(found, Effects)


def test_no_hook_is_left_after_a_failure() -> None:
    class Failing(Line):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls > 2:
                raise RuntimeError("out of luck")
            return super().forward(x)

    host = Host(Failing(), "failing")
    world = planted(10)

    with pytest.raises(ShapeError, match="out of luck"):
        ablation_effects(host, world.sae, FEATURE, world.rows, SITE, batch_size=10)

    for module in host.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_a_feature_that_never_fires_changes_nothing(line: Host) -> None:
    world = planted(30)
    world.sae.get_parameter("b_enc")[FEATURE] = -1e9

    (found,) = ablation_effects(line, world.sae, FEATURE, world.rows, SITE).effects

    assert found.rows == 0
    assert math.isnan(found.kl)
    assert found.likelier == ()
    assert found.control is None


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"features": 99}, SettingsError, "no feature 99; the dictionary has 0 to 23"),
        ({"features": []}, SettingsError, "no feature was named"),
        ({"control": "other"}, SettingsError, "expected feature, direction, none"),
        ({"site": "path:nowhere@out"}, SiteNotFound, "no module 'nowhere'"),
        ({"inputs": "a text"}, SettingsError, "inputs are texts; line takes images"),
        ({"sae": CROSSCODER}, SettingsError, "one of one site"),
    ],
)
def test_mistakes_are_told(
    line: Host, given: dict[str, Any], error: type[Exception], message: str
) -> None:
    world = planted(10)
    settings: dict[str, Any] = {"sae": world.sae, "features": 1, "inputs": world.rows}
    settings |= {"site": SITE, **given}

    with pytest.raises(error, match=message):
        ablation_effects(line, **settings)


def test_a_host_without_logits_and_wrong_settings_are_refused(line: Host) -> None:
    world = planted(10)
    with pytest.raises(SettingsError, match="add or clamp"):
        steering_effects(line, world.sae, 1, world.rows, SITE, mode="push")
    with pytest.raises(SettingsError, match="finite numbers"):
        steering_effects(line, world.sae, 1, world.rows, SITE, scales=(math.inf,))

    class Silent(Line):
        def forward(self, x: Tensor) -> Any:
            return {"hidden": super().forward(x)}

    with pytest.raises(ShapeError, match="effects on the output need logits"):
        steering_effects(Host(Silent(), "silent"), world.sae, 1, world.rows, SITE)


def test_effects_print_as_their_table(line: Host) -> None:
    world = planted(50)
    found = ablation_effects(line, world.sae, [FEATURE, UNREAD], world.rows, SITE)
    text, html = repr(found), found._repr_html_()

    assert text.startswith("Effects\n  mode  ablate\n  site  path:site@out\n")
    for name in ("feature", "kl", "control_kl", f"{found.effects[0].kl:.4g}"):
        assert name in text
        assert name in html
    assert "HostEffect" not in text
