"""A card says what is known, is written anew until a person edits it, and is not left behind."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from probe_sae.errors import EndpointError, SettingsError
from probe_sae.sae import L1, SAE, Plain, Settings, TopK, make_sae, push_folder, save_sae
from probe_sae.sae.card import card_text
from probe_sae.sae.card_mark import is_as_written, may_replace

from .fake_hub import FakeHub, fake_hub, reach

METRICS = {"metrics": {"l0": 4.25}}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Generator[FakeHub]:
    with fake_hub() as hub:
        reach(hub, monkeypatch)
        yield hub


def small(settings: Settings | None = None, **provenance: Any) -> SAE:
    wanted = settings or TopK(features=32, k=4)
    sae = make_sae(wanted, (8,), torch.Generator().manual_seed(0)).eval()
    sae.provenance = provenance
    return sae


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sae").mkdir()
    save_sae(tmp_path / "sae", small())
    return tmp_path / "sae"


def test_an_imported_dictionary_is_not_said_to_be_learned_here() -> None:
    with torch.no_grad():
        sae = Plain(features=32).build((8,))
    sae.provenance = {"imported": {"format": "sparsify", "from": "layer"}}

    card = card_text(sae, METRICS)

    assert "A sparse autoencoder (`plain`), imported from `sparsify` by probe_sae" in card
    assert "learned" not in card
    assert "## Measured\n\nOn which rows it was trained is not known" in card
    assert "never saw" not in card


def test_rows_are_called_unseen_only_where_some_were_kept() -> None:
    assert "training never saw" in card_text(small(trainer={"held_out": 0.1}), METRICS)
    assert "may have seen these" in card_text(small(trainer={"held_out": 0}), METRICS)


def test_what_was_chosen_by_itself_is_shown_as_the_log_has_it() -> None:
    sae = small(trainer={"lr": 0, "dead_after": 0, "warm_up": 0.0})
    sae.log = [{"lr": 1e-3}, {"lr": 2.5e-3}, {"lr": 1e-4}]

    card = card_text(sae)

    assert "| `lr` | chosen by itself: `0.0025` |" in card
    assert "| `dead_after` | chosen by itself |" in card
    assert "| `aux_k` | chosen by itself |" in card
    assert "| `warm_up` | `0` |" in card
    assert "| `coefficient` | `0.5` |" in card_text(small(L1(features=32, k=4, coefficient=0.5)))
    steered = small(L1(features=32, k=4))
    steered.log = [{"coefficient": 0.1}, {"coefficient": 0.25}]
    assert "| `coefficient` | chosen by itself: `0.25` |" in card_text(steered)


def test_a_push_that_fails_leaves_the_folder_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    with pytest.raises(EndpointError, match="HF_HUB_OFFLINE"):
        push_folder(folder, "me/x")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "README.md").write_text(card_text(small(), METRICS, "me/first"))
    with pytest.raises(EndpointError, match="HF_HUB_OFFLINE"):
        push_folder(folder, "me/x")

    assert 'from_pretrained("me/first")' in (folder / "README.md").read_text()


def test_a_card_of_ours_is_written_anew_here_and_on_the_hub(folder: Path, hub: FakeHub) -> None:
    push_folder(folder, "me/first")
    push_folder(folder, "me/first", metrics=METRICS)
    assert b"| `l0` | 4.25 |" in hub.repositories["me/first"]["README.md"]

    push_folder(folder, "me/second")

    card = hub.repositories["me/second"]["README.md"].decode()
    assert "me/first" not in card
    assert "| `l0` | 4.25 |" in card
    assert is_as_written(card)


def test_a_card_that_a_person_edited_or_that_says_more_stays() -> None:
    plain, full = card_text(small()), card_text(small(), METRICS)

    assert yaml.safe_load(full.split("---\n")[1])["library_name"] == "probe_sae"
    assert may_replace(full, plain)
    assert may_replace(full, full)
    assert not may_replace(plain, full)
    assert not may_replace(full, plain + "\nMy own words.")
    assert not may_replace(full, "my own")


def test_metrics_may_be_the_path_of_what_evaluate_wrote(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(METRICS))

    small().save_pretrained(tmp_path / "sae", metrics=str(path))

    assert "| `l0` | 4.25 |" in (tmp_path / "sae" / "README.md").read_text()


@pytest.mark.parametrize("metrics", [{"a": 1}, {}, 3, [1.0]])
def test_what_are_no_metrics_is_refused_before_anything_is_written(
    metrics: Any, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="expected what `evaluate` returned"):
        small().save_pretrained(tmp_path / "sae", metrics=metrics)
    assert list(tmp_path.iterdir()) == []


def test_options_of_other_libraries_are_named(folder: Path) -> None:
    options: list[dict[str, Any]] = [{"device": "cuda"}, {"torch_dtype": torch.bfloat16}]
    for option in options:
        with pytest.raises(SettingsError, match=rf"takes no {next(iter(option))}.*\.to\("):
            SAE.from_pretrained(folder, **option)
    with pytest.raises(SettingsError, match="Near it: revision"):
        SAE.from_pretrained(folder, revison="main")
