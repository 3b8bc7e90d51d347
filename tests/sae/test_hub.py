"""The Hugging Face hub, as its real client sees it: a server in this process."""

from collections.abc import Generator
from pathlib import Path

import pytest
import torch

from probe_sae.errors import EndpointError, FormatError, ProbeSaeError
from probe_sae.interop import export_sae
from probe_sae.interop import load_sae as load_any
from probe_sae.sae import JumpReLU, TopK, load_sae, make_sae, save_sae
from probe_sae.sae.hub import OURS, Access, fetch_folder, send_folder
from probe_sae.sae.hub_ids import Place, place_of

from .fake_hub import FakeHub, fake_hub

ROWS = torch.randn(20, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def server() -> Generator[FakeHub]:
    with fake_hub() as hub:
        yield hub


@pytest.fixture
def hub(server: FakeHub) -> FakeHub:
    """Return a hub with nothing on it."""
    fresh = FakeHub(endpoint=server.endpoint)
    server.__dict__.update(fresh.__dict__)
    return server


@pytest.fixture
def access(hub: FakeHub, tmp_path: Path) -> Access:
    return Access(token="hf_mine", cache_dir=tmp_path / "cache", endpoint=hub.endpoint)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "sae"
    folder.mkdir()
    save_sae(folder, make_sae(TopK(features=32, k=4), (8,), torch.Generator().manual_seed(0)))
    return folder


def hold(hub: FakeHub, name: str, folder: Path, under: str = "") -> None:
    """Put a folder's files on the hub."""
    files = {f"{under}{path.name}": path.read_bytes() for path in folder.iterdir()}
    hub.repositories.setdefault(name, {}).update(files)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("hf:me/sae", Place("me/sae", "")),
        ("hf:me/sae/a/b@v2", Place("me/sae", "a/b", "v2")),
        ("hf:me/sae/./a//b/", Place("me/sae", "a/b")),
    ],
)
def test_an_id_names_repository_folder_and_revision(name: str, place: Place) -> None:
    assert place_of(name) == place


@pytest.mark.parametrize("name", ["hf:", "hf:me", "hf:me/", "hf:../x", "hf:me/a b", "hf:/etc/x"])
def test_what_is_no_repository_says_what_is(name: str) -> None:
    with pytest.raises(FormatError, match="user/name"):
        place_of(name)


@pytest.mark.parametrize("path", ["../x", "a/../../b", "a\\b", "a\x00b"])
def test_a_folder_never_leads_out_of_a_repository(path: str) -> None:
    with pytest.raises(FormatError, match="leads out"):
        place_of(f"hf:me/sae/{path}")


@pytest.mark.parametrize("revision", ["../../x", "a b", "-x"])
def test_what_is_no_revision_is_refused(revision: str) -> None:
    with pytest.raises(FormatError, match="no revision"):
        fetch_folder("hf:me/sae", revision=revision)


def test_names_of_saelens_are_those_of_its_own_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ProbeSaeError, match="pip install sae-lens"):
        place_of("saelens:small/blocks.0")
    (tmp_path / "sae_lens").mkdir()
    (tmp_path / "sae_lens" / "__init__.py").write_text("raise ValueError('imported')")
    (tmp_path / "sae_lens" / "pretrained_saes.yaml").write_text(
        "small:\n  repo_id: jo/saes\n  saes:\n  - {id: layer_0/width_16k, path: l0/w16}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    assert place_of("saelens:small/layer_0/width_16k") == Place("jo/saes", "l0/w16")
    with pytest.raises(FormatError, match="Near it: layer_0/width_16k"):
        place_of("saelens:small/layer_0/width_61k")
    with pytest.raises(FormatError, match="Near it: small"):
        place_of("saelens:smal/layer_0/width_16k")


def test_what_was_pushed_is_the_folder_byte_for_byte(
    hub: FakeHub, access: Access, saved: Path
) -> None:
    (saved / "secret.txt").write_text("not a dictionary's")

    address = send_folder(saved, "me/sae", files=OURS, private=True, message="First", access=access)

    assert address == f"{hub.endpoint}/me/sae"
    sent = hub.repositories["me/sae"]
    assert {name: sent[name] for name in OURS} == {n: (saved / n).read_bytes() for n in OURS}
    assert "secret.txt" not in sent
    assert (hub.private, hub.messages, hub.tokens) == ({"me/sae"}, ["First"], {"Bearer hf_mine"})
    send_folder(saved, "me/sae", files=OURS, access=access)  # the repository is there now


@pytest.mark.parametrize(
    ("name", "token"), [("me/sae", False), ("google/sae", "hf_mine"), ("me/sae", True)]
)
def test_who_may_not_push_is_told_to_log_in(
    hub: FakeHub,
    saved: Path,
    name: str,
    token: str | bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    access = Access(token=token, endpoint=hub.endpoint)

    with pytest.raises(EndpointError, match="hf auth login"):
        send_folder(saved, name, files=OURS, access=access)

    assert name not in hub.repositories


def test_a_download_gives_the_same_codes_and_needs_no_hub_the_next_time(
    hub: FakeHub, access: Access, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_folder(saved, "me/sae", files=OURS, access=access)
    folder = fetch_folder("hf:me/sae", access=access)

    assert torch.equal(load_sae(folder).encode(ROWS), load_sae(saved).encode(ROWS))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = list(hub.asked)
    assert fetch_folder("hf:me/sae", access=access) == folder
    assert hub.asked == asked
    with pytest.raises(EndpointError, match="HF_HUB_OFFLINE"):
        send_folder(saved, "me/sae", files=OURS, access=access)


def test_only_weights_and_texts_of_the_one_folder_are_downloaded(
    hub: FakeHub, access: Access
) -> None:
    names = ["a/cfg.json", "a/sae.safetensors", "a/run.py", "a/optimizer.pt", "a/x.pkl"]
    names += ["a/checkpoints/final.safetensors", "a/deeper/sae.safetensors", "b/sae.safetensors"]
    hub.repositories["jo/saes"] = {name: name.encode() for name in names}

    folder = fetch_folder("hf:jo/saes/a", access=access)

    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {"cfg.json", "sae.safetensors", "checkpoints/final.safetensors"}
    assert (folder / "cfg.json").read_text() == "a/cfg.json"
    assert hub.downloads() == [f"a/{name}" for name in sorted(found)]


def test_torch_files_are_taken_where_there_is_nothing_else(hub: FakeHub, access: Access) -> None:
    hub.repositories["jo/saes"] = {"t/config.json": b"{}", "t/ae.pt": b"tensors", "t/e.py": b""}

    fetch_folder("hf:jo/saes/t", access=access)

    assert hub.downloads() == ["t/ae.pt", "t/config.json"]


@pytest.mark.parametrize(
    "format", ["plain", "saelens", "sparsify", "dictionary_learning", "gemma_scope"]
)
def test_a_dictionary_of_any_library_comes_whole(
    hub: FakeHub, access: Access, tmp_path: Path, format: str
) -> None:
    settings = JumpReLU(features=32) if format == "gemma_scope" else TopK(features=32, k=4)
    sae = make_sae(settings, (8,), torch.Generator().manual_seed(0)).eval()
    export_sae(sae, tmp_path / "theirs", format)
    hold(hub, "jo/saes", tmp_path / "theirs", "layer_6/")
    hub.repositories["jo/saes"]["layer_7/cfg.json"] = b"{"

    folder = fetch_folder("hf:jo/saes/layer_6", access=access)

    expected = load_any(tmp_path / "theirs").encode(ROWS)
    assert torch.equal(load_any(folder).encode(ROWS), expected)
    assert torch.allclose(expected, sae.encode(ROWS), atol=1e-5)
    assert expected.any()


def test_an_id_may_name_a_file(hub: FakeHub, access: Access) -> None:
    names = ("c/layer_0[1].safetensors", "c/layer_1.safetensors", "c/config.yaml")
    hub.repositories["jo/saes"] = {name: name.encode() for name in names}

    path = fetch_folder("hf:jo/saes/c/layer_0[1].safetensors", access=access)

    assert path.read_bytes() == names[0].encode()
    assert hub.downloads() == ["c/config.yaml", "c/layer_0[1].safetensors"]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("hf:me/sea", EndpointError, "no repository me/sea: is it spelled so.*hf auth login"),
        ("hf:me/gated", EndpointError, "gated: accept its conditions"),
        ("hf:me/sae@v2", EndpointError, "no revision 'v2'"),
        ("hf:me/sae/lyer_0", FormatError, "Near it: layer_0"),
        ("hf:me/sae/layer_0", FormatError, r"no weights.*layer_0/width_16k: name one"),
    ],
)
def test_what_is_not_there_says_what_to_do(
    hub: FakeHub, access: Access, name: str, error: type[ProbeSaeError], message: str
) -> None:
    hub.repositories["me/sae"] = {"layer_0/width_16k/sae.safetensors": b"x", "README.md": b""}
    hub.gated.add("me/gated")

    with pytest.raises(error, match=message):
        fetch_folder(name, access=access)


def test_a_hub_that_does_not_answer_is_named_or_the_cache_serves(
    hub: FakeHub, access: Access, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hold(hub, "me/sae", saved)
    folder = fetch_folder("hf:me/sae", access=access)
    nobody = Access(cache_dir=access.cache_dir, endpoint="http://127.0.0.1:9")

    assert fetch_folder("hf:me/sae", access=nobody) == folder
    assert "from the cache" in capsys.readouterr().err
    with pytest.raises(EndpointError, match="cannot be reached"):
        fetch_folder("hf:me/other", access=nobody)
    offline = Access(cache_dir=access.cache_dir, local_files_only=True)
    with pytest.raises(EndpointError, match="not in the cache"):
        fetch_folder("hf:me/other", access=offline)


def test_sizes_are_looked_at_before_anything_is_downloaded(
    hub: FakeHub, access: Access, saved: Path
) -> None:
    hold(hub, "me/sae", saved)
    for name, size, message in (
        ("config.json", 1 << 40, "expected 67,108,864 at most"),
        ("sae.safetensors", 1 << 60, "GB free"),
    ):
        hub.declared = {name: size}
        with pytest.raises(FormatError, match=message):
            fetch_folder("hf:me/sae", access=access)

    assert hub.downloads() == []


@pytest.mark.parametrize("path", ["../../sae.safetensors", "/etc/x.json", "b/sae.safetensors"])
def test_a_hub_that_lists_files_elsewhere_is_refused(
    hub: FakeHub, access: Access, saved: Path, path: str
) -> None:
    hold(hub, "me/sae", saved, "a/")
    hub.listed_elsewhere = path

    with pytest.raises(FormatError, match="lists"):
        fetch_folder("hf:me/sae/a", access=access)
