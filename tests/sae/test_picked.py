"""What is picked from weights has the gradients of the plain formulas."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from probe_sae.sae.picked import lengths_of, of_firings, rows_of, totals

ROWS = torch.tensor([1, 4, 5, 17])
INDICES = torch.tensor([[3, 3, 0], [19, 3, 7]])

Pick = Callable[[Tensor], Tensor]
PICKS: dict[str, tuple[Pick, Pick]] = {
    "rows_of": (lambda W: rows_of(W, ROWS), lambda W: W[ROWS]),
    "of_firings": (lambda W: of_firings(W[:, 0], INDICES), lambda W: W[:, 0][INDICES]),
    "lengths_of": (lengths_of, lambda W: W.square().sum(1).clamp_min(1e-300).sqrt()),
    "totals": (
        lambda W: totals(W[:2, :3], INDICES, 20),
        lambda W: (
            torch.zeros(20)
            .double()
            .index_put((INDICES.flatten(),), W[:2, :3].flatten(), accumulate=True)
        ),
    ),
}


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("name", PICKS)
def test_values_and_gradients_are_those_of_the_plain_formula(name: str, beside: bool) -> None:
    """Alone, and where another gradient reaches the same weight."""
    W = torch.randn(20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    W[9] = 0
    W.requires_grad_()
    found: list[Tensor] = []
    for pick in PICKS[name]:
        picked = pick(W)
        loss = (picked.sin() * torch.linspace(1, 2, picked.numel()).view_as(picked)).sum()
        (gradient,) = torch.autograd.grad(loss + W.square().sum() if beside else loss, W)
        found += [picked, gradient.to_dense()]

    torch.testing.assert_close(found[0], found[2])
    torch.testing.assert_close(found[1], found[3])
