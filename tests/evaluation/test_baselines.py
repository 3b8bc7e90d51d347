"""Baselines and the host's numbers, each by itself."""

from pathlib import Path

import numpy as np
import pytest
import torch

from probe_sae.evaluation import evaluate, held_out
from probe_sae.evaluation.baselines import random_directions, untrained
from probe_sae.evaluation.host_loss import HostSums, host_figures
from probe_sae.host import load_host
from probe_sae.recording import CaptureSettings, batches, capture, load_dataset
from probe_sae.sae import BatchTopK, TopK, make_sae


def test_a_baseline_of_fewer_contexts_is_held_against_the_same_ones() -> None:
    """Two contexts of two; the second of one target, which the baseline has not seen."""

    def lines(*losses: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        return np.array([[loss, loss / 2, 1.0, 1.0] for loss in losses])

    of = {
        "original": lines(4.0, 100.0),
        "spliced": lines(5.0, 200.0),
        "mean_ablated": lines(8.0, 1000.0),
        "zero_ablated": lines(12.0, 2000.0),
        "pca": lines(6.0),
    }
    sums = HostSums(of, np.array([2.0, 1.0]), 3, 0)

    baseline, whole = host_figures(sums, "pca"), host_figures(sums, "spliced")

    assert baseline["loss.pca"] == 3
    assert baseline["loss_recovered"] == pytest.approx((8 - 6) / (8 - 4))
    assert baseline["loss_recovered_zero"] == pytest.approx((12 - 6) / (12 - 4))
    assert baseline["kl_recovered"] == pytest.approx(1 - 6 / 8)
    assert whole["loss.original"] == pytest.approx(104 / 3)
    assert whole["loss_recovered"] == pytest.approx((1008 - 205) / (1008 - 104))
    weights = np.array([[2.0, 0.0], [0.0, 2.0]])
    drawn = host_figures(sums, "spliced", weights)
    assert drawn["loss.original"].tolist() == [2.0, 100.0]


def test_an_untrained_dictionary_fires_k_features_whatever_its_batch() -> None:
    rows = 50 + torch.randn(2000, 16, generator=torch.Generator().manual_seed(0))
    sae = make_sae(BatchTopK(features=64, k=5), 16)

    fresh = untrained(sae, rows, seed=1)

    fired = (fresh.encode(rows) > 0).sum(1).double()
    one_by_one = torch.cat([fresh.encode(row[None]) for row in rows[:50]])
    assert float(fired.mean()) == pytest.approx(5, abs=0.01)
    assert torch.allclose(one_by_one, fresh.encode(rows)[:50], atol=1e-5)
    assert not torch.equal(fresh.directions(), sae.directions())


def test_pursuit_over_random_directions_beats_their_strongest() -> None:
    rows = 50 + torch.randn(500, 16, generator=torch.Generator().manual_seed(0))
    sae = make_sae(TopK(features=64, k=5), 16)
    pursued = random_directions(sae, rows, 5, seed=3)
    strongest = untrained(sae, rows, seed=3)

    errors = [
        float((rows - codec.reconstruct(rows, codec.encode_sparse(rows))).square().sum())
        for codec in (pursued, strongest)
    ]

    assert errors[0] < 0.8 * errors[1]
    assert int(pursued.fires(pursued.encode_sparse(rows).values).sum(1).max()) <= 5


def test_a_classifier_keeps_its_accuracy_as_plain_runs_of_it_say(tmp_path: Path) -> None:
    host, digits = load_host("bundled:digits-vit", device="cpu"), load_dataset("digits")
    settings = CaptureSettings(rows=3000, dtype="float32", tokens="cls")
    store = capture(host, digits, "blocks.2.resid_post", tmp_path / "store", settings)
    sae = make_sae(TopK(features=64, k=8), store.site().width).requires_grad_(False)
    sae.initialise(store.read("blocks.2.resid_post", 0, 1000), torch.Generator().manual_seed(0))

    metrics = evaluate(sae, store, host, digits, baselines=False, contexts=150).metrics

    right, seen = 0, 0
    batch = next(batches(host, digits, batch_size=150))
    with torch.no_grad():
        logits = host(batch.inputs).logits
    right, seen = int((logits.argmax(1) == batch.labels).sum()), len(batch.labels)
    assert held_out(sae, store).all()
    assert metrics["host_positions"]["contexts"] == metrics["host_positions"]["scored"] == seen
    assert metrics["accuracy"]["original"] == pytest.approx(right / seen)
    kept = metrics["accuracy"]["spliced"] / metrics["accuracy"]["original"]
    assert metrics["accuracy_kept"] == pytest.approx(kept)
    assert metrics["accuracy"]["mean_ablated"] < metrics["accuracy"]["original"]
