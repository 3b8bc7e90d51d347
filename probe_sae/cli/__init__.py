"""The command line: `probe-sae`, also `python -m probe_sae`."""

import json
import sys
from typing import Any


def main() -> None:
    """Run the command line and leave with its exit code.

    0 done; 2 the input or the caller is at fault; 130 interrupted; 1 a bug.
    """
    from probe_sae.cli.app import app
    from probe_sae.errors import ProbeSaeError

    try:
        code: Any = app(standalone_mode=False)
    except KeyboardInterrupt:
        code = 130
    except ProbeSaeError as problem:
        _complain(str(problem))
        sys.exit(2)
    except Exception as problem:
        if not hasattr(problem, "format_message"):  # click's own errors say what is wrong
            raise
        usage: Any = problem
        _complain(usage.format_message() or "see --help.")
        sys.exit(2)
    if code == 130:  # typer turns Ctrl-C into this code and says nothing
        _complain("interrupted; what was finished before is as it was.")
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> None:
    print(f"probe-sae: {message}", file=sys.stderr)


def emit(result: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print a command's result: one JSON object, or text for a person."""
    print(json.dumps(result, indent=1, sort_keys=True, default=str) if as_json else text)
