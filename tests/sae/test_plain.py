"""The plain form: our dictionaries and others' come down to it, and say the same in it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from probe_sae.errors import SettingsError
from probe_sae.host.edit import Splice, Steer
from probe_sae.sae import (
    ARCHITECTURES,
    L1,
    Plain,
    PlainSAE,
    as_plain,
    load_sae,
    make_sae,
    save_sae,
    settings_for,
    with_centre,
)

WITHOUT = {
    "crosscoder": "several sites",
    "matching_pursuit": "what the earlier ones leave",
    "kl": "sigmoids",
}
WIDTHS = {"transcoder": (10, 6), "crosscoder": (6, 4)}


def rows(width: int = 10, count: int = 300) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(4)) * 30 + 7


def finished(arch: str) -> tuple[torch.nn.Module, Tensor]:
    """Return a dictionary with biases that matter, and rows of a stream."""
    generator, widths = torch.Generator().manual_seed(1), WIDTHS.get(arch, (10,))
    values = {"features": 40, "k": 4, "points": 20}
    kind = ARCHITECTURES[arch]
    settings = settings_for(arch, {n: v for n, v in values.items() if hasattr(kind, n)})
    sae, data = make_sae(settings, widths, generator), rows(sum(widths))
    sae.initialise(data, generator)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            if name in ("b_enc", "b_dec", "W_skip", "r_mag", "b_mag"):
                parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    sae.finish(data)
    return sae.requires_grad_(False).eval(), data


def plain(
    activation: str = "relu", *, d_out: int = 0, seed: int = 0, **settings: object
) -> PlainSAE:
    """Return random weights for rows of 10."""
    generator = torch.Generator().manual_seed(seed)
    made = Plain(24, activation, **settings)  # type: ignore[arg-type]
    sae = made.build((10, d_out) if d_out else (10,))
    with torch.no_grad():
        for name, weight in sae.named_parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            weight.copy_(drawn.abs() if name == "threshold" else drawn)
    return sae.eval()


@pytest.mark.parametrize("arch", sorted(set(ARCHITECTURES) - set(WITHOUT)))
def test_codes_and_reconstructions_of_raw_rows_stay(arch: str) -> None:
    sae, data = finished(arch)
    x, _ = sae.split(data)  # type: ignore[operator]

    found = as_plain(sae)  # type: ignore[arg-type]

    assert torch.allclose(found.encode(x), sae.encode(x), atol=2e-5)  # type: ignore[operator]
    assert torch.allclose(found(x), sae(x), rtol=1e-4, atol=1e-3)
    assert (found.encode(x) != 0).any()


@pytest.mark.parametrize("arch", sorted(WITHOUT))
def test_what_has_no_plain_form_says_why(arch: str) -> None:
    sae, _ = finished(arch)

    with pytest.raises(SettingsError, match=WITHOUT[arch]):
        as_plain(sae)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "why"),
    [(L1(8, k=2, hidden=(4,)), "hidden layers"), (L1(8, k=2, activation="sigmoid"), "sigmoids")],
)
def test_layers_and_sigmoids_have_no_plain_form(settings: L1, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        as_plain(make_sae(settings, 5))


def test_a_threshold_that_was_never_set_is_not_invented() -> None:
    with pytest.raises(SettingsError, match="never set"):
        as_plain(make_sae(settings_for("batchtopk", {"features": 8, "k": 2}), 5))


def test_every_activation_is_the_formula_in_float64() -> None:
    x = rows()
    z = x.double()
    for kind in ("relu", "jumprelu", "topk", "signed_topk", "groupmax", "gated"):
        sae = plain(kind, k=4 if "k" in kind or kind == "groupmax" else 0)
        pre = linear(z - sae.centre.double(), sae.W_enc.double(), sae.b_enc.double())
        if kind == "relu":
            expected = pre.relu()
        elif kind == "jumprelu":
            expected = pre * (pre > sae.threshold.double())  # type: ignore[union-attr]
        elif kind == "topk":
            best = pre.relu().topk(4)
            expected = torch.zeros_like(pre).scatter(1, best.indices, best.values)
        elif kind == "signed_topk":
            best = pre.abs().topk(4)
            expected = torch.zeros_like(pre).scatter(1, best.indices, pre.gather(1, best.indices))
        elif kind == "groupmax":
            best = pre.relu().unflatten(1, (4, 6)).max(2)
            places = best.indices + torch.arange(4) * 6
            expected = torch.zeros_like(pre).scatter(1, places, best.values)
        else:
            r_mag, b_mag = sae.r_mag.double(), sae.b_mag.double()  # type: ignore[union-attr]
            magnitude = r_mag.exp() * (pre - sae.b_enc.double()) + b_mag
            expected = (pre > 0) * magnitude.relu()

        assert torch.allclose(sae.encode(x).double(), expected, atol=1e-3), kind
        assert torch.allclose(
            sae(x).double(), expected @ sae.W_dec.double() + sae.b_dec.double(), atol=1e-2
        ), kind


@pytest.mark.parametrize("activation", ["relu", "topk", "signed_topk", "gated", "groupmax"])
@pytest.mark.parametrize("kind", ["layer_norm", "unit_norm"])
def test_a_row_of_zeros_has_codes_and_others_stay(kind: str, activation: str) -> None:
    chosen = 4 if activation in ("topk", "signed_topk", "groupmax") else 0
    sae, x = plain(activation, normalise=kind, k=chosen), rows(count=20)
    before = sae.encode(x)

    x[3] = 0
    x[5] = 1e-30  # whose length is 0 in float32
    codes = sae.encode(x)

    kept = torch.arange(20)[(torch.arange(20) != 3) & (torch.arange(20) != 5)]
    assert bool(codes.isfinite().all())
    assert bool(sae(x).isfinite().all())
    assert torch.equal(codes[kept], before[kept])


@pytest.mark.parametrize("kind", ["layer_norm", "unit_norm"])
def test_normalised_rows_are_brought_back(kind: str) -> None:
    sae, x = plain(normalise=kind), rows()
    if kind == "layer_norm":
        deviation = x.std(1, keepdim=True)
        z = (x - x.mean(1, keepdim=True)) / (deviation + 1e-5)
        factor, shift = deviation, x.mean(1, keepdim=True)
    else:
        factor, shift = x.norm(dim=1, keepdim=True) / 10**0.5, torch.zeros(1)
        z = x / factor
    codes = linear(z - sae.centre, sae.W_enc, sae.b_enc).relu()

    assert torch.allclose(sae.encode(x), codes, atol=1e-4)
    assert torch.allclose(
        sae(x), (codes @ sae.W_dec + sae.b_dec) * factor + shift, rtol=1e-4, atol=1e-2
    )


def test_a_skip_goes_past_the_features_of_the_site_that_is_read() -> None:
    sae, both = plain(skip=True, d_out=6), rows(16)
    x, y = sae.split(both)
    assert sae.W_skip is not None

    assert (x.shape[1], y.shape[1], sae.is_autoencoder) == (10, 6, False)
    assert torch.allclose(sae(x), sae.decode(sae.encode(x)) + x @ sae.W_skip.T, atol=1e-2)


def test_another_centre_changes_nothing() -> None:
    x, centre = rows(), torch.linspace(-3, 3, 10)
    for kind in ("jumprelu", "gated"):
        sae = plain(kind)

        moved = with_centre(sae, centre)

        assert torch.equal(moved.centre, centre)
        assert torch.allclose(moved.encode(x), sae.encode(x), rtol=1e-4, atol=1e-2), kind


def test_edits_are_in_each_rows_own_units() -> None:
    """A row of twice the deviation moves twice as far by the same activation."""
    sae, x = plain(normalise="layer_norm"), rows(count=3)
    x = torch.cat([x, x * 2])

    moved = Steer(sae, 5, 2.0)(x) - x

    assert torch.allclose(moved[3:], 2 * moved[:3], rtol=1e-4)
    assert torch.allclose(moved[:3], 2 * sae.W_dec[5] * x[:3].std(1, keepdim=True), rtol=1e-3)
    assert torch.allclose(Splice(sae)(x), sae(x))
    kept = Splice(sae, lambda codes: codes * 0, keep_error=True)(x)
    assert torch.allclose(kept - x, sae.reconstruct(x, sae.encode(x) * 0) - sae(x), atol=1e-3)


def test_a_plain_dictionary_is_saved_and_is_not_trained(tmp_path: Path) -> None:
    sae, x = plain("gated", d_out=6, skip=True), rows()

    save_sae(tmp_path, sae)
    again = load_sae(tmp_path)

    assert torch.equal(again.encode(x), sae.encode(x))
    assert torch.equal(again(x), sae(x))
    with pytest.raises(SettingsError, match="cannot be trained"):
        again.step(x)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation": "topkk"}, "Near it: topk"),
        ({"activation": "topk"}, "k is 0"),
        ({"activation": "groupmax", "k": 5}, "not equal"),
        ({"normalise": "batch"}, "layer_norm"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Plain(24, **settings)  # type: ignore[arg-type]
