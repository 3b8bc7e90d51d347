"""Hugging Face's conventions, and a card that says what a dictionary is and nothing more."""

import json
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from markdown_it import MarkdownIt
from typer.testing import CliRunner

import probe_sae as ps
from probe_sae.cli.app import app
from probe_sae.errors import FormatError, OutputExists
from probe_sae.evaluation import Evaluation
from probe_sae.sae import ARCHITECTURES, SAE, TopK, make_sae
from probe_sae.sae.card import base_model, card_text, shown
from probe_sae.sae.hub import OURS

from .fake_hub import FakeHub, fake_hub, reach
from .test_dictionary import make

ROWS = torch.randn(20, 8, generator=torch.Generator().manual_seed(1))
HOSTILE = (
    "blocks.2`<script>alert(1)</script>",
    "a | b | c\n\n# Title\n---\nlicense: mit",
    "![x](javascript:alert(1)) *a* __b__ \\| `` <img src=x onerror=alert(1)>",
    "x: y\n- &a *a !!python/object:os.system",
)


@pytest.fixture(scope="module")
def hub() -> Generator[FakeHub]:
    with fake_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def sae() -> SAE:
    sae = make_sae(TopK(features=32, k=4), (8,), torch.Generator().manual_seed(0)).eval()
    sae.provenance = {
        "sites": ["blocks.6.resid_post"],
        "host": {"name": "gpt2", "class": "GPT2LMHeadModel"},
        "trainer": {"rows": 1000, "lr": 2e-4},
    }
    return sae


def front(card: str) -> dict[str, Any]:
    """Return the front matter of a card."""
    return yaml.safe_load(card.split("---\n")[1])


def measured(definition: str = "0 is perfect.") -> Evaluation:
    return Evaluation(
        {"fraction_unexplained": 0.1234567, "loss": {"original": 3.5}, "l0": float("nan")},
        {"loss.original": definition, "loss": "Of the host.", "baselines": "What learned less."},
        {"fraction_unexplained": (0.12, 0.13)},
        {"pca": {"fraction_unexplained": 0.5}},
    )


def test_what_was_saved_loads_from_its_folder(sae: SAE, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "new" / "sae", tmp_path / "empty"):
        sae.save_pretrained(folder)
        loaded = ps.SAE.from_pretrained(folder)

        assert torch.equal(loaded.encode(ROWS), sae.encode(ROWS))
        assert {path.name for path in folder.iterdir()} == {*OURS, "README.md"}
        assert len({path.stat().st_mode for path in folder.iterdir()}) == 1
    again = ps.SAE.from_pretrained(tmp_path / "new", subfolder="sae")
    assert again.provenance == sae.provenance
    with pytest.raises(OutputExists):
        sae.save_pretrained(tmp_path / "empty")
    sae.save_pretrained(tmp_path / "empty", force=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("kept")
    with pytest.raises(OutputExists):
        sae.save_pretrained(tmp_path / "other", force=True)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_is_saved_with_a_card(arch: str, tmp_path: Path) -> None:
    sae, rows = make(arch)
    rows, _ = sae.split(rows)

    sae.save_pretrained(tmp_path / "sae")

    loaded = ps.SAE.from_pretrained(tmp_path / "sae")
    assert torch.equal(loaded.encode(rows), sae.encode(rows))
    assert arch in front((tmp_path / "sae" / "README.md").read_text("utf-8"))["tags"]


def test_what_was_pushed_loads_by_its_name(sae: SAE, hub: FakeHub, tmp_path: Path) -> None:
    where: dict[str, Any] = {"endpoint": hub.endpoint, "cache_dir": tmp_path}
    sae.save_pretrained(tmp_path / "folder")

    address = sae.push_to_hub(
        "me/sae", private=True, token="hf_x", commit_message="First", endpoint=hub.endpoint
    )

    assert address == f"{hub.endpoint}/me/sae"
    sent = hub.repositories["me/sae"]
    for name in OURS:
        assert sent[name] == (tmp_path / "folder" / name).read_bytes()
    assert b'from_pretrained("me/sae")' in sent["README.md"]
    sent["other.safetensors"] = b"somebody's"
    for name in ("me/sae", "hf:me/sae", "me/sae@main"):
        assert torch.equal(ps.SAE.from_pretrained(name, **where).encode(ROWS), sae.encode(ROWS))
    assert set(hub.downloads()) == {
        "config.json",
        "sae.safetensors",
    }  # an empty log needs no request
    hub.repositories["me/sae"] = {f"deep/er/{name}": data for name, data in sent.items()}
    for name, inner in (("me/sae", "deep/er"), ("hf:me/sae/deep", "er")):
        loaded = ps.SAE.from_pretrained(
            name, subfolder=inner, endpoint=hub.endpoint, cache_dir=tmp_path / inner
        )
        assert torch.equal(loaded.encode(ROWS), sae.encode(ROWS))


def test_a_card_that_is_on_the_hub_stays(
    sae: SAE, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repositories["me/edited"] = {"README.md": b"mine"}

    sae.push_to_hub("me/edited", token="hf_x", endpoint=hub.endpoint)

    assert hub.repositories["me/edited"]["README.md"] == b"mine"
    assert "has a README.md already" in capsys.readouterr().err


def test_a_folder_is_pushed_as_it_is_with_its_own_card_or_a_new_one(
    sae: SAE, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach(hub, monkeypatch)
    sae.save_pretrained(tmp_path / "sae")
    (tmp_path / "sae" / "README.md").unlink()
    (tmp_path / "metrics.json").write_text(json.dumps({"metrics": {"l0": 4.25}}))
    command = ["push", str(tmp_path / "sae"), "me/folder", "--private", "--json"]

    first = CliRunner().invoke(app, [*command, "--metrics", str(tmp_path / "metrics.json")])
    assert first.exit_code == 0, first.exception
    card = (tmp_path / "sae" / "README.md").read_bytes()

    assert json.loads(first.stdout) == {
        "repository": "me/folder",
        "address": f"{hub.endpoint}/me/folder",
    }
    assert "me/folder" in hub.private
    assert b"| `l0` | 4.25 |" in card
    files = {path.name: path.read_bytes() for path in (tmp_path / "sae").iterdir()}
    sent = hub.repositories["me/folder"]
    assert sent == files | {".gitattributes": b""}
    (tmp_path / "sae" / "README.md").write_bytes(b"my own")
    assert CliRunner().invoke(app, command).exit_code == 0
    assert sent["README.md"] == b"my own"
    wrong = CliRunner().invoke(app, [*command, "--metrics", str(tmp_path / "sae" / "config.json")])
    assert "holds no metrics" in str(wrong.exception)


def test_the_example_of_the_guide_saves_pushes_and_loads(
    sae: SAE, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach(hub, monkeypatch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ps, "evaluate", lambda *_: measured(), raising=False)
    guide = Path(ps.__file__).parent / "guide" / "hub.md"
    (code,) = re.findall(r"```python\n(.*?)```", guide.read_text("utf-8"), re.S)
    scope: dict[str, Any] = {"sae": sae, "store": None}

    exec(compile(code, "hub.md", "exec"), scope)

    assert scope["sae"] is not sae
    assert torch.equal(scope["sae"].encode(ROWS), sae.encode(ROWS))
    assert (tmp_path / "my-dictionary" / "README.md").read_text().count("0.1235") == 1
    assert b"0.1235" in hub.repositories["me/my-dictionary"]["README.md"]


def test_names_that_are_nothing_say_what_is_expected(sae: SAE, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="user/name"):
        ps.SAE.from_pretrained("no-such-folder")
    sae.save_pretrained(tmp_path / "sae")
    with pytest.raises(FormatError, match=r"of topk, not Other; SAE\.from_pretrained"):
        type("Other", (SAE,), {}).from_pretrained(tmp_path / "sae")


def test_a_card_says_what_loads_it_what_was_measured_and_how_it_was_made(sae: SAE) -> None:
    card = card_text(sae, measured(), "me/sae")

    assert front(card) == {
        "base_model": "gpt2",
        "library_name": "probe_sae",
        "tags": ["sparse-autoencoder", "interpretability", "probe_sae", "topk"],
    }
    assert "| `fraction_unexplained` | 0.1235 | 0.12 to 0.13 | 0.5 |" in card
    assert "| `loss.original` | 3.5 |  |  |" in card
    assert "| `l0` | - |" in card
    assert "- `loss`: Of the host.\n- `loss.original`: 0 is perfect." in card
    assert "- `baselines`: What learned less." in card
    assert "- `fraction&#95;" not in card
    assert "| `lr` | `0.0002` |" in card
    assert "`blocks.6.resid_post` of `gpt2`" in card
    assert "probe-sae evaluate hf:me/sae STORE" in card
    (code,) = [part.split("```")[0] for part in card.split("```python\n")[1:]]
    compile(code, "card", "exec")


def test_metrics_may_be_those_of_a_file(sae: SAE, tmp_path: Path) -> None:
    result = measured()
    kept = {"metrics": result.metrics, "definitions": result.definitions}
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(kept))

    card = card_text(sae, json.loads(path.read_text()))

    assert "| `fraction_unexplained` | 0.1235 |" in card
    assert card_text(sae, result.metrics) != card_text(sae)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text(sae: SAE, name: str) -> None:
    hostile = make_sae(TopK(features=32, k=4), (8,), torch.Generator().manual_seed(0))
    hostile.provenance = {
        "sites": [name],
        "host": {"name": name},
        "trainer": {name: name},
        name: {name: [name]},
    }
    metrics = {"metrics": {name: 1.0, "b": name}, "definitions": {name: name}}
    card = card_text(hostile, {**metrics, "baselines": {name: {name: 2.0}}})

    assert set(front(card)) == {"library_name", "tags"}
    body = card.split("---\n", 2)[2]
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(body)
    inner = [child for token in tokens for child in token.children or []]
    assert {child.type for child in inner} <= {"text", "code_inline", "html_inline", "softbreak"}
    assert {c.content for c in inner if c.type == "html_inline"} <= {"<code>", "</code>"}
    assert not [token for token in tokens if token.type == "html_block"]
    assert [token.content for token in tokens if token.type == "inline" and token.level == 1][
        :1
    ] == ["A dictionary of 32 features"]
    cells = [row.count("<td") for row in MarkdownIt().enable("table").render(body).split("<tr>")]
    assert {count for count in cells if count} == {2, 4}


def test_a_value_is_one_line_that_reads_as_it_stands() -> None:
    assert shown("a\u202eb\nc") == "`a b c`"
    assert shown([1, {"a": None}]) == '`[1, {"a": null}]`'
    assert len(shown("x" * 10_000)) == 202


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ({"name": "gpt2", "class": "GPT2LMHeadModel"}, "gpt2"),
        ({"name": "EleutherAI/pythia-70m"}, "EleutherAI/pythia-70m"),
        ({"name": "bundled:code-lm"}, None),
        ({"name": "torchvision:resnet50"}, None),
        ({"name": "MyModel", "class": "MyModel"}, None),
        ({"name": "pixels"}, None),
        ({"name": "folder"}, None),
        ({"name": "../gpt2"}, None),
        ({"name": 3}, None),
        (None, None),
    ],
)
def test_the_base_model_is_a_host_that_the_hub_has(
    host: Any, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()

    assert base_model({"host": host}) == expected


@pytest.mark.parametrize("name", ["cfg.json", "ae.pt", "params.npz"])
def test_a_folder_of_another_library_names_what_reads_it(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")

    with pytest.raises(FormatError, match=rf"no config\.json.*\({name}\): probe_sae\.load_sae"):
        ps.SAE.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FormatError, match=r"is not the config.*probe_sae\.load_sae"):
        ps.SAE.from_pretrained(tmp_path)
