"""What a perfect, a useless and an ordinary dictionary score is what the formulas say."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from probe_sae.analysis import analyse, steering_effects
from probe_sae.errors import HostNotFound, SettingsError, ShapeError
from probe_sae.evaluation import compare, evaluate, finite, held_out, splitting, steer
from probe_sae.evaluation.baselines import principal_components
from probe_sae.evaluation.host_loss import host_figures, host_sums
from probe_sae.host import Host, load_host
from probe_sae.recording import Recipe, capture, dataset_from, load_dataset
from probe_sae.sae import SAE, TopK, fraction_unexplained, make_sae
from probe_sae.store import Store, held_out_contexts, join_stores
from probe_sae.training import TrainSettings, train

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


@pytest.fixture(scope="module")
def trained(store: Store) -> SAE:
    run = TrainSettings(rows=40_000, batch_size=512, held_out=0.1)
    return train(store, TopK(features=96, k=8), run)


def test_a_perfect_dictionary_recovers_everything(
    store: Store, code_lm: Host, stdlib: Recipe
) -> None:
    width = store.site().width
    metrics = evaluate(perfect(width), store, code_lm, stdlib, baselines=False, contexts=40).metrics

    assert metrics["fraction_unexplained"] < 1e-9
    assert metrics["loss_recovered"] == pytest.approx(1, abs=1e-4)
    assert metrics["l0"] == pytest.approx(width, rel=0.01)
    assert metrics["rows_evaluated"] == store.rows
    assert metrics["kl"]["spliced"] == pytest.approx(0, abs=1e-5)
    assert metrics["kl_recovered"] == pytest.approx(1, abs=1e-5)
    assert metrics["accuracy_kept"] == pytest.approx(1, abs=1e-3)
    assert metrics["agreement"]["spliced"] == pytest.approx(1, abs=1e-3)
    assert metrics["shrinkage"] == pytest.approx(1, abs=1e-6)


def test_saying_the_mean_recovers_nothing(store: Store, code_lm: Host, stdlib: Recipe) -> None:
    metrics = evaluate(
        constant(store), store, code_lm, stdlib, baselines=False, contexts=40
    ).metrics

    assert metrics["fraction_unexplained"] == pytest.approx(1, abs=1e-6)
    assert metrics["loss_recovered"] == pytest.approx(0, abs=1e-4)
    assert metrics["kl_recovered"] == pytest.approx(0, abs=1e-4)
    assert metrics["dead_fraction"] == metrics["density"]["dead"] == 1
    assert metrics["kl"]["spliced"] == pytest.approx(metrics["kl"]["mean_ablated"], rel=1e-4)
    assert metrics["loss_recovered_zero"] > 0


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

    metrics = evaluate(sae, store, baselines=False).metrics

    assert 0.1 < held.mean() < 0.3
    assert metrics["rows_evaluated"] == len(rows)
    expected = fraction_unexplained(rows, sae(rows))
    assert metrics["fraction_unexplained"] == pytest.approx(expected, rel=1e-6)


def test_another_recording_of_the_same_dataset_may_have_been_trained_on(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    sae = make_sae(TopK(features=64, k=4), store.site().width).requires_grad_(False)
    split, dataset = {"held_out": 0.2, "seed": 3}, store.provenance["dataset"]
    sae.provenance = {"store": {"recording": "another"}, "split": split, "dataset": dataset}

    assert held_out(sae, store).all()
    assert "another recording of stdlib" in capsys.readouterr().err

    sae.provenance["dataset"] = {"name": "other texts"}
    assert held_out(sae, store).all()
    assert not capsys.readouterr().err


def test_the_metrics_of_the_host_are_those_of_plain_runs_of_it(
    store: Store, code_lm: Host, stdlib: Recipe
) -> None:
    """One context at a time, a hook of our own, softmax in float64; the special token stays."""
    sae = make_sae(TopK(features=64, k=4), store.site().width).requires_grad_(False)
    sae.initialise(store.read(SITE, 0, 2000), torch.Generator().manual_seed(0))
    held = np.zeros(store.contexts, dtype=np.bool_)
    held[[1, 4, 5]] = True
    found = host_sums(sae, store, SITE, code_lm, stdlib, held)
    assert found is not None
    figures = host_figures(found, "spliced")

    module = code_lm.model.get_submodule(code_lm.find_sites([SITE])[0].path)
    losses, kls, right, special = list[Tensor](), list[Tensor](), list[Tensor](), 0
    for context in store.inputs():
        if not held[context.index] or context.tokens is None:
            continue
        ids = torch.from_numpy(context.tokens).long()[None]
        is_row = torch.from_numpy(np.isin(ids[0], code_lm.tokenizer.all_special_ids, invert=True))
        special += int((~is_row).sum())

        def spliced(_module: object, _inputs: object, out: Any, keep: Tensor = is_row) -> Any:
            rows = (out[0] if isinstance(out, tuple) else out).clone()
            rows[0, keep] = sae(rows[0, keep])
            return (rows, *out[1:]) if isinstance(out, tuple) else rows

        with torch.no_grad():
            before = code_lm.model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
            handle = module.register_forward_hook(spliced)
            after = code_lm.model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
            handle.remove()
        scored = is_row[1:]
        wanted = ids[0, 1:][scored]
        losses.append(-after[scored].gather(1, wanted[:, None])[:, 0])
        kls.append((before.exp() * (before - after)).sum(1)[scored])
        right.append((after[scored].argmax(1) == wanted).double())

    assert figures["loss.spliced"] == pytest.approx(float(torch.cat(losses).mean()), rel=1e-4)
    assert figures["kl.spliced"] == pytest.approx(float(torch.cat(kls).mean()), rel=1e-3)
    assert figures["accuracy.spliced"] == pytest.approx(float(torch.cat(right).mean()), abs=2e-3)
    assert found.untouched == special
    assert found.replaced == int(held[store.context_of_row].sum())
    assert found.targets.sum() == len(torch.cat(losses))


def test_baselines_stand_in_the_right_order(
    trained: SAE, store: Store, code_lm: Host, stdlib: Recipe
) -> None:
    """Trained before untrained, before the mean, whose numbers are those of ablation."""
    found = evaluate(trained, store, code_lm, stdlib, beside={"same": trained}, resamples=100)

    lines, metrics = found.baselines, found.metrics
    unexplained = {name: line["fraction_unexplained"] for name, line in lines.items()}
    recovered = {name: line.get("loss_recovered") for name, line in lines.items()}
    assert set(lines) == {"mean", "untrained", "pca", "random", "same"}
    assert metrics["fraction_unexplained"] < unexplained["untrained"] < unexplained["mean"]
    assert unexplained["random"] < unexplained["untrained"]
    assert unexplained["mean"] == pytest.approx(1, abs=0.02)
    assert lines["mean"]["l0"] == 0
    assert lines["pca"]["l0"] == lines["random"]["l0"] == round(metrics["l0"])
    assert recovered["mean"] == pytest.approx(0, abs=1e-9)
    assert recovered["random"] is None
    assert metrics["loss_recovered"] > (recovered["untrained"] or 0)
    for name in ("fraction_unexplained", "l0", "cosine", "loss_recovered", "kl_recovered"):
        assert lines["same"][name] == pytest.approx(metrics[name], rel=1e-6), name
    for name in ("fraction_unexplained", "loss_recovered", "kl.spliced"):
        low, high = found.intervals[name]
        outer, _, inner = name.partition(".")
        value = metrics[outer][inner] if inner else metrics[outer]
        assert low < value < high, name


def test_every_metric_is_defined_and_a_seed_gives_the_same_again(
    trained: SAE, store: Store
) -> None:
    one, two = (evaluate(trained, store, resamples=50, seed=3) for _ in range(2))

    names = set(one.record())
    names |= {f"{n}.{part}" for n in ("cousins", "density") for part in one.metrics[n]}
    assert names == set(one.definitions)
    assert finite(one.record()) == finite(two.record())
    assert evaluate(trained, store, resamples=0, baselines=False).record().keys() == (
        one.metrics.keys()
    )


def test_principal_components_are_those_of_all_rows_at_once(store: Store) -> None:
    """Of rows that are far from 0: a covariance of float32 would be noise."""
    rows = store.read(SITE, 0, 3000).double() + 1e4
    centre = rows.mean(0) + 0.3
    found = principal_components(rows.split([1, 999, 2000]), centre, k=5)

    centred = rows - rows.mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    every = centred @ axes.T
    weak = every.abs().topk(rows.shape[1] - 5, 1, largest=False).indices
    expected = every.scatter(1, weak, 0.0) @ axes + rows.mean(0)
    codes = found.encode_sparse(rows)
    assert torch.allclose(found.reconstruct(rows, codes), expected, atol=1e-4)
    assert found.fires(codes.values).sum(1).unique().tolist() == [5]


def test_a_baseline_of_other_rows_or_by_a_taken_name_is_refused(trained: SAE, store: Store) -> None:
    other = make_sae(TopK(features=9, k=2), 7)

    with pytest.raises(ShapeError, match="same sites"):
        evaluate(trained, store, baselines=False, beside={"narrow": other})
    with pytest.raises(SettingsError, match="choose another"):
        evaluate(trained, store, beside={"pca": trained})


def test_two_dictionaries_are_compared_on_the_rows_that_neither_saw(
    trained: SAE, store: Store
) -> None:
    order = torch.randperm(trained.features, generator=torch.Generator().manual_seed(1))
    same = make_sae(trained.settings, trained.widths)
    weights = trained.state_dict()
    same.load_state_dict(
        weights | {name: weights[name][order] for name in ("W_enc", "W_dec", "b_enc")}
    )
    same.provenance = trained.provenance
    untrained = make_sae(trained.settings, trained.widths)
    untrained.initialise(store.read(SITE, 0, 2000), torch.Generator().manual_seed(0))
    untrained.provenance = trained.provenance

    alike = compare(trained, same, store, resamples=50)
    unlike = compare(trained, untrained, store, resamples=50)

    assert alike.correlation is not None
    assert np.nanmin(alike.correlation) == pytest.approx(1, abs=1e-5)
    assert alike.difference == pytest.approx(0, abs=1e-6)
    assert unlike.difference is not None
    assert unlike.difference_interval is not None
    assert unlike.difference_interval[0] < unlike.difference < unlike.difference_interval[1] < 0
    assert "correlation" in alike.table()
    edges = splitting(same, trained, store, cosine=0.99)
    assert edges.given is not None
    assert edges.alone is not None
    assert (edges.given > edges.alone).all()
    assert edges.persist > 0.8


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
    with pytest.raises(SettingsError, match="another dataset stdlib than digits"):
        evaluate(constant(store), store, host=code_lm, dataset=load_dataset("digits"))


class Classes(nn.Module):
    """Tells three classes apart, or gives something that is no logits."""

    def __init__(self, gives: str = "logits") -> None:
        super().__init__()
        self.conv, self.gives = nn.Conv2d(1, 5, 3), gives

    def forward(self, x: Tensor) -> Any:
        found = self.conv(x)
        logits = found.mean((2, 3))[:, :3]
        return {"logits": logits, "tuple": (logits,), "map": found}[self.gives]


def pictures(change: str = "", name: str = "noise") -> Recipe:
    """Return pictures under one name, whatever they are."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8)
    classes = np.arange(40) % 3
    if change == "order":
        pixels = pixels[::-1]
    if change == "classes":
        classes = (classes + 1) % 3
    if change == "late":
        pixels[35] = 0
    items = [(f"{i}", p, int(c)) for i, (p, c) in enumerate(zip(pixels, classes, strict=True))]
    items = items[:30] if change == "fewer" else items
    return dataset_from(lambda: items, name=name, kind="image")


def test_other_inputs_under_the_same_name_are_refused(tmp_path: Path) -> None:
    host = load_host(Classes())
    store = capture(host, pictures(), "path:conv@out", tmp_path / "store")

    metrics = evaluate(perfect(5), store, host=host, dataset=pictures()).metrics
    assert metrics["loss_recovered"] == pytest.approx(1, abs=1e-3)
    for change, place in (("order", 0), ("classes", 0), ("late", 35)):
        with pytest.raises(SettingsError, match=rf"something else as its input {place} .*recorded"):
            evaluate(perfect(5), store, host=host, dataset=pictures(change))
    with pytest.raises(SettingsError, match="ends 10 inputs before the 40 that were recorded"):
        evaluate(perfect(5), store, host=host, dataset=pictures("fewer"))


def test_the_same_inputs_may_be_called_otherwise(tmp_path: Path) -> None:
    """A store of an earlier version knows its dataset by a path."""
    host = load_host(Classes())
    store = capture(host, pictures(), "path:conv@out", tmp_path / "store")

    metrics = evaluate(perfect(5), store, host=host, dataset=pictures(name="moved")).metrics

    assert "loss_recovered" in metrics


def test_of_several_stores_no_dataset_is_the_one_that_was_recorded(tmp_path: Path) -> None:
    host = load_host(Classes())
    for change in ("", "order"):
        capture(host, pictures(change), "path:conv@out", tmp_path / f"store{change}")
    both = join_stores([tmp_path / "store", tmp_path / "storeorder"])

    with pytest.raises(SettingsError, match="several recordings; give the one whose dataset"):
        evaluate(perfect(5), both, host=host, dataset=pictures())


@pytest.mark.parametrize(
    ("gives", "reason"), [("tuple", "it gives tuple, no"), ("map", r"it gives \[\d+, 5, 6, 6\]")]
)
def test_why_a_host_has_no_loss_is_said(
    gives: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = load_host(Classes(gives))
    store = capture(host, pictures(), "path:conv@out", tmp_path / "store")

    metrics = evaluate(perfect(5), store, host=host, dataset=pictures()).metrics

    assert "loss_recovered" not in metrics
    assert re.search(f"Classes has no loss here: {reason}", capsys.readouterr().err)


def test_rows_of_another_host_than_training_saw_are_said(
    store: Store, trained: SAE, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = dict(trained.provenance)
    how: dict[str, Any] = {"baselines": False, "resamples": 0}
    evaluate(trained, store, **how)
    assert "the dictionary was trained on" not in capsys.readouterr().err
    trained.provenance["host"] = {"name": "other-lm", "digest": "0" * 64}
    try:
        evaluate(trained, store, **how)
    finally:
        trained.provenance.clear()
        trained.provenance.update(kept)

    assert "trained on other-lm, the store was recorded from bundled:code-lm" in (
        capsys.readouterr().err
    )


def test_a_dataset_of_ones_own_is_given_as_recording_takes_it(
    code_lm: Host, tmp_path: Path
) -> None:
    own = tmp_path / "own.txt"
    own.write_text("def main():\n    return 0\n" * 200)
    seen = capture(code_lm, own, "blocks.1.resid_post", tmp_path / "own-store")
    how: dict[str, Any] = {"baselines": False, "resamples": 0, "contexts": 8}
    sae = constant(seen)

    found = evaluate(sae, seen, host=code_lm, dataset=str(own), **how).metrics
    assert "loss_recovered" in found
    with pytest.raises(SettingsError, match=r"dataset own.*give it once more"):
        evaluate(sae, seen, host=code_lm, **how)


def test_a_host_may_be_given_by_its_name(
    trained: SAE, store: Store, code_lm: Host, stdlib: Recipe, tmp_path: Path
) -> None:
    how: dict[str, Any] = {"baselines": False, "resamples": 0, "contexts": 8}

    named = evaluate(trained, store, "bundled:code-lm", stdlib, **how).metrics

    assert named == evaluate(trained, store, code_lm, stdlib, **how).metrics
    by = [
        steer(host, trained, "def ", feature=3, scale=9, tokens=5)
        for host in (code_lm, "bundled:code-lm")
    ]
    assert by[0] == by[1]
    for wrong in (
        lambda: evaluate(trained, store, "bundled:code-ml"),
        lambda: steer("bundled:code-ml", trained, "def ", feature=3),
        lambda: analyse(trained, store, tmp_path / "out", host="bundled:code-ml"),
        lambda: steering_effects("bundled:code-ml", trained, [3], ["def f(): pass"]),
    ):
        with pytest.raises(HostNotFound, match="bundled:code-lm"):
            wrong()
