"""Check numbers of a step when they are known, without waiting for a GPU."""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

WAITING = 4
"""Numbers of a GPU that may be on their way."""


class LateCheck:
    """Calls a check where a number is not finite: at once, or on a GPU a little later.

    A GPU works behind the program; asked for a number, it would first have to catch up.
    """

    def __init__(self) -> None:
        """Begin with nothing to check."""
        self._coming = deque[_Coming]()

    def look(self, number: Tensor, check: Callable[[], None]) -> None:
        """Check a number, or on a GPU one of the steps before it.

        Args:
            number: a scalar that is finite where all is well.
            check: raises where something is wrong.
        """
        if not number.is_cuda:
            if not bool(torch.isfinite(number)):
                check()
            return
        kept = torch.empty((), dtype=number.dtype, pin_memory=True)
        kept.copy_(number, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(number.device))
        self._coming.append(_Coming(kept, arrived, check))
        self.settle(WAITING)

    def settle(self, waiting: int = 0) -> None:
        """Check all that is left to be checked, but for so many of the last."""
        while len(self._coming) > waiting:
            number, arrived, check = self._coming.popleft()
            arrived.synchronize()
            if not bool(torch.isfinite(number)):
                check()


class _Coming(NamedTuple):
    number: Tensor
    arrived: torch.cuda.Event
    check: Callable[[], None]
