"""Bring batches to the device that learns from them, ahead of it."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

AHEAD = 2
"""Batches on their way to a GPU."""


def fed(batches: Iterator[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Yield batches as float32 on a device.

    For a GPU, a thread reads the next ones and copies them on a stream of its own, beside the
    learning; closed early, it waits for those on their way.

    Args:
        batches: [rows, width] each, of any dtype, on any device.
        device: where to bring them.
    """
    if device.type != "cuda":
        for batch in batches:
            yield batch.to(device).float()
        return
    beside = torch.cuda.Stream(device)
    beside.wait_stream(torch.cuda.current_stream(device))
    with ThreadPoolExecutor(1, "probe-sae-feeding") as pool:
        coming = deque(pool.submit(_next, batches, device, beside) for _ in range(AHEAD))
        while fetched := coming.popleft().result():
            coming.append(pool.submit(_next, batches, device, beside))
            learning = torch.cuda.current_stream(device)
            learning.wait_event(fetched.copied)
            fetched.rows.record_stream(learning)
            yield fetched.rows


class _Fetched(NamedTuple):
    rows: Tensor
    copied: torch.cuda.Event


def _next(
    batches: Iterator[Tensor], device: torch.device, beside: torch.cuda.Stream
) -> _Fetched | None:
    """Return the next batch on its way to a GPU; None after the last."""
    with torch.cuda.stream(beside):
        batch = next(batches, None)
        if batch is None:
            return None
        if batch.device.type == "cpu":
            batch = batch.pin_memory()  # kept by torch until the copy is over
        rows = batch.to(device, non_blocking=True).float()
        copied = torch.cuda.Event()
        copied.record(beside)
    return _Fetched(rows, copied)
