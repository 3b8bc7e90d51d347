"""Work for several threads, each of which counts as one core."""

import os
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import torch

SMALL = 1 << 27
"""Multiplications up to which a step is small: 10 ms of one thread."""


def side_by_side(work: Callable[[int], None], starts: Iterable[int]) -> None:
    """Do pieces of work that do not depend on each other on as many threads as torch has.

    A matrix product in a piece uses one core; with one thread or piece, all is done here.
    """
    pieces, threads = list(starts), torch.get_num_threads()
    if threads == 1 or len(pieces) < 2:
        for piece in pieces:
            work(piece)
        return
    list(_pool(threads).map(work, pieces))
    torch.set_num_threads(threads)  # the default for threads to come, which a new one has changed


@contextmanager
def threads_for(multiplications: int) -> Generator[None]:
    """Let torch use one thread while steps are small, and give it back its threads at the end.

    The idle ones of OpenMP wait by counting, on a core that the next operation or another program
    could use: on a busy machine, steps of 2^27 multiplications took ten times longer with two.

    Args:
        multiplications: of the largest matrix product of a step.
    """
    threads = torch.get_num_threads()
    if multiplications > SMALL or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return threads that wait for work: to start them for each takes longer than most of it."""
    return ThreadPoolExecutor(threads, "probe-sae-kernels", initializer=_one_core)


def _one_core() -> None:
    torch.get_num_threads()  # lets torch take its default first, which the next line replaces
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a fork has none of the threads
