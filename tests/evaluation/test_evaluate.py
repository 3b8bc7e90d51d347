"""What a perfect, a useless and an ordinary dictionary score is what the formulas say."""

import pytest
import torch

from probe_sae.errors import SettingsError, ShapeError
from probe_sae.evaluation import evaluate, held_out
from probe_sae.evaluation.host_loss import host_figures, host_sums
from probe_sae.host import Host, load_host
from probe_sae.recording import Recipe, load_dataset
from probe_sae.sae import SAE, TopK, fraction_unexplained, make_sae
from probe_sae.store import Store, held_out_contexts

from .conftest import SITE


def perfect(width: int) -> SAE:
    """Return a dictionary that reconstructs everything: each axis in both directions."""
    sae = make_sae(TopK(features=2 * width, k=width), width)
    eye = torch.cat([torch.eye(width), -torch.eye(width)])
    with torch.no_grad():
        sae.get_parameter("W_enc").copy_(eye)
        sae.get_parameter("W_dec").copy_(eye)
    return sae.requires_grad_(False)


def constant(store: Store) -> SAE:
    """Return a dictionary that always says the mean."""
    sae = make_sae(TopK(features=4, k=1), store.site().width)
    mean = store.statistics(SITE).mean
    assert mean is not None
    with torch.no_grad():
        sae.get_parameter("b_enc").fill_(-1e9)
        sae.get_parameter("b_dec").copy_(mean)
    return sae.requires_grad_(False)


def test_a_perfect_dictionary_recovers_everything(
    store: Store, code_lm: Host, stdlib: Recipe
) -> None:
    width = store.site().width
    metrics = evaluate(perfect(width), store, host=code_lm, dataset=stdlib).metrics

    assert metrics["fraction_unexplained"] < 1e-9
    assert metrics["loss_recovered"] == pytest.approx(1, abs=1e-4)
    assert metrics["l0"] == pytest.approx(width, rel=0.01)
    assert metrics["rows_evaluated"] == store.rows


def test_saying_the_mean_recovers_nothing(store: Store, code_lm: Host, stdlib: Recipe) -> None:
    metrics = evaluate(constant(store), store, host=code_lm, dataset=stdlib).metrics

    assert metrics["fraction_unexplained"] == pytest.approx(1, abs=1e-6)
    assert metrics["loss_recovered"] == pytest.approx(0, abs=1e-4)
    assert metrics["dead_fraction"] == 1


def test_the_original_loss_is_the_models_own(store: Store, code_lm: Host, stdlib: Recipe) -> None:
    """transformers' own loss on the same contexts, one by one."""
    held = held_out_contexts(store.contexts, 0.05, seed=0)
    sums = host_sums(constant(store), store, SITE, code_lm, stdlib, held)
    total, count = 0.0, 0
    for context in store.inputs():
        if held[context.index] and context.tokens is not None and len(context.tokens) > 1:
            ids = torch.from_numpy(context.tokens).long()[None]
            total += float(code_lm.model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
            count += ids.shape[1] - 1

    assert sums is not None
    figures = host_figures(sums, "spliced")
    assert figures["loss.original"] == pytest.approx(total / count, rel=1e-4)
    assert figures["loss.mean_ablated"] > figures["loss.original"]


def test_metrics_are_those_of_the_held_out_rows_alone(store: Store) -> None:
    sae = make_sae(TopK(features=64, k=4), store.site().width).requires_grad_(False)
    known = {"recording": store.recording}
    split = {"held_out": 0.2, "seed": 3}
    sae.provenance = {"site": SITE, "store": known, "split": split}
    held = held_out(sae, store)
    rows = store.read(SITE, 0, store.rows)[torch.from_numpy(held[store.context_of_row])]

    metrics = evaluate(sae, store).metrics

    assert 0.1 < held.mean() < 0.3
    assert metrics["rows_evaluated"] == len(rows)
    expected = fraction_unexplained(rows, sae(rows))
    assert metrics["fraction_unexplained"] == pytest.approx(expected, rel=1e-6)


def test_a_dictionary_of_another_width_is_refused(store: Store) -> None:
    with pytest.raises(ShapeError, match="takes 7"):
        evaluate(make_sae(TopK(features=9, k=2), 7), store)


def test_another_host_is_refused(store: Store, code_lm: Host, stdlib: Recipe) -> None:
    other = load_host("bundled:code-lm", device="cpu")
    with torch.no_grad():
        next(other.model.parameters()).add_(1)

    with pytest.raises(SettingsError, match="other weights"):
        evaluate(constant(store), store, host=other, dataset=stdlib)


def test_another_dataset_is_refused(store: Store, code_lm: Host) -> None:
    with pytest.raises(SettingsError, match="not from digits"):
        evaluate(constant(store), store, host=code_lm, dataset=load_dataset("digits"))
