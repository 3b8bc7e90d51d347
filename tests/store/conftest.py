import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from probe_sae.store import ContextInput, RecordedRows, SiteInfo, Store, StoreWriter, open_store
from probe_sae.store.manifest import signed

MakeStore = Callable[..., Store]


def some_rows(lengths: list[int], width: int, first: int = 0, seed: int = 0) -> RecordedRows:
    """Return rows of contexts of these lengths; context i holds tokens 0, 1, 2, ..."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(sum(lengths), width, generator=generator)
    context = np.repeat(np.arange(first, first + len(lengths), dtype=np.uint32), lengths)
    pos = np.concatenate([np.arange(n, dtype=np.uint32) for n in lengths])
    contexts = [
        ContextInput(first + i, first + i, f"doc {first + i}", 0, np.arange(n, dtype=np.int32))
        for i, n in enumerate(lengths)
    ]
    columns = {"context": context, "doc": context, "pos": pos, "token": pos.astype(np.int32)}
    return RecordedRows({"site": rows}, columns, contexts)


def forge(folder: Path, **changes: object) -> None:
    """Change a store's manifest as an attacker would, with digests that are right."""
    path = folder / "manifest.json"
    path.write_text(signed(folder, json.loads(path.read_text()) | changes))


@pytest.fixture
def make_store(tmp_path: Path) -> MakeStore:
    def make(
        lengths: list[int],
        width: int = 8,
        dtype: str = "float32",
        name: str = "store",
        seed: int = 0,
    ) -> Store:
        folder = tmp_path / name
        folder.mkdir()
        with StoreWriter(folder, [SiteInfo("site", width, dtype)], "text") as writer:
            writer.append(some_rows(lengths, width, seed=seed))
            writer.finish({"host": {}, "dataset": {}})
        return open_store(folder)

    return make
