"""Models that other libraries wrap are looked into as their owners run them.

The wrappers here are fakes of a few lines, with the classes' names and shapes; `test_real_peers.py`
looks into the libraries' own where they are installed.
"""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from probe_sae.errors import HostNotFound, ShapeError
from probe_sae.host import Host, check, edit, hook_maps, load_host, tap

TOKENS = torch.arange(3, 13).view(2, 5)
POST = "blocks.1.resid_post"
MAPS = {hook_map.family: hook_map for hook_map in hook_maps()}


def of_library(library: str, cls: type) -> type:
    """Return the class as if it came from a library."""
    cls.__module__ = library
    return cls


@pytest.fixture
def gpt2() -> transformers.GPT2LMHeadModel:
    config = transformers.GPT2Config(n_embd=16, n_layer=3, n_head=2, vocab_size=50, n_positions=32)
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(config).eval()


class Envoy:
    """nnsight's: no module itself, it holds one, which may still have to be loaded."""

    def __init__(self, model: nn.Module) -> None:
        self._module: nn.Module = nn.Identity()
        self._later, self.tokenizer, self.dispatched = model, "a tokenizer", False

    def dispatch(self) -> None:
        self._module, self.dispatched = self._later, True

    def __call__(self, ids: Tensor) -> Any:
        return self._module(ids)


class PeftModel(nn.Module):
    """PEFT's: the base model, whose layers it has changed in place."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base_model, self.active_peft_config = model, None

    def get_base_model(self) -> nn.Module:
        return self.base_model

    def forward(self, ids: Tensor) -> Any:
        return self.base_model(ids)


class Pipeline:
    """transformers': a model with what prepares its inputs."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.tokenizer, self.image_processor = model, "a tokenizer", None

    def __call__(self, ids: Tensor) -> Any:
        return self.model(ids)


of_library("nnsight.intervention.envoy", Envoy)
of_library("peft.peft_model", PeftModel)
of_library("transformers.pipelines.base", Pipeline)
WRAPPERS = {
    "nnsight": Envoy,
    "peft": PeftModel,
    "pipeline": Pipeline,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "parallel": nn.DataParallel,
    "pipeline of an adapted one": lambda model: Pipeline(PeftModel(model)),
}


@pytest.mark.parametrize("how", WRAPPERS)
def test_a_wrapped_model_is_tapped_and_edited_as_its_owner_runs_it(
    gpt2: transformers.GPT2LMHeadModel, how: str
) -> None:
    plain: list[Tensor] = []
    handle = gpt2.transformer.h[1].register_forward_hook(lambda *given: plain.append(given[-1]))
    before = gpt2(TOKENS).logits
    handle.remove()
    wrapped: Any = WRAPPERS[how](gpt2)
    with torch.no_grad():
        if how != "nnsight":  # whose model is loaded by the first look
            wrapped(TOKENS)  # what is compiled now, a hook set later does not enter

    with torch.no_grad(), tap(wrapped, "blocks.1.hook_resid_post") as seen:
        wrapped(TOKENS)
    with torch.no_grad(), edit(wrapped, POST, torch.zeros_like):
        edited = wrapped(TOKENS).logits

    assert list(seen) == [POST]
    assert torch.equal(seen[POST], plain[0])
    assert not torch.equal(edited, before)
    assert torch.equal(gpt2(TOKENS).logits, before)


def test_a_wrapped_model_is_called_what_it_is_not_what_it_is_wrapped_in(
    gpt2: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    host = load_host(nn.DataParallel(gpt2))

    assert host.name == "GPT2LMHeadModel"
    assert "GPT2LMHeadModel is wrapped in DataParallel; looking" in capsys.readouterr().err


def test_a_function_that_was_compiled_around_a_model_is_seen_through(
    gpt2: transformers.GPT2LMHeadModel,
) -> None:
    compiled: Any = torch.compile(lambda ids: gpt2(ids).logits, backend="eager")
    with torch.no_grad():
        before = compiled(TOKENS)
        with tap(gpt2, POST) as seen:
            compiled(TOKENS)

        assert seen[POST].shape == (2, 5, 16)
        assert torch.equal(compiled(TOKENS), before)


def test_a_wrapped_model_is_checked_as_the_host_in_it(gpt2: nn.Module) -> None:
    proof = check(nn.DataParallel(gpt2), edits=False)

    assert (proof.holds, proof.family) == (True, "gpt2")


@pytest.mark.parametrize("how", ["nnsight", "pipeline", "pipeline of an adapted one"])
def test_a_wrappers_tokenizer_comes_along(gpt2: nn.Module, how: str) -> None:
    host = load_host(WRAPPERS[how](gpt2))

    assert host.model is gpt2
    assert host.tokenizer == "a tokenizer"
    assert load_host(WRAPPERS[how](gpt2), tokenizer="mine").tokenizer == "mine"


def test_a_part_of_a_wrapped_model_is_a_host(gpt2: transformers.GPT2LMHeadModel) -> None:
    part = Envoy(gpt2.transformer.h[1])

    assert load_host(part).model is gpt2.transformer.h[1]


def test_virtual_tokens_are_refused(gpt2: nn.Module) -> None:
    wrapped: Any = PeftModel(gpt2)
    wrapped.active_peft_config = type("Config", (), {"is_prompt_learning": True})()

    with pytest.raises(HostNotFound, match="virtual tokens"):
        load_host(wrapped)


@pytest.mark.parametrize(
    ("what", "message"), [("gpt2", "load_host it first"), (3, "is a int; expected an nn.Module")]
)
def test_what_is_no_model_cannot_be_tapped(what: Any, message: str) -> None:
    with pytest.raises(HostNotFound, match=message), tap(what, POST):
        pass


class HookPoint(nn.Module):
    """TransformerLens': an identity with a name."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def points(count: int) -> list[HookPoint]:
    return [HookPoint() for _ in range(count)]


class Attention(nn.Module):
    """Keeps its heads on an axis of their own, and its projection is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.out = nn.Linear(8, 8), nn.Parameter(torch.randn(2, 4, 8))
        self.hook_pattern, self.hook_z = HookPoint(), HookPoint()

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.ones(len(x), 2, x.shape[1], x.shape[1]).tril().log() + x.mean()
        values = self.mix(x).unflatten(-1, (2, 4))
        z = torch.einsum("bhqk,bkhd->bqhd", self.hook_pattern(scores.softmax(-1)), values)
        return torch.einsum("bqhd,hdm->bqm", self.hook_z(z), self.out)


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.hook_post = nn.Linear(8, 12), nn.Linear(12, 8), HookPoint()

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.hook_post(self.up(x).relu()))


class Block(nn.Module):
    hook_resid_pre: HookPoint
    hook_resid_mid: HookPoint
    hook_resid_post: HookPoint
    hook_attn_out: HookPoint
    hook_mlp_out: HookPoint

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.mlp, self.ln1, self.ln2 = (
            Attention(),
            MLP(),
            nn.LayerNorm(8),
            nn.LayerNorm(8),
        )
        for name in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"):
            self.add_module(f"hook_{name}", HookPoint())

    def forward(self, x: Tensor) -> Tensor:
        x = self.hook_resid_pre(x)
        x = self.hook_resid_mid(x + self.hook_attn_out(self.attn(self.ln1(x))))
        return self.hook_resid_post(x + self.hook_mlp_out(self.mlp(self.ln2(x))))


class HookedTransformer(nn.Module):
    """TransformerLens': its tokens are called `input`, its configuration `cfg`."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {"d_model": 8, "n_heads": 2, "d_head": 4, "d_mlp": 12, "d_vocab": 20}
        switches = {"parallel_attn_mlp": False, "attn_only": False, "d_vocab_out": 20}
        self.cfg = type("Config", (), sizes | switches)()
        self.tokenizer = "a tokenizer"
        self.embed, self.hook_embed = nn.Embedding(20, 8), HookPoint()
        self.pos_embed = nn.Parameter(torch.randn(9, 8))
        self.blocks = nn.ModuleList([Block(), Block()])
        self.ln_final, self.unembed = nn.LayerNorm(8), nn.Linear(8, 20)
        self.hook_dict = {
            name: module for name, module in self.named_modules() if isinstance(module, HookPoint)
        }

    def forward(self, input: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.hook_embed(self.embed(input)) + self.pos_embed[: input.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.unembed(self.ln_final(x))


of_library("transformer_lens.HookedTransformer", HookedTransformer)


@pytest.fixture
def hooked() -> Host:
    torch.manual_seed(0)
    return load_host(HookedTransformer())


def test_a_hooked_transformer_has_our_sites_at_its_hook_points(hooked: Host) -> None:
    proof = check(hooked)

    assert hooked.hook_map is not None
    assert hooked.hook_map.family == "hookedtransformer"
    assert [f"{f.about}: {f.detail}" for f in proof.findings if not f.holds] == []
    assert hooked.tokenizer == "a tokenizer"


def test_its_hook_points_are_tapped_bit_for_bit_under_both_names(hooked: Host) -> None:
    plain: dict[str, Tensor] = {}
    points: dict[str, nn.Module] = {**hooked.model.hook_dict}  # type: ignore[dict-item]
    for name, point in points.items():
        point.register_forward_hook(lambda _, __, out, name=name: plain.update({name: out}))

    with tap(hooked, ["*", "hook_embed"]) as seen:
        hooked({"input_ids": TOKENS})

    assert seen["blocks.1.heads"].shape == (2, 5, 2, 4)
    for name, value in plain.items():
        assert torch.equal(seen[name], value), name


def test_heads_are_edited_as_rows(hooked: Host) -> None:
    widths: list[int] = []

    def first_head_only(rows: Tensor) -> Tensor:
        widths.append(rows.shape[-1])
        rows[..., 4:] = 0
        return rows

    with (
        tap(hooked, "blocks.0.attn_out") as seen,
        edit(hooked, "blocks.0.attn.hook_z", first_head_only),
    ):
        hooked({"input_ids": TOKENS})
    with tap(hooked, ["blocks.0.heads", "blocks.0.attn_out"]) as plain:
        hooked({"input_ids": TOKENS})

    attention: Any = hooked.model.get_submodule("blocks.0.attn")
    wanted = torch.einsum("bqd,dm->bqm", plain["blocks.0.heads"][:, :, 0], attention.out[0])
    assert widths == [8]
    assert torch.allclose(seen["blocks.0.attn_out"], wanted, atol=1e-6)


def test_padded_rows_need_a_model_that_takes_a_mask() -> None:
    class Masked(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return tokens + 1

    host = Host(Masked(), "plain")
    mask = torch.ones_like(TOKENS)

    assert torch.equal(host({"input_ids": TOKENS, "attention_mask": mask}), TOKENS + 1)
    mask[0, -1] = 0
    with pytest.raises(ShapeError, match="takes no attention mask"):
        host({"input_ids": TOKENS, "attention_mask": mask})
