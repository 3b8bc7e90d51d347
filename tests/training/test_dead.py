"""Looking after dead features takes a step no memory of the dictionary's size, and little time."""

import torch

from probe_sae.sae import TopK
from probe_sae.training import TrainSettings
from probe_sae.training.learner import Learner, _in_turns
from probe_sae.training.runs import Run


def test_gradients_of_dead_features_are_added_where_the_others_are() -> None:
    """Else each step would take new memory as large as the dictionary, twice."""
    rows = torch.randn(512, 24, generator=torch.Generator().manual_seed(0))
    run = TrainSettings(rows=512 * 100, batch_size=512, dead_after=1)
    learner = Learner(Run(TopK(features=64, k=3), 0), (24,), rows, run, torch.device("cpu"))
    sae = learner.sae
    places: list[list[int]] = []
    for step in range(4):
        with torch.no_grad():
            sae.get_parameter("b_enc")[:10] = -100.0
        learner.step(rows, step)
        weights = (sae.get_parameter(name) for name in ("W_enc", "W_dec"))
        places.append([w.grad.data_ptr() for w in weights if w.grad is not None])

    assert int(learner._dead().sum()) >= 10
    assert len(places[0]) == 2
    assert places[1:] == places[:1] * 3


def test_dead_features_take_turns_and_none_is_left_out() -> None:
    dead = torch.arange(0, 7000, 3)
    few = torch.arange(100)

    turns = [_in_turns(dead, 1000, step) for step in range(3)]

    assert max(map(len, turns)) <= 1000
    assert torch.equal(torch.cat(turns).sort().values, dead)
    assert torch.equal(_in_turns(dead, 1000, 3), turns[0])
    assert all(bool((turn.diff() > 0).all()) for turn in turns)
    assert torch.equal(_in_turns(few, 1000, 5), few)
    assert len(_in_turns(few[:0], 1000, 5)) == 0
