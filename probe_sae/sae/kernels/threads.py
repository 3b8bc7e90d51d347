"""Work for several threads, each of which counts as one core."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch


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


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return threads that wait for work: to start them for each takes longer than most of it."""
    return ThreadPoolExecutor(threads, "probe-sae-kernels", initializer=_one_core)


def _one_core() -> None:
    torch.get_num_threads()  # lets torch take its default first, which the next line replaces
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a fork has none of the threads
