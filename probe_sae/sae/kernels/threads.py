"""Work for several threads, each of which counts as one core."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

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
    with ThreadPoolExecutor(min(threads, len(pieces)), initializer=_one_core) as pool:
        list(pool.map(work, pieces))
    torch.set_num_threads(threads)  # the default for threads to come, which a new one has changed


def _one_core() -> None:
    torch.get_num_threads()  # lets torch take its default first, which the next line replaces
    torch.set_num_threads(1)
