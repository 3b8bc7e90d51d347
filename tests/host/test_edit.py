"""Edits change what they say, everywhere that it is read, and nothing else."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from probe_sae.errors import SettingsError, ShapeError, SiteNotFound
from probe_sae.host import (
    Ablate,
    Clamp,
    Host,
    Patch,
    Splice,
    Steer,
    edit,
    hook_maps,
    load_host,
    tap,
    zero,
)
from probe_sae.host.tiny import example_inputs, tiny_host

IDS = {"input_ids": torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])}


class Codec:
    """The plainest dictionary there is: encode and decode, no weights of its own to see."""

    def __init__(self, width: int, features: int = 24) -> None:
        generator = torch.Generator().manual_seed(0)
        self.directions = torch.randn(features, width, generator=generator)

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.directions.T - 0.5).relu()

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.directions / 8 + 0.1


def tiny(family: str, attention: str | None = None) -> Host:
    hook_map = next(m for m in hook_maps() if m.family == family)
    return tiny_host(hook_map, hook_map.tiny[0], attention)


@pytest.fixture
def gpt2() -> Host:
    return tiny("gpt2")


SITE = "blocks.1.resid_post"


def rows_of(host: Host, site: str, inputs: Any = IDS) -> Tensor:
    with tap(host, site) as seen:
        host(inputs)
    return seen[site]


def nothing_fires(width: int) -> Codec:
    codec = Codec(width)
    codec.encode = lambda x: x.new_zeros(len(x), 24)
    return codec


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t: t, id="itself"),
        pytest.param(torch.clone, id="a copy"),
        pytest.param(Splice(Codec(16), keep_error=True), id="splice with its error"),
        pytest.param(Splice(Codec(16), lambda c: c * 1, keep_error=True), id="the same codes"),
        pytest.param(Steer(Codec(16), 3, 0.0), id="steer by nothing"),
        pytest.param(Ablate(nothing_fires(16), [1, 2]), id="ablate what does not fire"),
        pytest.param(Clamp(nothing_fires(16), 1, 0.0), id="clamp to what it is"),
    ],
)
@pytest.mark.parametrize("site", [SITE, "blocks.0.resid_mid", "blocks.2.attn_out", "embed"])
def test_an_edit_that_changes_nothing_changes_no_bit(gpt2: Host, site: str, change: Any) -> None:
    before = gpt2(IDS).logits

    with edit(gpt2, site, change):
        assert torch.equal(gpt2(IDS).logits, before)
    with edit(gpt2, site, lambda t: t + 1):
        assert not torch.equal(gpt2(IDS).logits, before)
    assert torch.equal(gpt2(IDS).logits, before)


def test_a_patch_with_what_was_there_changes_no_bit(gpt2: Host) -> None:
    before = gpt2(IDS).logits

    with edit(gpt2, SITE, Patch(rows_of(gpt2, SITE))):
        assert torch.equal(gpt2(IDS).logits, before)


def test_patching_the_last_stream_gives_the_other_inputs_answer(gpt2: Host) -> None:
    other = {"input_ids": IDS["input_ids"].flip(1)}
    site = "blocks.2.resid_post"

    with edit(gpt2, site, Patch(rows_of(gpt2, site, other))):
        assert torch.equal(gpt2(IDS).logits, gpt2(other).logits)


def test_a_patch_of_some_positions_leaves_the_others(gpt2: Host) -> None:
    new = torch.zeros(1, 4, 16)

    with edit(gpt2, SITE, Patch(new, torch.tensor([False, True, False, False]))):
        seen = rows_of(gpt2, "blocks.2.resid_pre")

    plain = rows_of(gpt2, "blocks.2.resid_pre")
    assert not seen[:, 1].any()
    assert torch.equal(seen[:, [0, 2, 3]], plain[:, [0, 2, 3]])


def test_a_patch_of_another_length_is_an_error(gpt2: Host) -> None:
    patch = Patch(torch.zeros(1, 3, 16))

    with pytest.raises(ShapeError, match="input of the same length"), edit(gpt2, SITE, patch):
        gpt2(IDS)


@pytest.mark.parametrize(
    ("new", "where", "error", "message"),
    [
        ([torch.zeros(1, 4, 16)] * 2, None, SettingsError, "is a list; .*several calls, one of"),
        (None, None, SettingsError, "is a NoneType; expected a tensor"),
        (torch.zeros(1, 4, 16), [True], SettingsError, "where a patch goes is a list"),
        (torch.zeros(1, 4, 16), torch.tensor([1, 0, 1, 0]), ShapeError, r"int64; .*where\.bool"),
    ],
)
def test_a_patch_of_anything_else_is_refused_at_once(
    new: Any, where: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Patch(new, where)


def test_a_patch_of_positions_that_are_not_there_is_an_error(gpt2: Host) -> None:
    patch = Patch(torch.zeros(1, 4, 16), torch.tensor([True, False]))

    with pytest.raises(ShapeError, match=r"shape \(2,\); the site has"), edit(gpt2, SITE, patch):
        gpt2(IDS)


@pytest.mark.parametrize("change", [Splice, Ablate, Clamp, Steer])
def test_no_rows_stay_no_rows(toy: Host, change: Any) -> None:
    arguments = {Splice: (), Ablate: (1,), Clamp: (1, 2.0), Steer: (1, 2.0)}[change]

    with edit(toy, "path:norm@out", change(Codec(4), *arguments)):
        hidden = toy({"input_ids": torch.zeros(0, 3, dtype=torch.int64)})["hidden"]

    assert hidden.shape == (0, 3, 4)


@pytest.mark.parametrize("as_codec", [True, False])
def test_a_splice_is_the_reconstruction(gpt2: Host, as_codec: bool) -> None:
    codec = Codec(16)
    plain = rows_of(gpt2, SITE)

    with edit(gpt2, SITE, codec if as_codec else Splice(codec)):
        seen = rows_of(gpt2, "blocks.2.resid_pre")

    assert torch.equal(seen, codec.decode(codec.encode(plain.flatten(0, 1))).reshape(plain.shape))


@pytest.mark.parametrize("value", [0.0, 2.5])
def test_clamp_and_ablate_move_a_row_along_the_feature_alone(gpt2: Host, value: float) -> None:
    codec, feature = Codec(16), 3
    plain = rows_of(gpt2, SITE)
    change = Ablate(codec, feature) if value == 0 else Clamp(codec, feature, value)

    with edit(gpt2, SITE, change):
        seen = rows_of(gpt2, "blocks.2.resid_pre")

    codes = codec.encode(plain)[..., feature]
    assert (codes > 0).any()
    expected = plain + (value - codes)[..., None] * codec.directions[feature] / 8
    torch.testing.assert_close(seen, expected)
    if value == 0:
        assert torch.equal(seen[codes == 0], plain[codes == 0])


def test_several_features_are_ablated_together(gpt2: Host) -> None:
    codec = Codec(16)
    plain = rows_of(gpt2, SITE)

    with edit(gpt2, SITE, Ablate(codec, [1, 4, 9])):
        seen = rows_of(gpt2, "blocks.2.resid_pre")

    codes = codec.encode(plain)[..., [1, 4, 9]]
    torch.testing.assert_close(seen, plain - codes @ codec.directions[[1, 4, 9]] / 8)


def test_steering_adds_the_direction_to_every_row(gpt2: Host) -> None:
    codec = Codec(16)
    plain = rows_of(gpt2, SITE)

    with edit(gpt2, SITE, Steer(codec, 5, 3.0)):
        seen = rows_of(gpt2, "blocks.2.resid_pre")

    torch.testing.assert_close(seen, plain + 3 * codec.directions[5] / 8)


def test_edits_hold_in_generation_at_every_step(gpt2: Host) -> None:
    prompt = torch.tensor([[5, 6, 7]])
    options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    options |= {"output_logits": True, "return_dict_in_generate": True}
    plain = gpt2.generate(prompt, **options).logits
    with edit(gpt2, SITE, torch.clone):
        assert all(map(torch.equal, gpt2.generate(prompt, **options).logits, plain))

    with edit(gpt2, SITE, Steer(Codec(16), 5, 400.0)), tap(gpt2, "blocks.2.resid_pre") as seen:
        steered = gpt2.generate(prompt, **options).logits

    assert not any(map(torch.equal, steered, plain))
    assert len(seen["blocks.2.resid_pre"]) == 5
    direction = Codec(16).directions[5]
    for step in seen["blocks.2.resid_pre"]:
        assert (torch.cosine_similarity(step, direction, dim=-1) > 0.99).all()


def test_an_edit_of_the_stream_between_the_parts_reaches_what_goes_past_the_norm(
    gpt2: Host,
) -> None:
    """A hook on the norm's input alone would change what the MLP sees, and not the stream."""
    with (
        edit(gpt2, "blocks.1.resid_mid", zero),
        tap(gpt2, ["blocks.1.mlp_out", "blocks.1.resid_post"]) as seen,
    ):
        gpt2(IDS)

    assert torch.equal(seen["blocks.1.resid_post"], seen["blocks.1.mlp_out"])


def test_an_edit_never_writes_into_what_the_user_gave() -> None:
    host = load_host(torch.nn.Sequential(torch.nn.Linear(3, 3)))
    x = torch.ones(2, 3)

    with edit(host, "path:0@in", zero):
        host(x)

    assert torch.equal(x, torch.ones(2, 3))


@pytest.mark.parametrize("family", ["torchvision_resnet", "torchvision_swin", "opt", "swin"])
def test_edits_work_on_the_rows_of_any_layout(family: str) -> None:
    host = tiny(family)
    hook_map = next(m for m in hook_maps() if m.family == family)
    inputs = example_inputs(host, hook_map.tiny[0])
    name = {"opt": "blocks.1.mlp_out"}.get(family) or next(
        n for n in host.sites if n.startswith("stages.1.blocks.0.") and n.endswith(("out", "post"))
    )
    plain = rows_of(host, name, inputs)
    axis = 1 if host.sites[name].layout == "BCHW" else -1
    codec = Codec(plain.shape[axis])

    with edit(host, name, Steer(codec, 2, 4.0)), tap(host, name) as seen:
        host(inputs)

    torch.testing.assert_close(
        seen[name].movedim(axis, -1), plain.movedim(axis, -1) + 4 * codec.directions[2] / 8
    )


def test_a_change_that_writes_in_place_writes_into_a_copy(gpt2: Host) -> None:
    def blank(rows: Tensor) -> Tensor:
        rows[:, -1] = 0
        return rows

    plain = rows_of(gpt2, SITE)
    with edit(gpt2, "path:transformer.h.1.ln_1@in", blank), tap(gpt2, "blocks.1.resid_mid") as seen:
        gpt2(IDS)

    assert torch.equal(seen["blocks.1.resid_mid"][:, 0], rows_of(gpt2, "blocks.1.resid_mid")[:, 0])
    assert torch.equal(rows_of(gpt2, SITE), plain)


def test_numbers_of_a_table_name_features(gpt2: Host) -> None:
    codec = Codec(16)
    with edit(gpt2, SITE, Ablate(codec, np.int64(3))):  # type: ignore[arg-type]
        one = rows_of(gpt2, "blocks.2.resid_pre")
    with edit(gpt2, SITE, Ablate(codec, [3])):
        assert torch.equal(rows_of(gpt2, "blocks.2.resid_pre"), one)


def test_several_sites_are_edited_at_once(gpt2: Host) -> None:
    with edit(gpt2, "blocks.*.mlp_out", zero), tap(gpt2, "blocks.*.resid_{mid,post}") as seen:
        gpt2(IDS)

    for i in range(3):
        assert torch.equal(seen[f"blocks.{i}.resid_mid"], seen[f"blocks.{i}.resid_post"])


def test_a_half_precision_host_keeps_its_dtype() -> None:
    host = tiny("llama")
    host.model.to(torch.bfloat16)

    with edit(host, SITE, Splice(Codec(16))), tap(host, "blocks.2.resid_pre") as seen:
        host(IDS)

    assert seen["blocks.2.resid_pre"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("site", "change", "error", "message"),
    [
        (SITE, lambda t: t[:1], ShapeError, "turned"),
        (SITE, lambda t: None, ShapeError, "returned NoneType; expected a tensor"),
        (SITE, Steer(Codec(16), 24, 1.0), SettingsError, "no feature 24; the dictionary has 0"),
        (SITE, Ablate(Codec(16), [3, -1]), SettingsError, "no feature -1"),
        (SITE, "sae", SettingsError, r"got str .sae.: load one by ps\.load_sae"),
        ("blocks.1.resid_pots", zero, SiteNotFound, "Near it: blocks.1.resid_post"),
    ],
)
def test_impossible_edits_are_refused(
    gpt2: Host, site: str, change: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message), edit(gpt2, site, change):
        gpt2(IDS)


@pytest.mark.parametrize("make", [Splice, Ablate, Clamp, Steer])
def test_what_is_no_dictionary_is_refused_at_once(make: Any) -> None:
    arguments = {Splice: (), Ablate: (1,), Clamp: (1, 2.0), Steer: (1, 2.0)}[make]

    with pytest.raises(SettingsError, match=r"got str .sae.: load one by ps\.load_sae"):
        make("sae", *arguments)


@pytest.mark.parametrize("make", [Clamp, Steer])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_feature_is_set_to_nothing_but_a_finite_number(make: Any, value: float) -> None:
    with pytest.raises(SettingsError, match="expected a finite number"):
        make(nothing_fires(16), 1, value)


def test_an_edit_that_never_takes_place_is_an_error(toy: Host) -> None:
    with (
        pytest.raises(ShapeError, match="path:never@out never fired"),
        edit(toy, "path:never@out", zero),
    ):
        toy({"input_ids": torch.tensor([[1]])})


def test_attention_patterns_cannot_be_edited_in_vain() -> None:
    host = tiny("gpt2", "eager")

    with (
        pytest.raises(SettingsError, match="Edit the heads instead"),
        edit(host, "blocks.0.attn_pattern", zero),
    ):
        pass
