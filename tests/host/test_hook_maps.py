"""Every shipped hook map is proven on tiny random models; a wrong map is noticed."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import probe_sae.host
from probe_sae.errors import EnvironmentProblem, FormatError, ProbeSaeError
from probe_sae.host import Host, check, hook_maps, load_host, tap
from probe_sae.host.hook_map import HookMap, TinyModel, Tower
from probe_sae.host.hook_map_file import read_hook_map
from probe_sae.host.proof_table import needs_others, prove, table
from probe_sae.host.tiny import example_inputs, tiny_host
from probe_sae.shipped import shipped

GUIDES = Path(probe_sae.host.__file__).parents[1] / "guide"
MAPS = {hook_map.family: hook_map for hook_map in hook_maps()}
TINY = [
    pytest.param(hook_map, tiny, attention, id=f"{family}-{number}-{attention or 'default'}")
    for family, hook_map in sorted(MAPS.items())
    for number, tiny in enumerate(hook_map.tiny)
    for attention in ((None, "eager") if tiny.model.startswith("transformers:") else (None,))
]


def test_at_least_35_families_are_there_and_each_brings_its_proof() -> None:
    assert len(MAPS) >= 35
    assert [family for family, hook_map in MAPS.items() if not hook_map.tiny] == []


def made(hook_map: HookMap, tiny: TinyModel, attention: str | None) -> Host:
    """Make a tiny host, or skip where its library is one that probe_sae does without."""
    try:
        return tiny_host(hook_map, tiny, attention)
    except EnvironmentProblem as problem:
        if not needs_others(hook_map):
            raise
        pytest.skip(str(problem))


@pytest.mark.parametrize(("hook_map", "tiny", "attention"), TINY)
def test_every_map_is_proven(hook_map: HookMap, tiny: TinyModel, attention: str | None) -> None:
    host = made(hook_map, tiny, attention)

    proof = check(host, example_inputs(host, tiny))

    assert [f"{f.about}: {f.detail}" for f in proof.findings if not f.holds] == []
    assert set(proof.sites) == set(host.sites) != set()
    identities = [f for f in proof.findings if " == " in f.about]
    assert identities
    assert max(f.error for f in identities if f.error is not None) <= 1e-6


@pytest.mark.parametrize(
    ("hook_map", "tiny", "attention"), [p for p in TINY if p.values[2] is None]
)
def test_a_tap_of_every_site_equals_plain_hooks_bit_for_bit(
    hook_map: HookMap, tiny: TinyModel, attention: str | None
) -> None:
    host = made(hook_map, tiny, attention)
    inputs = example_inputs(host, tiny)
    plain: dict[str, list[Any]] = {}
    handles: list[Any] = []
    for site in host.sites.values():
        module = host.model.get_submodule(site.path)
        if site.io == "in":

            def before(_: Any, args: Any, kwargs: Any, name: str = site.name) -> None:
                first = next(v for v in [*args, *kwargs.values()] if isinstance(v, Tensor))
                given = kwargs.get("hidden_states", first) if not args else first
                plain.setdefault(name, []).append(given.clone())

            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        else:

            def after(_: Any, __: Any, output: Any, name: str = site.name) -> None:
                select = host.sites[name].select
                if not isinstance(output, Tensor):
                    output = output[0 if select is None else select]
                plain.setdefault(name, []).append(output.clone())

            handles.append(module.register_forward_hook(after))
    host(inputs)
    for handle in handles:
        handle.remove()

    with tap(host, "*") as seen:
        host(inputs)

    for name, site in host.sites.items():
        assert torch.equal(seen[name], plain[name][site.call or 0]), name


def mutants(hook_map: HookMap) -> Iterator[tuple[str, HookMap]]:
    """Yield the map with two sites of a block swapped, and with an in-place edit not in place."""
    for number, tower in enumerate(hook_map.towers):
        inside = [name for name in tower.sites if "{" in name and "attn_pattern" not in name]
        for one, other in itertools.combinations(inside, 2):
            if one.rpartition(".")[0] == other.rpartition(".")[0]:
                swapped = {one: tower.sites[other], other: tower.sites[one]}
                what = f"{one} and {other} swapped"
                yield (
                    what,
                    _with(hook_map, number, replace(tower, sites=dict(tower.sites) | swapped)),
                )
        for name, rules in tower.sites.items():
            if any(rule.in_place for rule in rules):
                outside = {name: tuple(replace(rule, in_place=False) for rule in rules)}
                yield (
                    f"{name} not in place",
                    _with(hook_map, number, replace(tower, sites=dict(tower.sites) | outside)),
                )


def _with(hook_map: HookMap, number: int, tower: Tower) -> HookMap:
    towers = list(hook_map.towers)
    towers[number] = tower
    return replace(hook_map, towers=tuple(towers))


def is_noticed(mutant: HookMap) -> bool:
    """Tell whether the proof fails on one of the mutant's models."""
    for tiny in mutant.tiny:
        try:
            host = tiny_host(mutant, tiny)
            if not check(host, example_inputs(host, tiny)).holds:
                return True
        except ProbeSaeError:
            return True
    return False


@pytest.mark.parametrize("family", ["bert", "gemma2", "gpt2", "gpt_neox", "opt", "phi", "vit"])
def test_the_proof_notices_every_swap_of_two_sites(family: str) -> None:
    missed = [what for what, mutant in mutants(MAPS[family]) if not is_noticed(mutant)]

    assert missed == []


def test_the_proof_notices_a_wrong_number_of_special_positions() -> None:
    (tower,) = MAPS["vit"].towers
    wrong = replace(MAPS["vit"], towers=(replace(tower, special_prefix="2"),))

    proof = check(tiny_host(wrong, wrong.tiny[0]))

    assert [f.detail for f in proof.findings if not f.holds] == [
        "1 positions are the same for any image; expected 2"
    ]


def test_the_proof_notices_a_wrong_width_and_a_module_that_is_not_there() -> None:
    text = shipped("hooks/gpt2.toml").read_text()
    text = text.replace('"n_inner | 4*n_embd"', '"3*n_embd"').replace("{root}.drop", "{root}.drip")
    wrong = read_hook_map(text, "wrong.toml")

    details = [f.detail for f in check(tiny_host(wrong, wrong.tiny[0])).findings if not f.holds]

    assert "embed is not in this model: it has no module 'transformer.drip'." in details
    assert "rows are 64 long; the map says 48." in details


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('family = "gpt2"', 'familly = "gpt2"', "Near it: family"),
        ('family = "gpt2"', "", "lacks family"),
        ('model_types = ["gpt2"]', "", "lacks model_types or classes"),
        ('kind = "text"', 'kind = "smell"', "expected one of text, image, audio"),
        ('layout = "pattern"', 'layout = "square"', "expected one of BTD"),
        ('io = "out" }', 'io = "sideways" }', "expected one of in, out"),
        ('family = "gpt2"', "family = ", "hook map bad.toml"),
        ("4*n_embd", "__import__('os')", "expected numbers and config entries"),
        (', heads = "n_head"', "", "needs heads"),
        ("transformers:GPT2LMHeadModel", "os:system", "expected one of transformers, "),
        (" == blocks.0.resid_pre", "", "has no ' == '"),
        ("in_place = true", "in_plaice = true", "Near it: in_place"),
        ("in_place = true", 'in_place = "false"', "expected true or false"),
        ('"blocks.{i}.mlp_out"', '"blocks/{i}/mlp_out"', "expected names joined by dots"),
        ('"blocks.{i}.mlp_out"', '"..{i}"', "expected names joined by dots"),
        ('"{root}.h.{i}"', '"{root}.h.{1}"', "1} is no placeholder"),
        ("4*n_embd", "9" * 5000, "expected numbers and config entries"),
        ("vocab_size = 50,", "vocab_size = " + "9" * 5000 + ",", "bad.toml"),
        ("[paths]", "towers = { enc = 5 }\n[paths]", "expected a table"),
        ("[[tiny]]", "[[tiny]]\ninputs = { a = 3 }", "expected a shape"),
        ("[paths]", "x = " + "[" * 3000 + "\n[paths]", "bad.toml"),
        ("select = 1", "select = 1, call = -1", "expected a number, 0 the first"),
    ],
)
def test_a_map_that_breaks_the_schema_is_refused(old: str, new: str, message: str) -> None:
    text = shipped("hooks/gpt2.toml").read_text()
    assert old in text

    with pytest.raises(FormatError, match=message):
        read_hook_map(text.replace(old, new), "bad.toml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("attn_out == resid_mid", "attn_outt == resid_mid", "which is no site of it"),
        ('"{root}.h.{i}"', '"{rooot}.h.{i}"', "names no path"),
        ('at = "{root}.drop"', 'at = "{block}.ln_1"', "do not count the same"),
        ("ln_f@in", "ln_f@inn", "expected path:MODULE@in"),
        ("ln_f@in", "ln_f@in#x", "expected path:MODULE@in"),
        ("embed == blocks.0.resid_pre", "embed == embed", "holds of anything"),
        ('kind = "text"', 'kind = "text"\nhidden_states = "blocks.{i}.resid"', "is no site of it"),
    ],
)
def test_a_map_that_contradicts_itself_is_refused(old: str, new: str, message: str) -> None:
    text = shipped("hooks/gpt2.toml").read_text()
    assert old in text
    wrong = read_hook_map(text.replace(old, new), "bad.toml")

    with pytest.raises(FormatError, match=message):
        tiny_host(wrong, wrong.tiny[0])


@pytest.mark.parametrize(
    ("old", "new", "detail"),
    [
        ("path:{root}.ln_f@in", "path:{root}.lnf@in", "modules that this model has not"),
        ('"{block}.mlp", io', '"{block}.mlp.dropped", io', "has no module"),
        ('heads = "n_head"', 'heads = "3"', "heads do not share a row"),
        ('heads = "n_head"', 'heads = "0"', "heads do not share a row"),
        ('width = "n_inner | 4*n_embd"', 'width = "2^s"', ""),
    ],
)
def test_a_mistake_in_a_map_is_a_finding_and_never_a_crash(old: str, new: str, detail: str) -> None:
    text = shipped("hooks/gpt2.toml").read_text()
    assert old in text
    wrong = read_hook_map(text.replace(old, new), "wrong.toml")

    proof = check(tiny_host(wrong, wrong.tiny[0]))

    assert any(detail in f.detail for f in proof.findings if not f.holds) or not detail


def test_a_module_that_never_runs_is_a_finding() -> None:
    text = shipped("hooks/gpt2.toml").read_text()
    wrong = read_hook_map(text.replace('"{block}.mlp", io', '"{block}.unused", io'), "wrong.toml")
    tiny = tiny_host(MAPS["gpt2"], MAPS["gpt2"].tiny[0])
    for block in tiny.model.get_submodule("transformer.h").children():
        block.add_module("unused", nn.Identity())

    proof = check(Host(tiny.model, "with a module that never runs", hook_map=wrong))

    details = "; ".join(f.detail for f in proof.findings if not f.holds)
    assert "blocks.0.mlp_out fired 0 times" in details


def test_a_tiny_model_is_a_model_and_nothing_else() -> None:
    text = shipped("hooks/gpt2.toml").read_text()
    wrong = read_hook_map(text.replace("GPT2LMHeadModel", "AutoTokenizer"), "bad.toml")

    with pytest.raises(FormatError, match="AutoTokenizer is no PreTrainedModel"):
        tiny_host(wrong, wrong.tiny[0])


def test_a_family_is_added_from_a_folder_of_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example of the guide, outside the package, proven and used."""
    guide = (Path(probe_sae.host.__file__).parents[1] / "guide" / "new-family.md").read_text(
        "utf-8"
    )
    example = guide.partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "stablelm.toml").write_text(example, encoding="utf-8")
    model = transformers.StableLmForCausalLM(
        transformers.StableLmConfig(
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            intermediate_size=24,
            vocab_size=50,
        )
    )
    assert next(iter(load_host(model).sites)).startswith("path:")
    monkeypatch.setenv("PROBE_SAE_HOOKS", str(tmp_path))

    family = prove(next(m for m in hook_maps() if m.family == "stablelm"))
    host = load_host(model)

    assert family.holds
    assert [site.path for site in host.find_sites("blocks.1.resid_mid")] == [
        "model.layers.1.post_attention_layernorm"
    ]
    assert check(host).holds


class OwnNet(nn.Module):
    """A network of the user's own, without a config."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(6, 6) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = x + part(x)
        return x


def test_a_network_of_the_users_own_gets_names_by_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.toml").write_text(
        f"""
        family = "own"
        classes = ["{OwnNet.__module__}.OwnNet"]
        kind = "image"
        layout = "BD"
        identities = ["layers.{{i}}: in + out == path:{{after}}@in"]
        [paths]
        layer = "parts.{{i}}"
        after = "parts.{{i}}"
        [sites]
        "layers.{{i}}.in" = {{ at = "{{layer}}", io = "in" }}
        "layers.{{i}}.out" = {{ at = "{{layer}}", io = "out" }}
        """
    )
    monkeypatch.setenv("PROBE_SAE_HOOKS", str(tmp_path))

    host = load_host(OwnNet())

    assert list(host.sites)[:3] == ["layers.0.in", "layers.0.out", "layers.1.in"]
    assert not check(host, {"x": torch.ones(2, 6)}).holds  # the identity is of the next layer


def test_a_hook_folder_that_is_none_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROBE_SAE_HOOKS", "/nowhere")

    with pytest.raises(FormatError, match="PROBE_SAE_HOOKS is '/nowhere', which is no folder"):
        hook_maps()


@pytest.mark.parametrize("family", ["gpt2", "opt", "torchvision_squeezenet", "whisper"])
def test_the_guides_table_is_what_the_command_makes(family: str) -> None:
    """`probe-sae check --maps --markdown`, but for the versions in its head."""
    guide = (GUIDES / "families.md").read_text("utf-8")
    made = table([prove(MAPS[family])])

    assert set(re.findall(r"^## (\S+)", guide, re.MULTILINE)) == set(MAPS)
    assert made[made.index(f"## {family}\n") :].rstrip() in guide
