"""How numbers are multiplied while training; weights and their updates are always float32."""

from collections.abc import Generator
from contextlib import contextmanager

import torch

PRECISIONS = ("float32", "tf32", "bf16")


@contextmanager
def matrix_products(precision: str) -> Generator[None]:
    """Let a GPU multiply float32 matrices as TF32 while the block runs, if that is wanted."""
    before = torch.get_float32_matmul_precision()
    if precision == "tf32":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Multiply matrices in bfloat16 while the block runs, if that is wanted."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
