"""A disk that is full or may not be written on: in whose words ever it is told, one message."""

import errno
import os
import re
from pathlib import Path

from probe_sae.errors import ProbeSaeError

_NUMBERS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_NUMBER = re.compile(r"\(os error (\d+)\)|\berrno = (\d+)")
"""How safetensors gives the number, and HDF5 where it closes a file."""
_CUT_SHORT = re.compile(r"\d+ requested and \d+ written|inline_container\.cc.* unexpected pos")
"""What NumPy and torch say of a write that was cut short; they give no number."""


def disk_problem(problem: BaseException, where: Path, advice: str) -> ProbeSaeError | None:
    """Return what to tell of a write that failed for the disk; None if it failed otherwise.

    Args:
        problem: what was raised.
        where: what was written.
        advice: what a person may do then.
    """
    number = _number(problem)
    if number not in _NUMBERS or isinstance(problem, ProbeSaeError):
        return None
    return ProbeSaeError(f"cannot write {where}: {os.strerror(number)}. {advice}")


def _number(problem: BaseException) -> int:
    """Return the system's number of an error; 0 where it has none."""
    if isinstance(problem, OSError) and problem.errno:
        return problem.errno
    if given := _NUMBER.search(str(problem)):
        return int(given[1] or given[2])
    return errno.ENOSPC if _CUT_SHORT.search(str(problem)) else 0
