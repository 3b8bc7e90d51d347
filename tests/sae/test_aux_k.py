"""What brings dead features back costs little, however many of them there are."""

import torch

from probe_sae.sae import aux_k as module
from probe_sae.sae.aux_k import aux_k


def test_rows_beyond_those_that_take_part_change_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    x, error = (torch.randn(module.ROWS + 50, 6, generator=generator) for _ in range(2))
    W = torch.randn(9, 6, generator=generator)
    weights, dead = (W, torch.zeros(9), W), torch.arange(3, 9)
    first = aux_k(x, error, weights, dead, 3)

    x[module.ROWS :], error[module.ROWS :] = 1e9, 1e9

    assert torch.equal(aux_k(x, error, weights, dead, 3), first)
    x[module.ROWS - 1] += 1.0
    assert not torch.equal(aux_k(x, error, weights, dead, 3), first)
