"""A host of twenty lines with every kind of module output that hooks meet."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from probe_sae.host import Host


class Block(nn.Module):
    """Returns a tuple, takes its input by keyword, and overwrites its output in place."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, *, hidden_states: Tensor) -> tuple[Tensor, str]:
        return hidden_states + self.act(self.linear(hidden_states)), "cache"


class Toy(nn.Module):
    """Two blocks, one module that is called twice and one that never is."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm = nn.LayerNorm(4)
        self.twice = nn.Identity()
        self.never = nn.Identity()
        self.ran_to_the_end = 0

    def forward(self, input_ids: Tensor, **_: Any) -> dict[str, Tensor]:
        hidden = self.embed(input_ids)
        for block in self.blocks:
            hidden, _ = block(hidden_states=hidden)
        self.ran_to_the_end += 1
        return {"hidden": self.twice(self.twice(self.norm(hidden)))}


@pytest.fixture
def toy() -> Host:
    torch.manual_seed(0)
    return Host(Toy(), "toy")
