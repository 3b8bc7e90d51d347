"""Every error that is a person's to mend, and how a message names near matches."""

import difflib
from collections.abc import Iterable


class ProbeSaeError(Exception):
    """The input or the caller is at fault; the message says what was wrong and what to do.

    The command line prints the message alone and exits with code 2.
    """


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


def near_names(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return the names nearest to `name`, the nearest first."""
    return difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)


def near(name: str, known: Iterable[str], count: int = 3) -> str:
    """Return the names nearest to `name`, as a phrase to put at the end of a message.

    Returns an empty string when nothing is near, else `" Near it: a, b."`.
    """
    matches = near_names(name, known, count)
    return f" Near it: {', '.join(matches)}." if matches else ""
