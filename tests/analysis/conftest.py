"""Most tests need some map, not UMAP's, which takes seconds to make."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from probe_sae.analysis import structure


def _plain_map(rows: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Two axes drawn at random: the same for the same rows and seed."""
    axes = np.random.default_rng(seed).standard_normal((rows.shape[1], 2))
    return (rows @ axes).astype(np.float32)


@pytest.fixture(autouse=True, scope="session")
def plain_map() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(structure, "quiet_umap", _plain_map)
        yield
