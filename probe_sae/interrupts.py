"""What a Ctrl-C and a scheduler's SIGTERM do: none is lost, and a step may end before it counts."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_noticed() -> Generator[list[int]]:
    """Yield a list that grows with each Ctrl-C, which goes on to do what it did before.

    A Ctrl-C that falls into a library's callback is reported and dropped by Python (numba, under
    UMAP, does so): without this the work would go on as if nobody had asked. SIGTERM, by which
    schedulers ask a job to end, does what a Ctrl-C does.
    """
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    before = signal.getsignal(signal.SIGINT)
    terminate = signal.getsignal(signal.SIGTERM)

    def notice(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGINT, notice)
    if terminate is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, notice)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, terminate)


@contextmanager
def interrupts_wait() -> Generator[list[int]]:
    """Yield a list that grows with the first Ctrl-C or SIGTERM, for the block to act upon.

    The block ends its step, puts its state on disk and raises KeyboardInterrupt; where one comes
    too late for that, it is raised when the block is over. A second one does not wait.
    """
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def notice(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        if len(seen) > 1:
            raise KeyboardInterrupt

    for number in before:
        signal.signal(number, notice)
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if seen:
        raise KeyboardInterrupt
