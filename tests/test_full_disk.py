"""A disk that is full, or may not be written on, is said in one message, whoever wrote."""

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from probe_sae.errors import ProbeSaeError
from probe_sae.outputs import whole_folder, write_whole

ROOT = Path(__file__).parents[1]
# A limit on the size of files stands for the disk: writes fail in the midst of one.
FULL = """
import resource, sys
from functools import partial
from pathlib import Path
import torch
from probe_sae.errors import ProbeSaeError
from probe_sae.interop import export_sae
from probe_sae.sae import L1, JumpReLU, TopK, make_sae
from tests.test_killed_at_the_end import _works
folder = Path(sys.argv[1])
works = {}
for kind in ("shuffle", "train", "encode", "analyse"):
    (folder / kind).mkdir()
    works[kind] = _works(folder / kind, kind)[0]
plain = ("plain", "saelens", "dictionary_learning", "openai")
settings = {format: L1(400) for format in plain}
settings |= {"sparsify": TopK(400, 2), "gemma_scope": JumpReLU(400)}
for format, some in settings.items():
    works[format] = partial(export_sae, make_sae(some, 6), format=format)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
for name, work in works.items():
    try:
        work(out=folder / f"{name}-out")
    except ProbeSaeError as problem:
        print(name, type(problem.__cause__).__name__, problem)
"""


def test_every_writer_says_that_the_disk_is_full(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )

    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 10
    for line in said:
        assert "cannot write" in line
        assert re.search(r"(File too large|No space left on device)\. Make room", line)


def _full(number: int) -> Callable[[], None]:
    def write() -> None:
        raise OSError(number, os.strerror(number))

    return write


def _told(text: str) -> Callable[[], None]:
    def write() -> None:
        raise RuntimeError(text)

    return write


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (_full(errno.ENOSPC), "No space left"),
        (_full(errno.EDQUOT), "quota"),
        (_full(errno.EROFS), "Read-only"),
        (_told("I/O error: No space left on device (os error 28)"), "No space left"),
        (_told("Can't decrement id ref count (fd = 5, errno = 28, buf = 0)"), "No space left"),
        (_told("3000 requested and 500 written"), "No space left"),
    ],
)
@pytest.mark.parametrize("keep", ["", "a.txt"])
def test_a_full_disk_is_said_with_what_is_kept(
    tmp_path: Path, write: Callable[[], None], reason: str, keep: str
) -> None:
    def failing() -> None:
        with whole_folder(tmp_path / "out", keep=keep) as folder:
            write_whole(folder / "a.txt", "a")
            write()

    with pytest.raises(ProbeSaeError, match=rf"cannot write .*out.partial: .*{reason}") as told:
        failing()

    assert ("resume=True" in str(told.value)) == bool(keep)
    assert (tmp_path / "out.partial").exists() == bool(keep)


@pytest.mark.parametrize("write", [_full(errno.ENOENT), _full(errno.EACCES), _told("os error")])
def test_other_errors_stay_what_they_are(tmp_path: Path, write: Callable[[], None]) -> None:
    with pytest.raises((OSError, RuntimeError)), whole_folder(tmp_path / "out"):
        write()


def test_a_file_by_itself_says_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: _full(errno.ENOSPC)())  # type: ignore[reportUnknownLambdaType]

    with pytest.raises(ProbeSaeError, match=r"cannot write .*metrics.json: No space left"):
        write_whole(tmp_path / "metrics.json", "{}")
