"""An output is whole or absent."""

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from probe_sae.errors import OutputExists, ProbeSaeError, StoreError
from probe_sae.interop import load_sae
from probe_sae.interrupts import interrupts_wait
from probe_sae.outputs import (
    refuse_partial,
    usual_permissions,
    whole_folder,
    write_whole,
)
from probe_sae.sae import SAE
from probe_sae.store import open_store


def _interrupted(out: Path, *, keep: str) -> None:
    with whole_folder(out, keep=keep) as folder:
        write_whole(folder / "a.txt", "a")
        raise KeyboardInterrupt


def test_a_finished_folder_appears_under_its_name(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "out") as folder:
        write_whole(folder / "a.txt", "a")
        assert not (tmp_path / "out").exists()

    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_failed_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _interrupted(tmp_path / "out", keep="")

    assert list(tmp_path.iterdir()) == []


def test_unfinished_work_worth_keeping_is_continued_only_when_asked(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _interrupted(tmp_path / "out", keep="a.txt")

    with (
        pytest.raises(OutputExists, match="resume=True"),
        whole_folder(tmp_path / "out", keep="a.txt"),
    ):
        pass
    with whole_folder(tmp_path / "out", keep="a.txt", resume=True) as folder:
        assert (folder / "a.txt").read_text() == "a"


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "begun.partial").mkdir()

    for name, said in (
        ("store", "store is no store: it has no manifest.json."),
        ("begun", "is not finished: continue it with resume=True."),
        ("stor", "there is no folder .*stor. Near it: store."),
        ("a/b", "there is no folder .*b.$"),
    ):
        with pytest.raises(StoreError, match=said):
            open_store(tmp_path / name)


def test_what_fails_says_that_it_may_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(keep: str) -> None:
        with whole_folder(tmp_path / "out", keep=keep) as folder:
            (folder / "a.txt").write_text("a")
            raise ProbeSaeError("a broken picture")

    for keep, said in (
        ("", ""),
        ("a.txt", "keeps what is done; resume=True goes on from there.\n"),
    ):
        with pytest.raises(ProbeSaeError):
            failing(keep)
        assert capsys.readouterr().err == (said and f"{tmp_path / 'out.partial'} {said}")
        assert (tmp_path / "out.partial").exists() == bool(keep)


def test_finished_work_is_never_overwritten_without_force(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with whole_folder(out) as folder:
        write_whole(folder / "a.txt", "old")

    with pytest.raises(OutputExists, match="force=True"), whole_folder(out):
        pass
    with pytest.raises(ValueError, match="failed"), whole_folder(out, force=True):
        raise ValueError("failed")
    assert (out / "a.txt").read_text() == "old"
    with whole_folder(out, force=True) as folder:
        write_whole(folder / "a.txt", "new")
    assert (out / "a.txt").read_text() == "new"


@pytest.mark.parametrize("name", [".", "..", "", "/", "a/..", "../here", "absolute"])
@pytest.mark.parametrize("force", [False, True])
def test_the_folder_that_one_is_in_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, force: bool
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    out = str(tmp_path / "here") if name == "absolute" else name

    with (
        pytest.raises(OutputExists, match=r"is the folder that you are in, or holds it"),
        whole_folder(out, force=force),
    ):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["here"]
    assert list(Path.cwd().iterdir()) == []


def test_two_writers_of_one_output_are_kept_apart(tmp_path: Path) -> None:
    with (
        whole_folder(tmp_path / "out"),
        pytest.raises(OutputExists, match="another process"),
        whole_folder(tmp_path / "out"),
    ):
        pass


def test_a_ctrl_c_that_a_library_swallows_still_leaves_nothing(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)

    with (
        pytest.raises(KeyboardInterrupt),
        whole_folder(tmp_path / "out"),
        contextlib.suppress(KeyboardInterrupt),
    ):
        signal.raise_signal(signal.SIGINT)

    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is before


def test_unfinished_work_is_no_input(tmp_path: Path) -> None:
    with pytest.raises(ProbeSaeError, match="unfinished"):
        refuse_partial(tmp_path / "store.partial")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (None, "got NoneType"),
        (3, "got int"),
        ("", "got an empty one"),
        ("a\0b", r"'a\\x00b' is no path"),
        ("a" * 5_000, r"^'a{99}…' is no path: it is too long"),
    ],
)
def test_what_is_no_path_is_named(path: Any, message: str) -> None:
    with pytest.raises(ProbeSaeError, match=message):
        refuse_partial(path)
    for load in (load_sae, SAE.from_pretrained):
        with pytest.raises(ProbeSaeError, match=message):
            load(path)


def _ended_by_a_scheduler(out: Path, reached: list[str]) -> None:
    with whole_folder(out, keep="a.txt") as folder:
        write_whole(folder / "a.txt", "a")
        signal.raise_signal(signal.SIGTERM)
        reached.append("after it")


def test_a_scheduler_that_ends_the_job_is_a_ctrl_c(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    reached: list[str] = []

    with pytest.raises(KeyboardInterrupt):
        _ended_by_a_scheduler(tmp_path / "out", reached)

    assert not reached
    assert (tmp_path / "out.partial" / "a.txt").exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interrupt_after_the_last_step_is_not_lost() -> None:
    before = signal.getsignal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), interrupts_wait():
        signal.raise_signal(signal.SIGINT)

    assert signal.getsignal(signal.SIGINT) is before


def test_force_replaces_nothing_but_outputs_of_the_same_kind(tmp_path: Path) -> None:
    """A thesis, or the store that was to be read, must not go because its name was given."""
    own, store, new = tmp_path / "own", tmp_path / "store", {"marks": ("config.json",)}
    for folder, name in ((own, "config.json"), (store, "manifest.json")):
        (folder / "deep").mkdir(parents=True)
        (folder / name).write_text("{}" if folder is own else '{"format": "probe_sae.store"}')

    for folder in (own, store):
        with pytest.raises(OutputExists, match="force=True does not remove"):
            _write(folder, **new)
        assert (folder / "deep").is_dir()
        with pytest.raises(OutputExists) as refusal, whole_folder(folder, marks=("config.json",)):
            pass
        assert "force=True" not in str(refusal.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["own", "store"]

    (own / "config.json").write_text('{"format": "probe_sae.sae"}')
    (tmp_path / "empty").mkdir()
    for folder in (own, tmp_path / "empty"):
        _write(folder, **new)
        assert [p.name for p in folder.iterdir()] == ["a.txt"]


def test_force_does_not_replace_a_folder_in_which_outputs_lie_beside_other_things(
    tmp_path: Path,
) -> None:
    project = tmp_path / "project"
    for name in ("first", "second"):
        (project / name).mkdir(parents=True)
        (project / name / "config.json").write_text('{"format": "probe_sae.sae"}')
    (project / "thesis.txt").write_text("mine")
    marks = ("config.json", "*/config.json")

    with pytest.raises(OutputExists, match="force=True does not remove"):
        _write(project, marks)
    assert (project / "thesis.txt").read_text() == "mine"

    (project / "thesis.txt").unlink()
    _write(project, marks)
    assert [p.name for p in project.iterdir()] == ["a.txt"]


def _write(out: Path, marks: tuple[str, ...]) -> None:
    with whole_folder(out, force=True, marks=marks) as folder:
        write_whole(folder / "a.txt", "new")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask of files.")
def test_a_private_file_gets_the_permissions_of_its_neighbours(tmp_path: Path) -> None:
    private, usual = tmp_path / "private", tmp_path / "usual"
    private.touch(mode=0o600)
    usual.touch()

    usual_permissions(private)

    assert private.stat().st_mode == usual.stat().st_mode
    assert len(list(tmp_path.iterdir())) == 2
