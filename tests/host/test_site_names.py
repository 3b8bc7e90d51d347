"""Other libraries' names of sites find ours, and only where they mean the same."""

import pytest
import torch
import transformers

from probe_sae.errors import SiteNotFound
from probe_sae.host import Host, edit, load_host, tap
from probe_sae.site_names import aliases, named, other_names

TOKENS = torch.arange(3, 13).view(2, 5)


@pytest.fixture(scope="module")
def gpt2() -> Host:
    config = transformers.GPT2Config(n_embd=16, n_layer=3, n_head=2, vocab_size=50, n_positions=32)
    config._attn_implementation = "eager"
    return load_host(transformers.GPT2LMHeadModel(config))


@pytest.fixture(scope="module")
def bert() -> Host:
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    return load_host(transformers.BertModel(config))


def found(host: Host, pattern: str) -> list[str]:
    return [site.name for site in host.find_sites(pattern)]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("blocks.1.hook_resid_pre", "blocks.1.resid_pre"),
        ("blocks.1.hook_resid_mid", "blocks.1.resid_mid"),
        ("blocks.1.hook_resid_post", "blocks.1.resid_post"),
        ("blocks.1.hook_attn_out", "blocks.1.attn_out"),
        ("blocks.1.hook_mlp_out", "blocks.1.mlp_out"),
        ("blocks.1.attn.hook_z", "blocks.1.heads"),
        ("blocks.1.attn.hook_pattern", "blocks.1.attn_pattern"),
        ("blocks.1.mlp.hook_post", "blocks.1.mlp_post"),
        ("ln_final.hook_normalized", "final_norm"),
        ("hook_unembed", "logits"),
        ("blocks.1.hook_in", "blocks.1.resid_pre"),
        ("resid_post_layer_1", "blocks.1.resid_post"),
        ("h.1", "blocks.1.resid_post"),
        ("transformer.h.1.mlp", "blocks.1.mlp_out"),
        ("transformer.h[1].output[0]", "blocks.1.resid_post"),
        ("transformer.h.1.ln_2.input", "blocks.1.resid_mid"),
        ("h.1.mlp.act", "path:transformer.h.1.mlp.act@out"),
        ("hook_embed", "path:transformer.wte@out"),
    ],
)
def test_a_name_of_another_library_finds_our_site(gpt2: Host, theirs: str, ours: str) -> None:
    assert found(gpt2, theirs) == [ours]


def test_globs_and_braces_work_in_other_names(gpt2: Host) -> None:
    posts = [f"blocks.{i}.resid_post" for i in range(3)]

    assert found(gpt2, "blocks.*.hook_resid_post") == posts
    assert found(gpt2, "blocks.{0,2}.hook_resid_post") == [posts[0], posts[2]]
    assert found(gpt2, "h.*.mlp") == [f"blocks.{i}.mlp_out" for i in range(3)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blocks.1.attn.hook_q", r"Near it: .*blocks\.1\.heads \(blocks\.1\.attn\.hook_z\)"),
        ("blocks.7.hook_resid_post", r"Near it: blocks\.\d\.resid_post "),
        ("hook_pos_embed", "no site 'hook_pos_embed'"),
        ("ln_1", r"may be in transformer\.h\.0 or in transformer\.h\.1"),
        ("layers.1", r"no site 'layers.1'\. Near it: blocks\.1\.resid_post\. "),
    ],
)
def test_a_name_that_means_nothing_here_is_an_error(gpt2: Host, name: str, message: str) -> None:
    with pytest.raises(SiteNotFound, match=message):
        gpt2.find_sites(name)


def test_a_site_that_only_other_configs_have_says_so_under_any_name() -> None:
    config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50, n_positions=32)
    host = load_host(transformers.GPT2LMHeadModel(config))

    with pytest.raises(SiteNotFound, match="only where _attn_implementation = eager"):
        host.find_sites("blocks.0.attn.hook_pattern")


def test_sums_that_a_norm_follows_are_what_transformer_lens_means(bert: Host) -> None:
    """BERT norms each sum; TransformerLens hooks the sum, our sites hold what comes after."""
    with tap(bert, ["blocks.1.hook_resid_post", "blocks.1.mlp_out", "blocks.1.resid_mid"]) as seen:
        bert(TOKENS)

    assert found(bert, "blocks.1.hook_resid_post") == ["path:encoder.layer.1.output.LayerNorm@in"]
    assert found(bert, "blocks.1.hook_normalized_resid_post") == ["blocks.1.resid_post"]
    theirs = seen["blocks.1.hook_resid_post"]
    assert torch.equal(theirs, seen["blocks.1.mlp_out"] + seen["blocks.1.resid_mid"])


def test_the_embedding_alone_is_the_named_site_where_nothing_is_added_to_it() -> None:
    config = transformers.LlamaConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
    )
    host = load_host(transformers.LlamaModel(config))

    assert found(host, "hook_embed") == ["embed"]
    assert found(host, "layers.0") == ["blocks.0.resid_post"]


def test_what_was_tapped_is_read_under_either_name(gpt2: Host) -> None:
    with tap(gpt2, "blocks.*.hook_resid_post") as seen:
        gpt2(TOKENS)

    assert list(seen) == [f"blocks.{i}.resid_post" for i in range(3)]
    assert seen["blocks.1.hook_resid_post"] is seen["blocks.1.resid_post"]
    with pytest.raises(KeyError, match="was not tapped"):
        _ = seen["blocks.1.hook_resid_pre"]
    with pytest.raises(KeyError, match="has no site"):
        _ = seen["blocks.1.hook_nothing"]


def test_an_edit_under_another_name_is_the_same_edit(gpt2: Host) -> None:
    outputs = []
    for name in ("blocks.1.hook_mlp_out", "blocks.1.mlp_out"):
        with edit(gpt2, name, torch.zeros_like):
            outputs.append(gpt2(TOKENS).logits)

    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], gpt2(TOKENS).logits)


def test_the_one_name_of_another_value_comes_with_a_word(
    gpt2: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    gpt2.find_sites("ln_final.hook_out")
    assert capsys.readouterr().err == ""

    gpt2.find_sites("ln_final.hook_normalized")
    assert "before the norm's weights and bias" in capsys.readouterr().err


def test_our_own_names_go_first() -> None:
    known = ["blocks.0.resid_post", "blocks.0.hook_resid_post"]

    assert named("blocks.0.hook_resid_post", known) == ["blocks.0.hook_resid_post"]


def test_towers_keep_their_names_in_both_forms() -> None:
    assert "encoder.3.hook_resid_post" in other_names("encoder.blocks.3.resid_post")
    assert aliases(["decoder.blocks.0.cross_out"])["decoder.0.hook_cross_attn_out"]
