"""Progress bars on stderr or in a notebook: a rate and a time to go; silence where nobody watches.

rich's own bar for notebooks needs ipywidgets, which not everybody has; HTML's needs nothing.
"""

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from html import escape
from typing import Any

from probe_sae.errors import as_spoken

Advance = Callable[[int], None]
_SECONDS_BETWEEN = 0.5
"""Of two pictures of a notebook's bar."""


@contextmanager
def progress(what: str, total: int | None, unit: str = "rows") -> Generator[Advance]:
    """Show a bar while the block runs; the block calls what it gets with each number done.

    Nothing is printed where stderr is neither a terminal nor a notebook's.

    Args:
        what: the work, as a verb: `"capture"`.
        total: how much there is, or None when nobody knows.
        unit: what is counted.
    """
    if in_notebook():
        bar = _NotebookBar(what, total, unit)
        try:
            yield bar.advance
        finally:
            bar.draw()
        return
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
    print(as_spoken(message), file=sys.stderr, flush=True)


def in_notebook() -> bool:
    """Return whether this process is a notebook's kernel."""
    ipython: Any = sys.modules.get("IPython")  # a kernel has imported it
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


class _NotebookBar:
    """A bar below the cell, drawn anew as it goes on."""

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        from IPython import display  # pyright: ignore[reportMissingImports]

        self._display: Any = display
        self._what, self._total, self._unit, self._done = what, total, unit, 0
        self._began = self._drawn = time.monotonic()
        self._shown: Any = self._display.display(self._picture(), display_id=True)

    def advance(self, done: int) -> None:
        self._done += done
        if time.monotonic() - self._drawn > _SECONDS_BETWEEN:
            self.draw()

    def draw(self) -> None:
        self._drawn = time.monotonic()
        self._shown.update(self._picture())

    def _picture(self) -> Any:
        seconds = time.monotonic() - self._began
        rate = self._done / seconds if seconds > 0 else 0.0
        text = f"{self._done:,} {self._unit}, {rate:,.0f}/s" if self._done else ""
        bar = "<progress></progress>"
        if self._total:
            bar = f"<progress value='{self._done}' max='{self._total}'></progress>"
            left = (self._total - self._done) / rate if rate else 0.0
            text += f", {left:,.0f} s to go" if left > 0 else ""
        return self._display.HTML(f"{escape(self._what)} {bar} {escape(text)}")
