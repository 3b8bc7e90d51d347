"""Every error that is a person's to mend, and how a message speaks to that person.

Messages are written with options, `--resume`. Whoever calls from Python reads `resume=True`.
"""

import difflib
import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager

_OPTION = re.compile(r"`[^`]*`|(?<![\w/-])--(set )?([a-z][a-z-]*[a-z])")
_SWITCHES = ("force", "resume")
_spoken_to_command_line = _spoken_of_job = False


class ProbeSaeError(Exception):
    """The input or the caller is at fault; the message says what was wrong and what to do.

    The command line prints the message alone and exits with code 2.
    """

    def __str__(self) -> str:
        return as_spoken(super().__str__())


class HostNotFound(ProbeSaeError):
    """No host of that name can be loaded."""


class SiteNotFound(ProbeSaeError):
    """The host has no site of that name."""


class DatasetError(ProbeSaeError):
    """A recipe or the data it names cannot be read, or holds nothing."""


class StoreError(ProbeSaeError):
    """A store is missing, damaged, hostile or from a newer version."""


class ShapeError(ProbeSaeError):
    """A tensor's shape or dtype is not what was expected."""


class SettingsError(ProbeSaeError):
    """A setting is out of range or contradicts another."""


class FormatError(ProbeSaeError):
    """A saved dictionary, analysis or job file is damaged, hostile or from a newer version."""


class OutputExists(ProbeSaeError):
    """The output is there already, or another process is writing it."""


class EnvironmentProblem(ProbeSaeError):
    """Installed packages do not work together."""


class EndpointError(ProbeSaeError):
    """A server (a language model's, the hub) cannot be reached, refuses, or gives no answer."""


def as_spoken(message: str) -> str:
    """Return a message as the caller knows options; what stands in backticks stays as it is."""
    if _spoken_to_command_line and not _spoken_of_job:
        return message
    return _OPTION.sub(_as_argument, message)


@contextmanager
def on_command_line() -> Generator[None]:
    """Let messages name options as the command line has them, while the block runs."""
    global _spoken_to_command_line
    before, _spoken_to_command_line = _spoken_to_command_line, True
    try:
        yield
    finally:
        _spoken_to_command_line = before


@contextmanager
def of_job() -> Generator[None]:
    """Let messages name settings as a job's file has them, while the block runs."""
    global _spoken_of_job
    before, _spoken_of_job = _spoken_of_job, True
    try:
        yield
    finally:
        _spoken_of_job = before


def _as_argument(match: re.Match[str]) -> str:
    is_setting, name = match.groups()
    if name is None:
        return match[0]
    argument = name.replace("-", "_")
    if is_setting:  # `--set lr=...`
        return argument
    if name in _SWITCHES:  # a job has none, but the command that runs it does
        return match[0] if _spoken_to_command_line else f"{argument}=True"
    return f"`{argument}`"


def near_names(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return the names nearest to `name`, the nearest first."""
    return difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)


def near(name: str, known: Iterable[str], count: int = 3) -> str:
    """Return the names nearest to `name`, as a phrase to put at the end of a message.

    Returns an empty string when nothing is near, else `" Near it: a, b."`.
    """
    matches = near_names(name, known, count)
    return f" Near it: {', '.join(matches)}." if matches else ""
