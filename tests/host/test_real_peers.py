"""What is recorded from other libraries' models is what their own caches and hooks give.

Runs with the libraries themselves, on tiny random models, where they are installed, and skips where
they are not: `pip install timm open_clip_torch nnsight peft transformer-lens`, and once more with
`transformer-lens<4` for HookedTransformer.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from probe_sae.errors import HostNotFound
from probe_sae.host import Host, check, edit, load_host, tap
from probe_sae.host.libraries import BUNDLED

FOLDER = BUNDLED / "code-lm"
TOKENS = torch.arange(5, 23).view(2, 9)
POST = "blocks.1.resid_post"


def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(str(FOLDER))


def plain_lm() -> Any:
    config = transformers.GPT2Config(
        n_embd=16, n_layer=3, n_head=2, vocab_size=4096, n_positions=32
    )
    torch.manual_seed(0)
    return shaken(transformers.GPT2LMHeadModel(config)).eval()


def shaken(model: Any) -> Any:
    """Move every weight: norms that scale by 1 would hide where they are."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def halved(rows: Tensor) -> Tensor:
    return rows * 0.5


def test_nnsight_saves_what_is_tapped_and_is_edited_as_by_itself() -> None:
    nnsight = pytest.importorskip("nnsight")
    wrapped = nnsight.LanguageModel(plain_lm(), tokenizer=tokenizer())
    wrapped.dispatch()
    with wrapped.trace({"input_ids": TOKENS}):
        mlp = wrapped.transformer.h[1].mlp.output.save()
        post = wrapped.transformer.h[1].output.save()
    with wrapped.trace({"input_ids": TOKENS}):
        wrapped.transformer.h[1].mlp.output = wrapped.transformer.h[1].mlp.output * 0.5
        theirs = wrapped.output.logits.save()

    sites = [POST, "transformer.h[1].mlp.output"]
    with tap(wrapped, sites) as seen, wrapped.trace({"input_ids": TOKENS}):
        plain = wrapped.output.logits.save()
    with edit(wrapped, "blocks.1.hook_mlp_out", halved), wrapped.trace({"input_ids": TOKENS}):
        ours = wrapped.output.logits.save()

    assert torch.equal(seen[POST], post[0] if isinstance(post, tuple) else post)
    assert torch.equal(seen["blocks.1.mlp_out"], mlp)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, plain)


def test_an_adapted_model_of_peft_is_seen_with_its_adapters() -> None:
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(
        r=4, target_modules=["c_proj"], fan_in_fan_out=True, init_lora_weights=False
    )
    model = plain_lm()
    bare = model(TOKENS, output_hidden_states=True).hidden_states[2]
    adapted = peft.get_peft_model(model, settings).eval()

    with torch.no_grad(), tap(adapted, POST) as seen:
        theirs = adapted(TOKENS, output_hidden_states=True).hidden_states[2]

    assert torch.equal(seen[POST], theirs)
    assert not torch.allclose(theirs, bare)
    assert check(load_host(adapted)).holds
    tuning = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    tuned = peft.get_peft_model(plain_lm(), tuning)
    with pytest.raises(HostNotFound, match="virtual tokens"):
        load_host(tuned)


def test_a_pipeline_brings_its_tokenizer() -> None:
    pipeline: Any = transformers.pipeline
    made = pipeline("text-generation", model=plain_lm(), tokenizer=tokenizer(), device="cpu")

    host = load_host(made)

    assert host.tokenizer is made.tokenizer
    assert host.model is made.model


def hooked_transformer() -> Any:
    library = pytest.importorskip("transformer_lens")
    if int(version("transformer-lens").partition(".")[0]) > 3:
        pytest.skip("HookedTransformer ended with TransformerLens 3.")
    config = library.HookedTransformerConfig(
        n_layers=3, d_model=16, n_ctx=32, d_head=8, n_heads=2, d_mlp=24, d_vocab=4096,
        act_fn="gelu", normalization_type="LN", device="cpu", seed=0,
    )  # fmt: skip
    return shaken(library.HookedTransformer(config, tokenizer(), move_to_device=False)).eval()


def bridge() -> Any:
    library = pytest.importorskip("transformer_lens.model_bridge")
    return library.TransformerBridge.boot_transformers(
        str(FOLDER), hf_model=plain_lm(), tokenizer=tokenizer(), device="cpu"
    )


KNOWN = ("blocks.1.attn.hook_", "blocks.1.mlp.hook_", "hook_embed", "ln_final.hook_normalized")


@pytest.mark.parametrize("make", [hooked_transformer, bridge])
def test_transformer_lens_caches_what_is_tapped(make: Any) -> None:
    model = make()
    _, cache = model.run_with_cache(TOKENS)
    host = load_host(model)
    names = [name for name in cache if name.startswith(KNOWN) or ".1.hook_" in name]

    with tap(host, ["*", *names]) as seen:
        host({"input_ids": TOKENS})

    assert {"blocks.1.hook_resid_post", "blocks.1.attn.hook_z", *KNOWN[2:]} < set(names)
    assert "blocks.1.resid_post" in seen
    for name in names:
        assert torch.equal(seen[name], cache[name].reshape(seen[name].shape)), name
    assert host.tokenizer is not None


@pytest.mark.parametrize("make", [hooked_transformer, bridge])
@pytest.mark.parametrize(
    "name", ["hook_resid_post", "hook_mlp_out", "attn.hook_z", "hook_resid_pre"]
)
def test_transformer_lens_is_edited_as_by_its_own_hooks(make: Any, name: str) -> None:
    model = make()
    site = f"blocks.1.{name}"

    def half(value: Tensor, hook: Any) -> Tensor:
        return value * 0.5

    with torch.no_grad():
        plain = model(TOKENS)
        theirs = model.run_with_hooks(TOKENS, fwd_hooks=[(site, half)])
        with edit(model, site, halved):
            ours = model(TOKENS)

    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, plain)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {"depth": 3, "embed_dim": 24, "num_heads": 3}),
        ("resnet18", {}),
        ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}),
    ],
)
def test_a_timm_model_has_its_own_preprocessing_and_features(name: str, options: Any) -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model(name, pretrained=False, **options).eval()
    host = load_host(model)
    picture = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)

    inputs = host.image_inputs([picture])
    deepest = "blocks.2.resid_post" if "vit" in name else "stages.3.out"
    with tap(host, deepest) as seen:
        host(inputs)

    x = inputs["x"]
    with torch.no_grad():
        theirs = model.forward_intermediates(x, indices=1, norm=False, intermediates_only=True)[0]
    ours: Tensor = seen[deepest]
    if ours.ndim == 3:
        ours = ours[:, 1:].transpose(1, 2).reshape(theirs.shape)
    data = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**data, is_training=False)
    assert torch.equal(x[0], transform(image_of(picture)))
    assert torch.equal(ours, theirs)
    assert check(host).holds


def test_timm_models_have_names_as_hosts(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "weights.pth")

    host = load_host(f"timm:resnet10t@{tmp_path / 'weights.pth'}", device="cpu")

    assert host.hook_map is not None
    with pytest.raises(HostNotFound, match=r"timm has no model 'resnet10q'. Near it: resnet"):
        load_host("timm:resnet10q")
    assert isinstance(load_host("timm:resnet10t@random", device="cpu"), Host)


def image_of(picture: Any) -> Any:
    from PIL import Image

    return Image.fromarray(picture)


def test_open_clips_towers_are_tapped_together_and_alone() -> None:
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    model = open_clip.CLIP(
        10,
        {"layers": 3, "width": 64, "head_width": 32, "patch_size": 4, "image_size": 16},
        {"context_length": 8, "vocab_size": 50, "width": 24, "heads": 2, "layers": 3},
    ).eval()
    images, texts = torch.randn(2, 3, 16, 16), torch.randint(0, 50, (2, 8))
    with torch.no_grad():
        theirs = model.forward_intermediates(
            images, texts, normalize=False, image_output_fmt="NLC", image_output_extra_tokens=True
        )

    with torch.no_grad(), tap(model, ["*.blocks.1.hook_resid_post"]) as seen:
        model(images, texts)
    with torch.no_grad(), tap(model.visual, "vision.blocks.1.resid_post") as alone:
        model.visual(images)

    image = seen["vision.blocks.1.resid_post"]
    assert torch.equal(image[:, 1:], theirs["image_intermediates"][1])
    assert torch.equal(image[:, :1], theirs["image_intermediates_prefix"][1])
    assert torch.equal(seen["text.blocks.1.resid_post"], theirs["text_intermediates"][1])
    assert torch.equal(alone["vision.blocks.1.resid_post"], image)
