"""A job does every stage, says what it did, and can be stopped anywhere."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from probe_sae.analysis import encode, load_analysis
from probe_sae.errors import FormatError, OutputExists, ProbeSaeError, SettingsError
from probe_sae.jobs import DEMOS, demo_folder, demo_job, job_from, read_job, run, stages
from probe_sae.jobs import job as job_module
from probe_sae.sae import load_sae
from probe_sae.store import open_store

SMALL: dict[str, Any] = {
    "host": {"name": "bundled:code-lm", "device": "cpu"},
    "data": {"name": "stdlib", "rows": 4000, "max_length": 64},
    "capture": {"sites": ["blocks.1.resid_post"]},
    "train": {"arch": "topk", "features": 64, "k": 4, "rows": 30_000, "batch_size": 1024},
}


def toml(path: Path, raw: dict[str, Any]) -> Path:
    """Write a table of tables as TOML."""
    lines: list[str] = []
    for section, values in raw.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    run(read_job(toml(folder / "job.toml", SMALL)), folder / "out")
    return folder / "out"


def test_a_job_leaves_every_stage_and_a_summary(done: Path) -> None:
    summary = json.loads((done / "summary.json").read_text())

    assert {p.name for p in done.iterdir()} == {
        "store",
        "sae",
        "analysis",
        "report",
        "summary.json",
    }
    assert (done / "report" / "index.html").is_file()
    assert open_store(done / "store").rows == summary["rows"] >= 4000
    assert load_sae(done / "sae").settings.features == 64
    assert summary["host"] == "bundled:code-lm"
    assert summary["sae"] == {"arch": "topk", "features": 64, "k": 4, "seed": 0}
    assert set(summary["seconds"]) == {"capture", "train", "evaluate", "analyse", "report"}
    assert 0 < summary["metrics"]["fraction_unexplained"] < 1
    assert summary["metrics"]["l0"] == pytest.approx(4, abs=0.01)
    assert 0 < summary["metrics"]["loss_recovered"] < 1
    assert set(summary["metrics"]["loss"]) == {
        "original",
        "spliced",
        "mean_ablated",
        "zero_ablated",
    }
    assert set(summary["metrics"]["baselines"]) == {"mean", "pca", "random", "untrained"}
    low, high = summary["metrics"]["intervals"]["loss_recovered"]
    assert low <= summary["metrics"]["loss_recovered"] <= high


def test_the_reports_numbers_are_the_summarys(done: Path) -> None:
    summary = json.loads((done / "summary.json").read_text())
    analysis = json.loads((done / "analysis" / "analysis.json").read_text())

    assert analysis["metrics"] == summary["metrics"]


def test_finished_work_is_left_alone(done: Path) -> None:
    job = job_from(SMALL, "job")
    before = (done / "summary.json").stat().st_mtime_ns

    with pytest.raises(OutputExists, match="force=True"):
        run(job, done)
    assert run(job, done, resume=True)["rows"] >= 4000
    assert (done / "summary.json").stat().st_mtime_ns == before


STAGES = {
    "capture": "probe_sae.jobs.stages.capture",
    "train": "probe_sae.jobs.stages.train",
    "evaluate": "probe_sae.jobs.stages.evaluate",
    "analyse": "probe_sae.jobs.stages.analyse",
    "report": "probe_sae.reporting.write_report",
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("keep", [False, True])
def test_a_job_interrupted_at_any_stage_leaves_nothing_that_passes_for_finished(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, keep: bool
) -> None:
    """The stages before are copied from a finished run, to save time; this one is interrupted."""
    import importlib
    import shutil

    for name, before in (("store", "capture"), ("sae", "train"), ("analysis", "analyse")):
        if list(STAGES).index(before) < list(STAGES).index(stage):
            shutil.copytree(done / name, tmp_path / "out.partial" / name)

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    module, _, name = STAGES[stage].rpartition(".")
    monkeypatch.setattr(importlib.import_module(module), name, interrupted)

    with pytest.raises(KeyboardInterrupt):
        run(job_from(SMALL, "job"), tmp_path / "out", resume=True, keep=keep)

    assert not (tmp_path / "out").exists()
    for reader in (open_store, load_sae):
        with pytest.raises(ProbeSaeError):
            reader(tmp_path / "out.partial")
    assert (tmp_path / "out.partial").exists() == (keep and stage != "capture")


def test_a_job_goes_on_where_it_stopped(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    for name in ("store", "sae"):
        shutil.copytree(done / name, tmp_path / "out.partial" / name)

    def never(*_: Any, **__: Any) -> None:
        raise RuntimeError("done already")

    for stage in ("capture", "train"):
        module, _, name = STAGES[stage].rpartition(".")
        monkeypatch.setattr(f"{module}.{name}", never)
    summary = run(job_from(SMALL, "job"), tmp_path / "out", resume=True)

    assert summary["metrics"] == json.loads((done / "summary.json").read_text())["metrics"]


def test_another_job_does_not_go_on_with_what_is_there(done: Path, tmp_path: Path) -> None:
    import shutil

    other = job_from(SMALL | {"train": SMALL["train"] | {"k": 5}}, "job")
    with pytest.raises(SettingsError, match=r"train.k 4 there, 5 here"):
        run(other, done, resume=True)
    shutil.copytree(done / "store", tmp_path / "out.partial" / "store")
    begun = json.loads((done / "summary.json").read_text())["job"]
    (tmp_path / "out.partial" / "job.json").write_text(json.dumps(begun))
    with pytest.raises(SettingsError, match=r"begun by another job.*train.k"):
        run(other, tmp_path / "out", resume=True)

    assert run(job_from(SMALL, "job"), done, resume=True)["job"] == begun
    assert (tmp_path / "out.partial" / "store").exists()


def test_a_job_killed_before_it_has_its_name_is_still_that_job(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    shutil.copytree(done, tmp_path / "out.partial")
    out, job = tmp_path / "out", job_from(SMALL, "job")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("probe_sae.outputs._put_in_place", killed)
        with pytest.raises(KeyboardInterrupt):
            run(job, out, resume=True)
    with pytest.raises(SettingsError, match=r"begun by another job.*train.k"):
        run(job_from(SMALL | {"train": SMALL["train"] | {"k": 5}}, "job"), out, resume=True)
    run(job, out, resume=True)

    assert {p.name for p in out.iterdir()} == {p.name for p in done.iterdir()}


@pytest.mark.parametrize("text", [None, "", "[]", '{"job": 1', "[" * 100_000])
def test_a_folder_that_is_no_run_does_not_go_on(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "summary.json").write_text(text)

    with pytest.raises(FormatError, match=r"summary\.json .*Choose another folder"):
        run(job_from(SMALL, "job"), tmp_path, resume=True)


def test_a_job_killed_in_its_analysis_goes_on(done: Path, tmp_path: Path) -> None:
    import shutil

    for name in ("store", "sae"):
        shutil.copytree(done / name, tmp_path / "out.partial" / name)
    codes = tmp_path / "out.partial" / "analysis.partial" / "codes"
    encode(done / "sae", done / "store", codes, rows="held_out")

    run(job_from(SMALL, "job"), tmp_path / "out", resume=True)

    assert (tmp_path / "out" / "report" / "index.html").is_file()


def test_a_file_of_ones_own_is_recorded_under_its_stage(tmp_path: Path) -> None:
    lines = [json.dumps({"text": "def f(x):\n    return x\n" * 9}) for _ in range(40)]
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    raw = SMALL | {"data": {"name": str(tmp_path / "own.jsonl"), "rows": 2000}}
    summary = run(job_from(raw, "job"), tmp_path / "out")

    assert set(summary["seconds"]) == {"capture", "train", "evaluate", "analyse", "report"}


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("hosts", {}, r"Near it: host"),
        ("host", {"nme": "x"}, "Near it: name"),
        ("host", {"dtype": "float32"}, r"\[host\] name is missing"),
        ("train", {"k": 100, "features": 50}, "between 1 and 50"),
        ("train", {"feature": 50}, "Near it: features"),
        ("train", {"track": ["wanbd"]}, "Near it: wandb"),
        ("train", {"track": 3}, "track is 3; expected names"),
        ("data", {"name": "stdlib", "rows": 0}, "at least 1"),
        ("capture", {"sites": ["x"], "dtype": "int8"}, "no dtype"),
        ("analyse", {"rows": "most"}, "expected held_out or all"),
        ("analyse", {"loss_examples": -1}, "a whole number from 0 on"),
        ("analyse", {"seed": "3"}, "a whole number from 0 on"),
        ("host", {"name": 5}, r"job.toml: \[host\] name is 5; expected text in quotes"),
        ("host", {"name": "pixels", "dtype": 5}, r"\[host\] dtype is 5; expected text in quotes"),
        ("host", {"name": "pixels", "dtype": "int8"}, "no dtype 'int8'; expected float32, bfloat"),
        ("host", {"name": "pixels", "device": ["cpu"]}, r"\[host\] device is \['cpu'\]; expected"),
        ("data", {"name": "stdlib", "root": 5}, r"\[data\] root is 5; expected text in quotes"),
        ("data", {"name": "stdlib", "rows": 20.5}, "rows is 20.5; expected a whole number"),
        ("capture", {"sites": 5}, "sites is 5; expected names of sites"),
        ("capture", {"sites": ["logits", 1]}, r"sites is \['logits', 1\]; expected names of sites"),
        ("capture", {"sites": []}, r"sites is \[\]; expected names of sites"),
        ("capture", {"sites": ["x"], "pack": "no"}, "job.toml: pack is 'no'; expected true or"),
        ("evaluate", {"name": 5}, r"\[evaluate\] name is 5; expected text in quotes"),
        ("report", {"labels": 5}, r"\[report\] labels is 5; expected text in quotes"),
    ],
)
def test_a_job_that_cannot_be_is_refused_before_anything_runs(
    section: str, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ProbeSaeError, match=message):
        job_from(SMALL | {section: values}, "job.toml")


def test_labels_that_cannot_be_read_are_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text("{")
    for name in ("labels.json", "none.json"):
        job = job_from(SMALL | {"report": {"labels": str(tmp_path / name)}}, "job.toml")
        with pytest.raises(FormatError, match=name):
            run(job, tmp_path / "out")

    assert [path.name for path in tmp_path.iterdir()] == ["labels.json"]


def test_a_job_names_the_trackers_of_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    def train(*_: Any, track: Any, **__: Any) -> None:
        told.append(track)
        raise SettingsError("enough")

    monkeypatch.setattr(job_module, "openers_for", told.append)
    monkeypatch.setattr(stages, "capture", lambda *_, **__: SimpleNamespace(sites=["site"]))
    monkeypatch.setattr(stages, "train", train)

    with pytest.raises(SettingsError, match="enough"):
        run(job_from(SMALL | {"train": {"track": "wandb"}}, "job"), tmp_path / "out")

    assert told == ["wandb", ("wandb",)]


@pytest.mark.parametrize("text", ["[host", "a = " + "[" * 50_000, f"a = {'9' * 5000}", "# \udcff"])
def test_a_job_that_is_no_toml_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.toml").write_bytes(text.encode("utf-8", "surrogateescape"))

    with pytest.raises(FormatError, match="no TOML"):
        read_job(tmp_path / "job.toml")
    with pytest.raises(FormatError, match="cannot read"):
        read_job(tmp_path / "nowhere.toml")


def test_a_job_over_several_sites_learns_from_all_of_them_together(tmp_path: Path) -> None:
    job = job_from(SMALL | {"capture": {"sites": ["blocks.{0,1}.resid_post"]}}, "job")

    summary = run(job, tmp_path / "out")

    sae = load_sae(tmp_path / "out" / "sae")
    assert summary["site"] == "blocks.0.resid_post + blocks.1.resid_post"
    assert sae.provenance["sites"] == ["blocks.0.resid_post", "blocks.1.resid_post"]
    assert sae.d_model == sum(sae.widths) == 2 * sae.widths[0]
    assert 0 < summary["metrics"]["fraction_unexplained"] < 1
    assert "loss_recovered" not in summary["metrics"]
    assert (tmp_path / "out" / "report" / "index.html").exists()


def test_a_job_can_be_evaluated_on_a_dataset_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("import numpy\nfor i in range(10):\n    print(i)\n" * 40)
    job = job_from(SMALL | {"evaluate": {"name": str(tmp_path / "other.txt")}}, "job")

    summary = run(job, tmp_path / "out")

    unseen = open_store(tmp_path / "out" / "store-unseen")
    assert summary["metrics"]["rows_evaluated"] == unseen.rows < summary["rows"]
    assert summary["metrics"]["loss_recovered"] > 0
    assert load_analysis(tmp_path / "out" / "analysis").info["dataset"]["name"] == "other"


@pytest.mark.parametrize("name", DEMOS)
def test_every_demo_is_a_job(name: str) -> None:
    assert demo_job(name, seed=3).trainer.seed == 3


def test_an_unknown_demo_names_what_is_near() -> None:
    with pytest.raises(SettingsError, match="Near it: images"):
        demo_job("image")


def test_two_demos_at_once_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = demo_folder()
    first.mkdir(parents=True)

    assert demo_folder() != first
