"""Dense codes in chunks of rows: the numbers of the whole, whether kept or computed again."""

import pytest
import torch
from torch import Tensor

from probe_sae.sae import chunks


@pytest.mark.parametrize(
    ("is_light", "kept", "times"), [(True, 60, 3), (True, 59, 6), (False, 60, 6)]
)
def test_activations_are_computed_again_only_where_keeping_them_takes_too_much(
    is_light: bool, kept: int, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_VALUES", 24)
    monkeypatch.setattr(chunks, "KEPT_VALUES", kept)
    rows = torch.randn(10, 4, generator=torch.Generator().manual_seed(0)).double()
    W = torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    calls: list[int] = []

    def compute(some: Tensor) -> tuple[Tensor, ...]:
        calls.append(len(some))
        codes = (some @ W).sigmoid()
        return codes @ W.T, codes.sum(0)

    results = chunks.by_rows(compute, rows, 6, is_light=is_light)
    (gradient,) = torch.autograd.grad(results[0].square().sum() + results[1].sin().sum(), W)

    assert len(calls) == times
    codes = (rows @ W).sigmoid()
    whole = (codes @ W.T).square().sum() + codes.sum(0).sin().sum()
    torch.testing.assert_close(gradient, torch.autograd.grad(whole, W)[0])
