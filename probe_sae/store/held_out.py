"""Which contexts training must not see: by number and seed alone."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def held_out_contexts(contexts: int, share: float, seed: int) -> NDArray[np.bool_]:
    """Mark the contexts that training must not see, [contexts]; the same for the same seed.

    A context's mark does not depend on how many others there are.
    """
    return is_held_out(np.arange(contexts), share, seed)


def is_held_out(contexts: ArrayLike, share: float, seed: int) -> NDArray[np.bool_]:
    """Mark those of some contexts, given by number, that training must not see."""
    numbers = np.asarray(contexts).astype(np.uint64)
    with np.errstate(over="ignore"):
        mixed = (numbers + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 & (2**64 - 1))) * np.uint64(
            0xBF58476D1CE4E5B9
        )
        mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(32)
    return mixed.astype(np.float64) / 2.0**64 < share
