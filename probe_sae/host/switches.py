"""What the whole process has one of, and hooks need off: put back when the last of them is gone."""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch


class _Switch:
    """Held off by several at once, closed in any order and from any thread.

    Each putting back what it found would leave it off for good, where they do not nest.
    """

    def __init__(self, turn_off: Callable[[], Callable[[], None]]) -> None:
        self._turn_off, self._lock = turn_off, threading.Lock()
        self._users = 0
        self._put_back: Callable[[], None] | None = None

    @contextmanager
    def off(self) -> Generator[None]:
        """Keep it off while the block runs."""
        with self._lock:
            if not self._users:
                self._put_back = self._turn_off()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users and self._put_back is not None:
                    self._put_back()


def _run_uncompiled() -> Callable[[], None]:
    stance = torch.compiler.set_stance("force_eager")
    return lambda: stance.__exit__(None, None, None)


def _leave_fast_path() -> Callable[[], None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    return lambda: torch.backends.mha.set_fastpath_enabled(before)


COMPILED = _Switch(_run_uncompiled)
"""Compiled frames, which are not guarded against new hooks."""
FAST_PATH = _Switch(_leave_fast_path)
"""The fused path of transformer encoders, which passes their parts by."""
