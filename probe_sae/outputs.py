"""An output folder is whole or absent: unfinished work lives in `OUT.partial/`."""

import errno
import os
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from probe_sae.errors import OutputExists, ProbeSaeError, near
from probe_sae.full_disk import disk_problem
from probe_sae.interrupts import interrupts_noticed
from probe_sae.progress import say

try:
    import fcntl
except (
    ImportError
):  # Windows has no flock; there two writers of one output are the user's to avoid.
    fcntl = None

_NO_ROOM = "Make room, or choose another disk."


@contextmanager
def whole_folder(
    out: str | Path,
    *,
    force: bool = False,
    resume: bool = False,
    keep: str = "",
    marks: Sequence[str] = (),
    drop: Sequence[str] = (),
) -> Generator[Path]:
    """Yield `OUT.partial/`, locked; rename it to `OUT` when the block ends without an exception.

    Args:
        out: the folder to make.
        force: replace a finished `out`, and drop unfinished work.
        resume: continue what `OUT.partial/` holds.
        keep: glob of what makes unfinished work worth keeping: where something matches, a failing
            block leaves it, and without `resume` or `force` it is an error. Else it is dropped.
        marks: files of ours that an output of this kind has, one of them at least; `*/NAME` where
            it is made of folders that each have NAME. `force` replaces nothing but such an output,
            or an empty folder. All folders are replaced where none is given.
        drop: files and folders that say or keep what unfinished work is of. They go once it has its
            name: while it has not, `resume` needs them, and a kill after leaves one too many in an
            `out` whose readers do not look at it.

    Raises:
        OutputExists: `out` is there already, holds unfinished work or the current folder, or
            another process writes it.
        ProbeSaeError: the disk is full, or may not be written on.
    """
    out = Path(out)
    if out.name in ("", ".."):  # no name to which `.partial` could be added
        out = out.resolve()
    _check_replaceable(out, force, marks, drop)
    partial = out.with_name(f"{out.name}.partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock = (partial / ".lock").open("w")
    except OSError as problem:
        raise OutputExists(f"cannot write {partial}: {problem.strerror}.") from problem
    with lock:
        _take(lock, partial)
        leftover = [item for item in partial.iterdir() if item.name != ".lock"]
        if _worth_keeping(partial, keep) and not (resume or force):
            raise OutputExists(
                f"{partial} holds unfinished work. Continue it with --resume, "
                "or drop it and start anew with --force."
            )
        if leftover and not resume:
            _empty(leftover)
        try:
            with interrupts_noticed() as interrupts:
                yield partial
                if interrupts:
                    raise KeyboardInterrupt
        except BaseException as problem:
            advice = _NO_ROOM
            if not _worth_keeping(partial, keep):
                shutil.rmtree(partial, ignore_errors=True)
            elif isinstance(problem, ProbeSaeError) and not resume and not _is_within_partial(out):
                say(f"{partial} keeps what is done; --resume goes on from there.")
            else:
                advice = "Make room and continue with --resume; what is done is kept."
            if full := disk_problem(problem, partial, advice):
                raise full from problem
            raise
        _put_in_place(partial, out)
        for name in drop:
            with suppress(OSError):
                _empty([out / name])


def _check_replaceable(out: Path, force: bool, marks: Sequence[str], drop: Sequence[str]) -> None:
    """Refuse what is there already, and with `force` what is no such output."""
    if out.exists() and _holds_current_folder(out):
        raise OutputExists(
            f"{out} is the folder that you are in, or holds it, and cannot be replaced from "
            f"within. Name a new folder, such as {Path.cwd() / 'out'}."
        )
    if out.exists() and not force:
        more = ", or add --force" if _may_be_replaced(out, marks, drop) else ""
        raise OutputExists(
            f"{out} exists already, and finished work is never overwritten. "
            f"Choose another folder{more}."
        )
    if out.exists() and not _may_be_replaced(out, marks, drop):
        raise OutputExists(
            f"{out} holds something else than what would replace it; --force does not remove that. "
            "Choose another folder, or remove it yourself."
        )


def path_of(given: object) -> Path:
    """Return what a person gave as the name of a file or folder, as a Path.

    Raises:
        ProbeSaeError: it is no text, or empty, or no name that a file can have.
    """
    if not isinstance(given, (str, os.PathLike)):
        raise ProbeSaeError(f"expected the path of a file or folder; got {type(given).__name__}.")
    name = os.fsdecode(given)  # pyright: ignore[reportUnknownArgumentType]
    if not name:
        raise ProbeSaeError("expected the path of a file or folder; got an empty one.")
    try:
        Path(name).stat()
    except ValueError as problem:
        raise ProbeSaeError(f"{_short(name)} is no path: {problem}.") from problem
    except OSError as problem:
        if problem.errno == errno.ENAMETOOLONG:
            raise ProbeSaeError(f"{_short(name)} is no path: it is too long.") from problem
    return Path(name)


def nothing_at(folder: Path, what: str, name: str) -> str:
    """Return why there is no output of a kind in a folder, for a message.

    Args:
        folder: where it was looked for.
        what: the kind, such as `store`.
        name: the file that is missing.
    """
    if folder.exists():
        return f"{folder} is no {what}: it has no {name}."
    if folder.with_name(f"{folder.name}.partial").exists():
        return f"{folder} is not finished: continue it with --resume."
    beside: list[str] = []
    with suppress(OSError):
        beside = [item.name for item in folder.parent.iterdir()]
    return f"there is no folder {folder}.{near(folder.name, beside)}"


def refuse_partial(path: str | Path) -> Path:
    """Return `path` as a Path.

    Raises:
        ProbeSaeError: it is no path, or it is unfinished work, which no command but the one that
            makes it may read.
    """
    path = path_of(path)
    if path.resolve().name.endswith(".partial"):
        raise ProbeSaeError(
            f"{path} is unfinished work. Continue it with --resume, then use the finished folder."
        )
    return path


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that it is there whole or not at all.

    Raises:
        ProbeSaeError: the disk is full, or may not be written on.
    """
    beside = path.with_name(f"{path.name}.writing")
    try:
        with beside.open("w", encoding="utf-8", errors="surrogatepass", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as problem:
        if full := disk_problem(problem, path, _NO_ROOM):
            raise full from problem
        raise
    beside.replace(path)


def usual_permissions(path: Path) -> None:
    """Let a file be read by whom the umask says; safetensors lets nobody but its owner."""
    beside = path.with_name(f"{path.name}.permissions")
    with beside.open("w") as file:  # the umask cannot be read without being changed for a moment
        mode = os.fstat(file.fileno()).st_mode & 0o777
    beside.unlink()
    path.chmod(mode)


def sync(path: Path) -> None:
    """Put a file on disk, to last through a power cut; it may be open for writing."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` last through a power cut, where its file system can."""
    with suppress(OSError):
        sync(folder)


def _is_within_partial(out: Path) -> bool:
    """Return whether an output is a part of a larger one, which says itself that it may go on."""
    return any(part.name.endswith(".partial") for part in out.parents)


def _may_be_replaced(out: Path, marks: Sequence[str], drop: Sequence[str]) -> bool:
    """Whether a folder is empty or has a file of ours that marks outputs of a kind."""
    if not out.is_dir():
        return False
    items = list(out.iterdir())
    if not marks or not items:
        return True
    made = [item for item in items if item.name not in drop or not _is_ours(item)]
    for mark in marks:
        parts = made if mark.startswith("*/") else [out]
        if parts and all(_is_ours(part / mark.removeprefix("*/")) for part in parts):
            return True
    return False


def _holds_current_folder(out: Path) -> bool:
    with suppress(OSError):  # the current folder may have been removed
        return Path.cwd().is_relative_to(out.resolve())
    return False


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"probe_sae" in file.read(1 << 20)
    except OSError:
        return False


def _short(name: str) -> str:
    return repr(name if len(name) <= 100 else f"{name[:99]}…")


def _worth_keeping(partial: Path, keep: str) -> bool:
    return bool(keep) and any(partial.glob(keep))


def _take(lock: IO[str], partial: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        raise OutputExists(f"another process is writing {partial} now.") from problem


def _empty(items: list[Path]) -> None:
    for item in items:
        shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()


def _put_in_place(partial: Path, out: Path) -> None:
    """Rename `partial` to `out`; an old `out` steps aside until the new one is there."""
    old = out.with_name(f"{out.name}.old.partial")
    if out.exists():
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
    (partial / ".lock").unlink(missing_ok=True)
    partial.rename(out)
    sync_folder(out.parent)
    shutil.rmtree(old, ignore_errors=True)
