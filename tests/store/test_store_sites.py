"""A store's sites answer to names, globs, braces, and what other libraries call them."""

from pathlib import Path

import pytest
import torch

from probe_sae.errors import SiteNotFound
from probe_sae.sae import BatchTopK
from probe_sae.store import RecordedRows, SiteInfo, Store, StoreWriter, merge_stores, open_store
from probe_sae.training import TrainSettings, train

from .conftest import some_rows

NAMES = ["blocks.0.resid_post", "blocks.1.resid_post", "blocks.1.mlp_out"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    folder = tmp_path / "store"
    folder.mkdir()
    rows = some_rows([5, 3, 9], 8)
    sites = {name: rows.sites["site"] + i for i, name in enumerate(NAMES)}
    with StoreWriter(folder, [SiteInfo(name, 8, "float32") for name in NAMES], "text") as writer:
        writer.append(RecordedRows(sites, rows.columns, rows.contexts))
        writer.finish({"host": {}, "dataset": {}})
    return open_store(folder)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("blocks.1.mlp_out", NAMES[2:]),
        ("blocks.1.hook_mlp_out", NAMES[2:]),
        ("blocks.*.hook_resid_post", NAMES[:2]),
        ("blocks.{1,0}.resid_post", [NAMES[1], NAMES[0]]),
        ("resid_post_layer_1", NAMES[1:2]),
        ("*", sorted(NAMES)),
    ],
)
def test_a_pattern_finds_the_sites_that_it_means(
    store: Store, pattern: str, names: list[str]
) -> None:
    assert store.find_sites(pattern) == names


def test_rows_are_read_under_another_name(store: Store) -> None:
    assert store.site("blocks.1.hook_mlp_out") == store.sites["blocks.1.mlp_out"]
    assert torch.equal(store["blocks.1.hook_mlp_out"][:], store["blocks.1.mlp_out"][:])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blocks.1.hook_mlp_in", r"has no site .* Near it: blocks\.1\.mlp_out"),
        ("blocks.0.resid_pots", r"Near it: blocks\.0\.resid_post, "),
        ("layers.1", r"Near it: blocks\.1\.resid_post\.$"),
        ("blocks.*.hook_resid_post", "stands for several sites"),
    ],
)
def test_a_name_of_no_site_or_of_several_is_refused(store: Store, name: str, message: str) -> None:
    with pytest.raises(SiteNotFound, match=message):
        store.site(name)


def test_training_and_merging_take_other_names_and_note_ours(store: Store, tmp_path: Path) -> None:
    one = merge_stores([store], tmp_path / "one", sites=["blocks.1.hook_mlp_out"])
    sae = train(
        store,
        BatchTopK(features=16, k=2),
        TrainSettings(rows=32, batch_size=8),
        site=["blocks.1.hook_resid_post"],
    )

    assert list(one.sites) == ["blocks.1.mlp_out"]
    assert sae.provenance["sites"] == ["blocks.1.resid_post"]
