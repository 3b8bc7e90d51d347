"""Progress bars on stderr: a rate and a time to go, and silence where nobody watches."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

Advance = Callable[[int], None]


@contextmanager
def progress(what: str, total: int | None, unit: str = "rows") -> Generator[Advance]:
    """Show a bar while the block runs; the block calls what it gets with each number done.

    Nothing is printed where stderr is no terminal.

    Args:
        what: the work, as a verb: `"capture"`.
        total: how much there is, or None when nobody knows.
        unit: what is counted.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        """Units per second, as rich's own estimate."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.0f} {unit}/s" if speed else "", style="cyan")

    columns = (
        TextColumn("{task.description:>9}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
    )
    with Progress(*columns, Rate(), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


def say(message: str) -> None:
    """Print one line for a person on stderr, so that stdout stays free for results."""
    print(message, file=sys.stderr, flush=True)
