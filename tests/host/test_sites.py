"""Names, globs and braces find sites; what finds nothing names what is near."""

from types import SimpleNamespace

import pytest
import transformers

from probe_sae.errors import SiteNotFound
from probe_sae.host import Host, load_host
from probe_sae.host.config_number import config_number, is_formula


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


def test_sites_come_block_by_block_in_the_order_of_the_map(gpt2: Host) -> None:
    names = list(gpt2.sites)

    assert names[:3] == ["embed", "blocks.0.resid_pre", "blocks.0.heads"]
    assert names[-2:] == ["final_norm", "logits"]
    assert names.index("blocks.0.resid_post") < names.index("blocks.1.resid_pre")


def test_a_site_that_only_other_configs_have_says_which(gpt2: Host) -> None:
    with pytest.raises(SiteNotFound, match="only where _attn_implementation = eager"):
        gpt2.find_sites("blocks.1.attn_pattern")
    with pytest.raises(SiteNotFound, match="only where _attn_implementation = eager"):
        gpt2.find_sites("blocks.*.attn_pattern")


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("12", 12),
        ("width", 8),
        ("4*width + 1", 33),
        ("inner | 4*width", 32),
        ("nested.width | width", 5),
        ("sizes[s]", 30),
        ("width * 2^s", 32),
        ("missing", None),
        ("flag", None),
    ],
)
def test_numbers_of_a_config(formula: str, value: int | None) -> None:
    config = SimpleNamespace(
        width=8, inner=None, nested=SimpleNamespace(width=5), sizes=[10, 20, 30], flag=True
    )

    assert is_formula(formula)
    assert config_number(formula, config, {"s": 2}) == value


@pytest.mark.parametrize("text", ["", "a b", "f(x)", "a-b", "a**b", "x.__class__()", "1/2"])
def test_what_is_no_formula(text: str) -> None:
    assert not is_formula(text)
