"""What a user meets on the way: replacing, options, sites, files that lie beside, refusals."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import probe_sae as ps
from probe_sae.errors import FormatError, SettingsError, SiteNotFound
from probe_sae.evaluation.held_rows import sites_of
from probe_sae.store import SiteInfo
from probe_sae.training.alarms import warn_of_scale

from . import references as r

D, MANY, K = r.D, r.MANY, r.K


def ours() -> ps.SAE:
    sae = ps.make_sae(ps.TopK(MANY, k=K), D)
    sae.initialise(r.rows(), torch.Generator().manual_seed(0))
    sae.provenance = {"sites": ["blocks.3.resid_post"], "host": {"name": "gpt2"}}
    return sae


@pytest.mark.parametrize("format", ["plain", "saelens", "sparsify", "dictionary_learning"])
def test_an_export_is_replaced_when_forced_and_nothing_else_is(format: str, tmp_path: Path) -> None:
    ps.export_sae(ours(), tmp_path / "out", format)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")

    ps.export_sae(ours(), tmp_path / "out", format, force=True)

    modes = {file.stat().st_mode for file in (tmp_path / "out").iterdir() if file.suffix}
    assert len(modes) == 1  # whoever may read the words may read the weights
    with pytest.raises(ps.ProbeSaeError, match="something else"):
        ps.export_sae(ours(), tmp_path / "mine", format, force=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_an_import_is_replaced_when_forced(tmp_path: Path) -> None:
    r.sparsify()(tmp_path / "a")
    ps.import_sae(tmp_path / "a", tmp_path / "sae")

    ps.import_sae(tmp_path / "a", tmp_path / "sae", force=True)

    assert ps.load_sae(tmp_path / "sae").features == MANY


def test_options_that_nothing_asks_for_are_refused(tmp_path: Path) -> None:
    r.sparsify()(tmp_path / "a")
    ps.import_sae(tmp_path / "a", tmp_path / "sae")

    with pytest.raises(SettingsError, match="says k itself"):
        ps.load_sae(tmp_path / "a", k=2)
    with pytest.raises(SettingsError, match="one of ours"):
        ps.load_sae(tmp_path / "sae", k=2)


def test_a_missing_k_may_be_said(tmp_path: Path) -> None:
    r.sparsify()(tmp_path / "a")
    config = json.loads((tmp_path / "a" / "cfg.json").read_text())
    del config["k"]
    (tmp_path / "a" / "cfg.json").write_text(json.dumps(config))

    with pytest.raises(FormatError, match="say it: `--set k=32`"):
        ps.load_sae(tmp_path / "a")

    assert int((ps.load_sae(tmp_path / "a", k=3).encode(r.rows()) > 0).sum(1).max()) == 3


def test_other_files_may_lie_beside_a_trainers(tmp_path: Path) -> None:
    r.dictionary_learning("GatedAutoEncoder")(tmp_path / "a")
    alone = ps.load_sae(tmp_path / "a")
    (tmp_path / "a" / "expected.safetensors").write_bytes(b"x")

    assert torch.equal(ps.load_sae(tmp_path / "a").encode(r.rows()), alone.encode(r.rows()))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["sae_weights.safetensors"], r"cfg\.json is missing beside it"),
        (["sae.safetensors"], r"cfg\.json is missing beside it"),
        (["manifest.json"], "It is a store"),
        (["analysis.json"], "It is an analysis"),
        ([], "no config"),
    ],
)
def test_a_folder_that_is_none_is_told_for_what_it_is(
    files: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    for name in files:
        (tmp_path / "a" / name).write_bytes(b"{}")

    with pytest.raises(FormatError, match=message):
        ps.load_sae(tmp_path / "a")


def test_a_file_that_is_no_file_of_weights_is_not_read_as_one(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("root:x:0:0")

    with pytest.raises(FormatError, match="no file of weights"):
        ps.load_sae(tmp_path / "passwd")


def test_a_refusal_names_what_was_trained(tmp_path: Path) -> None:
    sae = ps.make_sae(ps.BatchTopK(MANY, k=K), D)
    sae.initialise(r.rows(), torch.Generator().manual_seed(0))
    sae.finish(r.rows())

    with pytest.raises(SettingsError, match=r"batchtopk becomes jumprelu there"):
        ps.export_sae(sae, tmp_path / "out", "sparsify")
    with pytest.raises(SettingsError, match="of several sites"):
        ps.export_sae(ps.make_sae(ps.TopK(8, k=2), (6, 4)), tmp_path / "out", "saelens")


def test_an_import_is_not_trained_further(tmp_path: Path) -> None:
    ps.export_sae(ours(), tmp_path / "plain", "plain")

    with pytest.raises(SettingsError, match="not trained further"):
        ps.train(r.rows(), ps.load_sae(tmp_path / "plain").settings)


@dataclass
class Sites:
    """What `sites_of` asks of a store."""

    folder: str
    sites: dict[str, SiteInfo]

    def site(self, name: str | None) -> SiteInfo:
        return self.sites[name] if name else next(iter(self.sites.values()))


def store_of(*names: str) -> Any:
    return Sites("store", {name: SiteInfo(name, D, "float32") for name in names})


def test_hooks_that_a_checkpoint_names_find_the_sites_of_a_store(tmp_path: Path) -> None:
    r.saelens("standard", {"metadata": {"hook_name": "blocks.1.hook_resid_post"}})(tmp_path / "a")
    ps.export_sae(ours(), tmp_path / "b", "sparsify")
    theirs, back = ps.load_sae(tmp_path / "a"), ps.load_sae(tmp_path / "b")

    assert sites_of(theirs, store_of("embed", "blocks.1.resid_post")) == ["blocks.1.resid_post"]
    assert sites_of(back, store_of("embed", "blocks.3.resid_post")) == ["blocks.3.resid_post"]


def test_hooks_that_a_store_has_not_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    r.saelens("standard", {"metadata": {"hook_name": "blocks.1.hook_resid_post"}})(tmp_path / "a")
    sae = ps.load_sae(tmp_path / "a")

    with pytest.raises(SiteNotFound, match=r"it names blocks\.1\.hook_resid_post"):
        sites_of(sae, store_of("embed", "blocks.0.mlp_out"))

    assert sites_of(sae, store_of("embed")) == ["embed"]
    assert "it names blocks.1.hook_resid_post; rows of embed are read" in capsys.readouterr().err


def test_nothing_is_said_of_a_scale_that_is_not_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    r.sparsify()(tmp_path / "a")

    warn_of_scale(ps.load_sae(tmp_path / "a"), r.rows() * 100)
    warn_of_scale(ours(), r.rows() * 100)

    assert capsys.readouterr().err.count("warning: rows have") == 1
