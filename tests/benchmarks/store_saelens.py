"""SAELens' cache of the same rows; run by `store.py --saelens`, in an environment that has it.

Writes as its `CacheActivationsRunner` does (Arrow, a context a row, several shards) and reads by
its own `ActivationsStore`, whose mixing buffer shuffles. Prints GB/s as JSON.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Array2D, Dataset, Features, Sequence, Value, concatenate_datasets
from sae_lens.training.activations_store import ActivationsStore

WIDTH, TOKENS, PIECE, BATCH, HOOK = 768, 128, 8192, 4096, "hook"


def main(folder: Path, rows: int) -> None:
    """Write, read context by context, read mixed."""
    warnings.filterwarnings("ignore")
    size = rows * WIDTH * 2 / 1e9
    acts = torch.from_numpy(np.random.default_rng(0).standard_normal((PIECE, WIDTH), np.float32))
    acts = acts.half().reshape(-1, TOKENS, WIDTH)
    tokens = torch.arange(TOKENS, dtype=torch.int32).expand(len(acts), TOKENS)
    features = Features(
        {
            HOOK: Array2D(shape=(TOKENS, WIDTH), dtype="float16"),
            "token_ids": Sequence(Value("int32"), length=TOKENS),
        }
    )
    began = time.perf_counter()
    shards: list[Any] = []
    for i in range(rows // PIECE):
        made = Dataset.from_dict({HOOK: acts, "token_ids": tokens}, features=features)
        made.save_to_disk(folder / f"arrow/{i}")
        shards.append(Dataset.load_from_disk(folder / f"arrow/{i}"))
    concatenate_datasets(shards)
    os.sync()
    wrote = time.perf_counter() - began
    concatenate_datasets(shards).save_to_disk(folder / "arrow/all")
    store = ActivationsStore(
        model=torch.nn.Identity(),
        dataset=None,
        streaming=False,
        hook_name=HOOK,
        hook_head_index=None,
        context_size=TOKENS,
        d_in=WIDTH,
        n_batches_in_buffer=64,
        total_training_tokens=rows,
        store_batch_size_prompts=32,
        train_batch_size_tokens=BATCH,
        prepend_bos=False,
        normalize_activations="none",
        device=torch.device("cpu"),
        dtype="float32",
        cached_activations_path=str(folder / "arrow/all"),
    )
    told: dict[str, float] = {"write": size / wrote}
    for name, step in (("read", store.get_raw_llm_batch), ("shuffled", lambda: next(store))):
        began, seen = time.perf_counter(), 0
        while seen < rows // 2:
            given = step()
            seen += len(given[0] if isinstance(given, tuple) else given)
        told[name] = seen * WIDTH * 2 / 1e9 / (time.perf_counter() - began)
    print(json.dumps({name: round(rate, 3) for name, rate in told.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
