"""What a tap sees is what a plain hook sees; afterwards the host is as it was."""

import functools
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo  # as the first torch.compile does
from torch import Tensor, nn

from probe_sae.errors import ShapeError, SiteNotFound
from probe_sae.host import Host, check, edit, hook_maps, load_host, tap, zero
from probe_sae.host.hooks import hooked
from probe_sae.host.tiny import tiny_host

IDS = {"input_ids": torch.tensor([[1, 2, 3], [4, 5, 6]])}


def tiny(family: str) -> Host:
    """Return a tiny random model of a family."""
    hook_map = next(m for m in hook_maps() if m.family == family)
    return tiny_host(hook_map, hook_map.tiny[0])


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


def test_calls_without_a_batch_give_a_list() -> None:
    host = Host(nn.Sequential(nn.Linear(4, 4), Mean()), "loss")

    with tap(host, "path:1@out") as seen:
        host(torch.ones(2, 4))
        host(torch.zeros(2, 4))

    assert [t.ndim for t in seen["path:1@out"]] == [0, 0]


class Mean(nn.Module):
    """Gives a number, as a loss does."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean()


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
    bad = type(good)("gone", "no.such.module", "out")

    with pytest.raises(SiteNotFound), hooked(toy.model, [good, bad], lambda *_: None, toy.model):
        pass
    assert hook_count(toy) == before


def test_taps_nest(toy: Host) -> None:
    with tap(toy, "path:norm@out") as outer, tap(toy, "path:norm@out") as inner:
        toy(IDS)

    assert torch.equal(outer["path:norm@out"], inner["path:norm@out"])


def test_a_site_that_never_fires_is_an_error(toy: Host) -> None:
    with pytest.raises(ShapeError, match="path:never@out never fired"), tap(toy, "path:never@out"):
        toy(IDS)


@pytest.mark.parametrize("how", ["whole", "in place", "a part"])
def test_what_was_compiled_before_is_seen_all_the_same(toy: Host, how: str) -> None:
    """A hook set after the first compiled call never fires: pytorch #117758."""
    with tap(toy, "path:blocks.0.linear@out") as plain:
        toy(IDS)
    compile_ = functools.partial(torch.compile, backend="eager")
    model: Any = toy.model
    if how == "whole":
        model = compile_(model)
    elif how == "in place":
        model.compile(backend="eager")
    else:
        model.blocks[0] = compile_(model.blocks[0])
    model(**IDS)
    host = Host(model, "compiled")
    inside = "blocks.0._orig_mod" if how == "a part" else "blocks.0"

    with tap(host, f"path:{inside}.linear@out") as seen:
        model(**IDS)
        host(IDS)

    (linear,) = seen.values()
    assert torch.equal(linear[:2], plain["path:blocks.0.linear@out"])
    assert torch.equal(linear[2:], plain["path:blocks.0.linear@out"])


@pytest.mark.parametrize("is_threaded", [False, True])
def test_what_closes_in_the_order_it_was_opened_leaves_nothing_switched_off(
    is_threaded: bool,
) -> None:
    """Each putting back what it found left compiled models uncompiled for the whole process."""
    host = Host(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), "encoder")
    x, before = torch.randn(2, 5, 16), switches()
    first, second = tap(host, "path:linear1@in"), tap(host, "path:linear2@in")
    with ThreadPoolExecutor(1) as pool:
        for step in (first.__enter__, second.__enter__, functools.partial(host, x)):
            step()
        close = functools.partial(first.__exit__, None, None, None)
        pool.submit(close).result() if is_threaded else close()

    assert switches() == ("force_eager", False)
    host(x)
    second.__exit__(None, None, None)
    assert switches() == before == ("default", True)


def switches() -> tuple[str, bool]:
    """Return how compiled models run, and whether encoders may be fused."""
    stance = torch._dynamo.eval_frame._stance.stance
    return stance, torch.backends.mha.get_fastpath_enabled()


def test_a_data_parallel_model_is_unwrapped_with_a_word(
    toy: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    host = Host(nn.DataParallel(toy.model), "parallel")

    assert host.model is toy.model
    assert "parallel is wrapped in DataParallel" in capsys.readouterr().err


def test_the_fused_path_of_transformer_encoders_is_off_while_tapped() -> None:
    """It skips submodules, and gives the next layer nested tensors: pytorch #128413, #132700."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2)
    host = Host(encoder, "encoder")
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])

    with tap(host, ["path:layers.1@in", "path:layers.0.linear1@out"]) as seen:
        host(x, src_key_padding_mask=padding)

    assert not seen["path:layers.1@in"].is_nested
    assert seen["path:layers.1@in"].shape == (2, 5, 16)
    assert seen["path:layers.0.linear1@out"].shape == (2, 5, 32)
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_part_of_multihead_attention_says_why_it_never_fires() -> None:
    """Its out_proj's weights are used without a call: pytorch #78109."""
    host = Host(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), "layer")
    x = torch.zeros(1, 3, 16)

    with (
        pytest.raises(ShapeError, match=r"nn\.MultiheadAttention.*tap path:self_attn@out"),
        tap(host, "path:self_attn.out_proj@out"),
    ):
        host(x)


def test_one_of_several_calls_can_be_named(toy: Host) -> None:
    with tap(toy, ["path:twice@out", "path:twice@out#1", "path:twice@in#0"]) as seen:
        toy(IDS)
        toy(IDS)

    assert seen["path:twice@out"].shape == (8, 3, 4)
    assert seen["path:twice@out#1"].shape == (4, 3, 4)
    assert torch.equal(seen["path:twice@in#0"], seen["path:twice@out#1"])


def test_a_call_that_never_comes_is_an_error(toy: Host) -> None:
    with pytest.raises(ShapeError, match="was not called 3 times"), tap(toy, "path:twice@out#2"):
        toy(IDS)


def test_an_exception_of_the_host_passes_through_nested_taps_and_edits(toy: Host) -> None:
    before = hook_count(toy)
    with (
        pytest.raises(IndexError),
        tap(toy, "path:norm@out"),
        edit(toy, "path:blocks.0@out", zero),
        tap(toy, "path:embed@out", stop=True),
    ):
        toy({"input_ids": torch.tensor([[99]])})

    assert hook_count(toy) == before
    assert toy(IDS)["hidden"].shape == (2, 3, 4)


def test_a_stop_is_not_swallowed_by_a_host_that_catches_exceptions() -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.calls = nn.Linear(2, 2), nn.Linear(2, 2), 0

        def forward(self, x: Tensor) -> Tensor:
            try:
                x = self.first(x)
            except Exception:
                x = x * 0
            self.calls += 1
            return self.second(x)

    host = Host(Stubborn(), "stubborn")

    with tap(host, "path:first@out", stop=True):
        assert host(torch.ones(1, 2)) is not None
        assert host(torch.ones(1, 2)) is None
    assert host.model.calls == 1


def test_an_edit_inside_a_tap_is_seen_by_it(toy: Host) -> None:
    with edit(toy, "path:blocks.0@out", zero), tap(toy, "path:blocks.1@in") as seen:
        toy(IDS)

    assert not seen["path:blocks.1@in"].any()


def test_taps_keep_no_graph_and_no_reference(toy: Host) -> None:
    with tap(toy, "path:embed@out") as seen:
        toy.model(**IDS)["hidden"].sum().backward()

    kept = seen["path:embed@out"]
    assert not kept.requires_grad
    kept.zero_()
    assert toy(IDS)["hidden"].any()


@pytest.mark.parametrize("padded", [0, 3])
def test_left_padding_gives_what_the_text_alone_gives(padded: int) -> None:
    """GPT-2 without position ids differs by 0.17 here: TransformerLens #1609."""
    host = tiny("gpt2")
    ids = torch.arange(3, 9)[None]
    with tap(host, "blocks.2.resid_post") as alone:
        host({"input_ids": ids})

    filler = torch.zeros(1, padded, dtype=torch.long)
    batch = {
        "input_ids": torch.cat([filler, ids], 1),
        "attention_mask": torch.cat([filler, torch.ones_like(ids)], 1),
    }
    with tap(host, "blocks.2.resid_post") as seen:
        host(batch)

    torch.testing.assert_close(
        seen["blocks.2.resid_post"][:, padded:],
        alone["blocks.2.resid_post"],
        rtol=0,
        atol=1e-5,
    )


def test_generation_gives_a_list_of_steps() -> None:
    host = tiny("gpt2")
    with tap(host, "blocks.0.resid_post") as seen:
        host.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3, do_sample=False, pad_token_id=0)

    assert [tuple(t.shape) for t in seen["blocks.0.resid_post"]] == [
        (1, 3, 16),
        (1, 1, 16),
        (1, 1, 16),
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_hosts_are_seen_as_they_are(dtype: torch.dtype) -> None:
    host = tiny("llama")
    host.model.to(dtype)
    states = host({"input_ids": IDS["input_ids"], "output_hidden_states": True}).hidden_states

    with tap(host, "blocks.1.resid_pre") as seen:
        host(IDS)

    assert seen["blocks.1.resid_pre"].dtype == dtype
    assert torch.equal(seen["blocks.1.resid_pre"], states[1])
    assert check(host).holds


def test_a_quantised_host_gives_ordinary_floats() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantise: Any = torch.ao.quantization.quantize_dynamic  # pyright: ignore[reportDeprecated]
        quantised = quantise(model, {nn.Linear}, torch.qint8)
    host = Host(quantised, "quantised")

    with tap(host, "path:0@out") as seen:
        host(torch.ones(3, 4))

    assert seen["path:0@out"].dtype == torch.float32
    assert seen["path:0@out"].shape == (3, 8)
    assert len(host.digest) == 64


def test_a_host_spread_by_accelerate_gives_the_same_rows(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    tiny("gpt2").model.save_pretrained(tmp_path)  # type: ignore[operator]
    folder = str(tmp_path)
    tokenizer = object()
    whole = load_host(folder, device="cpu", tokenizer=tokenizer)
    spread = load_host(
        folder,
        device_map={"transformer.wte": "cpu", "transformer.wpe": "cpu", "transformer.h.0": "cpu"}
        | {f"transformer.{name}": "disk" for name in ("drop", "h.1", "h.2", "ln_f")}
        | {"lm_head": "cpu"},
        tokenizer=tokenizer,
    )
    assert any(p.device.type == "meta" for p in spread.model.parameters())

    with tap(whole, "blocks.*.resid_post") as one, tap(spread, "blocks.*.resid_post") as other:
        whole(IDS)
        spread(IDS)

    assert all(torch.equal(one[name], other[name]) for name in one)
    assert spread.device == torch.device("cpu")
    assert whole.digest == spread.digest


def test_a_stopping_tap_sees_every_call_of_a_module_that_is_called_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.layer(x))

    host = load_host(Twice())
    with tap(host, "path:layer@out", stop=True) as seen:
        first, second = host(torch.ones(3, 4)), host(torch.ones(3, 4))

    assert first is not None
    assert second is None
    assert torch.equal(seen["path:layer@out"][:6], seen["path:layer@out"][6:])
    assert len(seen["path:layer@out"]) == 12


def test_a_stopping_tap_lets_the_models_own_calls_run_to_their_end() -> None:
    """Only `host(...)` can take the early end; a user's own call would get the exception."""
    host = tiny("gpt2")
    with tap(host, "blocks.0.resid_post", stop=True) as seen:
        host(IDS)
        out = host.generate(
            torch.tensor([[5, 6]]), max_new_tokens=2, do_sample=False, pad_token_id=0
        )
        assert host(IDS) is None
        assert host.model(**IDS).logits.shape[:2] == (2, 3)

    assert out.shape[1] > 2
    assert seen["blocks.0.resid_post"]


def test_models_that_count_positions_from_the_padding_are_left_to_it() -> None:
    """RoBERTa's positions begin after its padding's; position ids from the mask would be wrong."""
    host = tiny("roberta")
    pad = host.config.pad_token_id
    ids = torch.arange(5, 11)[None]
    with tap(host, "blocks.1.resid_post") as alone:
        host({"input_ids": ids})
    filler = torch.full((1, 3), pad)
    batch = {
        "input_ids": torch.cat([filler, ids], 1),
        "attention_mask": torch.cat([filler * 0, torch.ones_like(ids)], 1),
    }

    with tap(host, "blocks.1.resid_post") as seen:
        host(batch)

    assert host.position_offset == pad + 1
    got, wanted = seen["blocks.1.resid_post"][:, 3:], alone["blocks.1.resid_post"]
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


def test_a_host_in_training_mode_is_tapped_with_a_word(
    toy: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.model.train()

    with tap(toy, "path:norm@out"):
        toy(IDS)

    assert "toy is in training mode" in capsys.readouterr().err
