"""The loop that draws firings, compiled by numba."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(nogil=True)
def fire(
    generator: Any,
    rows: int,
    roots: NDArray[np.int64],
    chances: NDArray[np.float64],
    features: NDArray[np.int64],
    children_start: NDArray[np.int64],
    children: NDArray[np.int64],
    is_exclusive: bool,
) -> Any:
    """Return which features fire, and on which rows, root by root.

    From one firing of a root to the next, rows are skipped, as many as a geometric distribution
    says; below a root that fires, each child gets its chance, or one of all where they exclude
    each other (those of a gate never do).
    """
    room = 1024
    found, at = np.empty(room, np.int64), np.empty(room, np.int64)
    count = 0
    stack = np.empty(len(chances), np.int64)
    for root in roots:
        chance = chances[root]
        if chance <= 0:
            continue
        row = generator.geometric(chance) - 1
        while row < rows:
            stack[0], waiting = root, 1
            while waiting:
                waiting -= 1
                node = stack[waiting]
                if features[node] >= 0:
                    if count == room:
                        room *= 2
                        wider, further = np.empty(room, np.int64), np.empty(room, np.int64)
                        wider[:count], further[:count] = found, at
                        found, at = wider, further
                    found[count], at[count] = features[node], row
                    count += 1
                first, last = children_start[node], children_start[node + 1]
                if first < last and is_exclusive and features[node] >= 0:
                    left = generator.random()
                    for i in range(first, last):
                        left -= chances[children[i]]
                        if left < 0:
                            stack[waiting] = children[i]
                            waiting += 1
                            break
                else:
                    for i in range(first, last):
                        if generator.random() < chances[children[i]]:
                            stack[waiting] = children[i]
                            waiting += 1
            row += generator.geometric(chance)
    return found[:count], at[:count]
