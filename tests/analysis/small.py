"""A small store of text and a dictionary that was not trained, for tests of analyses."""

import json
from pathlib import Path

import numpy as np
import torch

from probe_sae.sae import SAE, BatchTopK, make_sae
from probe_sae.store import (
    ContextInput,
    RecordedRows,
    SiteInfo,
    Store,
    StoreWriter,
    open_store,
)

BOS, VOCABULARY, FEATURES, WIDTH = 9, 10, 60, 12


def make_store(folder: Path, contexts: int = 70) -> Store:
    """Return a store of three shards; each context is BOS and then tokens 0 to 8."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    writer = StoreWriter(folder, [SiteInfo("site", WIDTH, "float32")], "text")
    for index in range(contexts):
        length = int(generator.integers(1, 40))
        tokens = generator.integers(0, BOS, length).astype(np.int32)
        start = int(generator.integers(0, 3)) * 40
        data = torch.from_numpy(generator.standard_normal((length, WIDTH)).astype(np.float32))
        context = np.full(length, index, np.uint32)
        columns = {
            "context": context,
            "doc": context // 2,
            "pos": (start + np.arange(length)).astype(np.uint32),
            "token": tokens,
        }
        whole = np.concatenate([[BOS], tokens]).astype(np.int32)
        inputs = ContextInput(index, index // 2, f"doc {index // 2}", start, whole)
        writer.append(
            RecordedRows({"site": data + torch.from_numpy(tokens)[:, None] / 9}, columns, [inputs])
        )
    pieces = [chr(97 + i) for i in range(VOCABULARY)]
    (folder / "vocabulary.json").write_text(json.dumps(pieces))
    writer.finish({"host": {}, "dataset": {}, "special": [BOS]})
    return open_store(folder)


def dictionary(seed: int = 5) -> SAE:
    generator = torch.Generator().manual_seed(seed)
    sae = make_sae(BatchTopK(features=FEATURES, k=5), WIDTH, generator)
    sae.finish(torch.randn(2000, WIDTH, generator=generator))
    with torch.no_grad():
        sae.get_parameter("b_enc")[7] = -1e9
        sae.get_parameter("b_enc")[8] = 3.0
    return sae.requires_grad_(False)
