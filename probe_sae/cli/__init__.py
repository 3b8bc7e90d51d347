"""The command line: `probe-sae`, also `python -m probe_sae`."""

import json
import os
import sys
from contextlib import suppress
from typing import Any, NoReturn

FOR_TORCH = {
    # Idle threads otherwise wait by counting, on a core that our own threads or other programs
    # could use: on a busy machine steps took two to ten times longer.
    "OMP_WAIT_POLICY": "passive",
    # Memory in pages of 2 MB where the system has them: a step gathers rows from all over weights,
    # and takes a tenth longer where each has to be looked up in a page of 4 kB.
    "THP_MEM_ALLOC_ENABLE": "1",
}
"""What torch reads when it is imported, unless the user has set it."""


def main() -> None:
    """Run the command line and leave with its exit code.

    0 done; 2 the input or the caller is at fault; 130 interrupted; 1 a bug.
    """
    for name, value in FOR_TORCH.items():
        os.environ.setdefault(name, value)
    from probe_sae.errors import on_command_line

    with on_command_line():
        code = _run()
    if code == 130:
        _complain(
            "interrupted; what was finished before is as it was. Where something was saved since, "
            "--resume goes on from there."
        )
        _leave_at_once(code)
    sys.exit(code)


def _run() -> int:
    """Run the command line and return its exit code."""
    from probe_sae.errors import ProbeSaeError

    try:
        from probe_sae.cli.app import app  # a second of imports, in which Ctrl-C may come as well

        code: Any = app(standalone_mode=False)  # of Ctrl-C typer makes 130, and says nothing
    except KeyboardInterrupt:
        return 130
    except ProbeSaeError as problem:
        _complain(str(problem))
        return 2
    except Exception as problem:
        if not hasattr(problem, "format_message"):  # click's own errors say what is wrong
            raise
        usage: Any = problem
        _complain(usage.format_message() or "see --help.")
        return 2
    return code if isinstance(code, int) else 0


def _leave_at_once(code: int) -> NoReturn:
    """End without taking the interpreter down.

    By now everything of ours is closed. An interrupt may have come in the middle of an import or
    of a library's thread, though, and taking such a library down can crash (seen once, as exit
    code -11 after the message).
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # whoever read it may be gone
            stream.flush()
    os._exit(code)


def _complain(message: str) -> None:
    # names of files may come from strangers: nothing of them steers the terminal
    shown = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in message)
    print(f"probe-sae: {shown}", file=sys.stderr)


def emit(result: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print a command's result: one JSON object, or text for a person."""
    print(json.dumps(result, indent=1, sort_keys=True, default=str) if as_json else text)
