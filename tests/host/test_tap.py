"""What a tap sees is what a plain hook sees; afterwards the host is as it was."""

from typing import Any

import pytest
import torch
from torch import Tensor

from probe_sae.errors import ShapeError, SiteNotFound
from probe_sae.host import Host, edit, tap
from probe_sae.host.hooks import hooked

IDS = {"input_ids": torch.tensor([[1, 2, 3], [4, 5, 6]])}


def hook_count(host: Host) -> int:
    """Return the number of hooks on all modules."""
    modules = host.model.modules()
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


@pytest.mark.parametrize("name", ["blocks.0", "blocks.1", "embed", "norm"])
def test_a_tap_equals_a_plain_hook_bit_for_bit(toy: Host, name: str) -> None:
    plain: list[Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        plain.append((output if isinstance(output, Tensor) else output[0]).clone())

    handle = toy.model.get_submodule(name).register_forward_hook(keep)
    with tap(toy, f"path:{name}@out") as seen:
        toy(IDS)
    handle.remove()

    assert torch.equal(seen[f"path:{name}@out"], plain[0])


def test_an_input_given_by_keyword_is_seen(toy: Host) -> None:
    with tap(toy, ["path:blocks.1@in", "path:blocks.0@out"]) as seen:
        toy(IDS)

    assert torch.equal(seen["path:blocks.1@in"], seen["path:blocks.0@out"])


def test_what_an_in_place_module_overwrites_is_kept(toy: Host) -> None:
    with tap(toy, ["path:blocks.0.linear@out", "path:blocks.0.act@out"]) as seen:
        toy(IDS)

    assert (seen["path:blocks.0.linear@out"] < 0).any()
    assert torch.equal(seen["path:blocks.0.linear@out"].relu(), seen["path:blocks.0.act@out"])


def test_calls_are_joined_along_the_batch(toy: Host) -> None:
    with tap(toy, "path:norm@out") as seen:
        toy(IDS)
        toy(IDS)

    assert seen["path:norm@out"].shape == (4, 3, 4)


def test_calls_of_differing_shapes_give_a_list(toy: Host) -> None:
    with tap(toy, "path:norm@out") as seen:
        toy(IDS)
        toy({"input_ids": torch.tensor([[1]])})

    assert [tuple(t.shape) for t in seen["path:norm@out"]] == [(2, 3, 4), (1, 1, 4)]


def test_the_host_stops_after_the_deepest_site_from_the_second_call_on(toy: Host) -> None:
    with tap(toy, ["path:blocks.0@out", "path:embed@out"], stop=True) as seen:
        results = [toy(IDS) for _ in range(3)]

    assert toy.model.ran_to_the_end == 1
    assert results[1:] == [None, None]
    assert seen["path:blocks.0@out"].shape[0] == 6
    toy(IDS)
    assert toy.model.ran_to_the_end == 2


def test_hooks_are_gone_afterwards_and_others_stay(toy: Host) -> None:
    toy.model.get_submodule("norm").register_forward_hook(lambda *_: None)
    before = hook_count(toy)
    with tap(toy, ["path:norm@out", "path:blocks.0@in"]):
        assert hook_count(toy) > before

    assert hook_count(toy) == before


def test_hooks_are_gone_after_an_exception(toy: Host) -> None:
    before = hook_count(toy)
    with pytest.raises(IndexError), tap(toy, "path:norm@out"):
        toy({"input_ids": torch.tensor([[99]])})

    assert hook_count(toy) == before


def test_hooks_are_gone_when_a_later_one_cannot_be_set(toy: Host) -> None:
    before = hook_count(toy)
    (good,) = toy.find_sites("path:norm@out")
    bad = type(good)("gone", "no.such.module", "out", None, "auto")

    with pytest.raises(SiteNotFound), hooked(toy.model, [good, bad], lambda *_: None):
        pass
    assert hook_count(toy) == before


def test_taps_nest(toy: Host) -> None:
    with tap(toy, "path:norm@out") as outer, tap(toy, "path:norm@out") as inner:
        toy(IDS)

    assert torch.equal(outer["path:norm@out"], inner["path:norm@out"])


def test_a_site_that_never_fires_is_an_error(toy: Host) -> None:
    with pytest.raises(ShapeError, match="path:never@out never fired"), tap(toy, "path:never@out"):
        toy(IDS)


def test_a_compiled_model_is_refused(toy: Host) -> None:
    compiled = Host(torch.compile(toy.model, backend="eager"), "compiled")  # type: ignore[arg-type]

    with pytest.raises(SiteNotFound, match="compiled"), tap(compiled, "path:_orig_mod.norm@out"):
        pass


@pytest.mark.parametrize("site", ["path:blocks.0@out", "path:blocks.1@in", "path:embed@out"])
def test_an_edit_that_changes_nothing_changes_no_bit(toy: Host, site: str) -> None:
    before = toy(IDS)["hidden"]

    with edit(toy, site, lambda tensor: tensor):
        assert torch.equal(toy(IDS)["hidden"], before)
    with edit(toy, site, lambda tensor: tensor + 1):
        assert not torch.equal(toy(IDS)["hidden"], before)
    assert torch.equal(toy(IDS)["hidden"], before)


def test_an_edit_that_changes_the_shape_is_an_error(toy: Host) -> None:
    with pytest.raises(ShapeError, match="turned"), edit(toy, "path:norm@out", lambda t: t[:1]):
        toy(IDS)
