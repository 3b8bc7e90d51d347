"""Names, globs and braces find sites; what finds nothing names what is near."""

import pytest
import torch
import transformers

from probe_sae.errors import FormatError, SiteNotFound
from probe_sae.host import Host, hook_maps, load_host, tap
from probe_sae.host.hook_map import read_hook_map
from probe_sae.shipped import shipped


@pytest.fixture(scope="module")
def gpt2() -> Host:
    config = transformers.GPT2Config(
        n_embd=16,
        n_layer=3,
        n_head=2,
        vocab_size=50,
        n_positions=32,
        bos_token_id=0,
        eos_token_id=0,
    )
    return load_host(transformers.GPT2LMHeadModel(config))


@pytest.fixture(scope="module")
def vit() -> Host:
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=8,
        patch_size=2,
        num_channels=1,
    )
    return load_host(transformers.ViTForImageClassification(config))


@pytest.fixture(scope="module")
def llama() -> Host:
    config = transformers.LlamaConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        vocab_size=50,
    )
    return load_host(transformers.LlamaForCausalLM(config))


FAMILIES = ("gpt2", "llama", "vit")


def inputs(family: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    if family == "vit":
        return {"pixel_values": torch.randn(2, 1, 8, 8, generator=generator)}
    return {"input_ids": torch.randint(0, 50, (2, 7), generator=generator)}


@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_residuals_are_the_hidden_states(
    family: str, request: pytest.FixtureRequest
) -> None:
    host: Host = request.getfixturevalue(family)
    with tap(host, ["embed", "blocks.*.resid_pre", "blocks.*.resid_post"]) as seen:
        output = host(inputs(family), output_hidden_states=True)

    states = output.hidden_states
    for i in range(3):
        assert torch.equal(seen[f"blocks.{i}.resid_pre"], states[i])
    for i in range(2):
        assert torch.equal(seen[f"blocks.{i}.resid_post"], states[i + 1])


@pytest.mark.parametrize("family", FAMILIES)
def test_residual_identities_hold(family: str, request: pytest.FixtureRequest) -> None:
    """What a block's parts add to the stream is what its names say."""
    host: Host = request.getfixturevalue(family)
    with tap(host, ["blocks.1.*"]) as seen:
        host(inputs(family))
    part = {name.removeprefix("blocks.1."): tensor for name, tensor in seen.items()}

    assert torch.equal(part["resid_pre"] + part["attn_out"], part["resid_mid"])
    assert torch.equal(part["resid_mid"] + part["mlp_out"], part["resid_post"])


@pytest.mark.parametrize("family", FAMILIES)
def test_declared_widths_are_those_of_the_tensors(
    family: str, request: pytest.FixtureRequest
) -> None:
    host: Host = request.getfixturevalue(family)
    with tap(host, "*") as seen:
        host(inputs(family))

    assert {name: t.shape[-1] for name, t in seen.items()} == {
        name: site.width for name, site in host.sites.items()
    }


def test_globs_and_braces_find_sites(gpt2: Host) -> None:
    def names(pattern: str) -> list[str]:
        return [site.name for site in gpt2.find_sites(pattern)]

    assert names("blocks.{0,2}.resid_post") == ["blocks.0.resid_post", "blocks.2.resid_post"]
    assert names("blocks.*.mlp_out") == [f"blocks.{i}.mlp_out" for i in range(3)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blocks.1.resid_pots", "Near it: blocks.1.resid_post"),
        ("blocks.9.*", "probe-sae sites"),
        ("path:transformer.h.1.mpl@out", r"Near it: transformer\.h\.1\.mlp"),
        ("path:transformer@sideways", "expected @in or @out"),
    ],
)
def test_a_site_that_is_not_there_names_what_is_near(gpt2: Host, name: str, message: str) -> None:
    with pytest.raises(SiteNotFound, match=message):
        gpt2.find_sites(name)


def test_every_shipped_map_keeps_the_schema() -> None:
    assert {m.family for m in hook_maps()} >= set(FAMILIES)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('family = "gpt2"', 'familly = "gpt2"', "Near it: family"),
        ('family = "gpt2"', "", "lacks family"),
        ('layout = "tokens"', 'layout = "square"', "layout or kind"),
        ('io = "out" }', 'io = "sideways" }', "io = in or out"),
        ('family = "gpt2"', "family = ", "hook map bad.toml"),
    ],
)
def test_a_map_that_breaks_the_schema_is_refused(old: str, new: str, message: str) -> None:
    text = shipped("hooks/gpt2.toml").read_text().replace(old, new)

    with pytest.raises(FormatError, match=message):
        read_hook_map(text, "bad.toml")
