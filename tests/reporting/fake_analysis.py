"""Analyses of random numbers, with the shapes and the troubles of real ones."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.analysis.arrays import RANDOM, TOP, Examples, Features
from probe_sae.analysis.cofiring import Pairs
from probe_sae.analysis.contexts import ImageInputs, TextInputs
from probe_sae.analysis.labels import Labels, SampledFirings
from probe_sae.analysis.pixels import Pixels
from probe_sae.analysis.result import Analysis
from probe_sae.analysis.sampled import SampledRows

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "line\u2028separator\u2029here",
    "nul\x00byte",
    "عربي \u202eright to left",
    "<!--",
    "'\"`${alert(3)}",
]
SURROGATE = "lone \ud800 surrogate"
SMILE = "😀".encode()
BINS = 50
NONE_SHOWN = 8

Floats = NDArray[np.float32]
Whole = NDArray[Any]


def words(count: int) -> list[bytes]:
    """Pieces: special, newline, tab, an emoji in two parts, hostile strings, words, bad bytes."""
    fixed = [b"<|end|>", b"\n", b"\t", SMILE[:2], SMILE[2:], b"\xff", b" "]
    fixed += [text.encode() for text in HOSTILE]
    return fixed + [f" word{i}".encode() for i in range(count - len(fixed))]


def text_analysis(
    features: int = 300,
    contexts: int = 80,
    length: int = 48,
    seed: int = 0,
    *,
    pieces: Sequence[bytes] | None = None,
    tokens: Whole | None = None,
    documents: Sequence[str] | None = None,
    logits: int = 10,
) -> Analysis:
    """An analysis of text; every eleventh feature is dead."""
    rng = np.random.default_rng(seed)
    pieces = list(pieces) if pieces is not None else words(200)
    if tokens is None:
        tokens = rng.zipf(1.3, contexts * length) % (len(pieces) - 1) + 1
        tokens[10:12] = 3, 4
        tokens[::length] = 0
    contexts = len(tokens) // length
    inputs = TextInputs(
        tokens=tokens.astype(np.int32),
        offsets=np.arange(contexts + 1, dtype=np.int64) * length,
        document=(np.arange(contexts) % 7).astype(np.int32),
        start=(np.arange(contexts) * length).astype(np.int32),
        documents=list(documents or [HOSTILE[0], HOSTILE[1], SURROGATE, "a.py", "b.py", "c", "d"]),
        pieces=pieces,
        special=[0],
    )
    values = _values(rng, features, tokens, len(pieces))
    found = _features(rng, values, tokens, len(pieces), logits)
    examples = _examples(rng, values, contexts, length)
    info = _info("text", features, len(tokens), contexts)
    return Analysis(info, found, examples, inputs, *_rest(found, values, length, examples))


def image_analysis(
    features: int = 64, images: int = 60, grid: int = 4, size: int = 8, seed: int = 0,
    channels: int = 1,
) -> Analysis:  # fmt: skip
    """An analysis of square pictures in `grid` x `grid` patches; every eleventh feature is dead."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 10, images)
    across = np.linspace(0, 3, size)
    wave = np.sin(across[None, :, None] * (label[:, None, None] + 1) + across[None, None, :])
    pixels = ((wave + 1) * 110 + rng.uniform(0, 30, wave.shape)).astype(np.uint8)
    inputs = ImageInputs(
        thumbnails=np.repeat(pixels[..., None], channels, axis=-1),
        label=label.astype(np.int32),
        names=[f"{HOSTILE[1]} {i}" if i == 0 else f"digit {i}" for i in range(images)],
        classes=[f"digit {i}" for i in range(9)] + [HOSTILE[0]],
        grid=(grid, grid),
    )
    tokens = np.repeat(label, grid * grid)
    values = _values(rng, features, tokens, 10)
    found = _features(rng, values, tokens, 10, 0)
    examples = _examples(rng, values, images, grid * grid)
    info = _info("image", features, images * grid * grid, images)
    return Analysis(info, found, examples, inputs, *_rest(found, values, grid * grid, examples))


def pixel_analysis(features: int = 12, size: int = 8, seed: int = 0) -> Analysis:
    """An analysis of a dictionary of pixels: one row an image."""
    plain = image_analysis(features, 40, 1, size, seed)
    assert isinstance(plain.inputs, ImageInputs)
    rng = np.random.default_rng(seed)
    originals = plain.inputs.thumbnails[:20]
    drawn = Pixels(
        originals,
        (originals * 0.8).astype(np.uint8),
        plain.inputs.label[:20],
        rng.random((20, features), np.float32),
        rng.standard_normal((features, size, size, 1), np.float32),
        rng.integers(0, 900, 50),
        np.array([1.5], np.float32),
    )
    metrics = {**plain.info["metrics"], "mean_activation": rng.random(features).tolist()}
    return replace(plain, pixels=drawn, info={**plain.info, "metrics": metrics})


def twins(features: int = 300, others: int = 200) -> tuple[Analysis, Analysis]:
    """Two analyses of one site: a third of the second's features are noisy copies of the first's.

    Feature i of the second is near feature i of the first for i under a third of `others`; the next
    eight are less near to features 1 to 8, which have a counterpart already.
    """
    rng = np.random.default_rng(7)
    a, b = text_analysis(features), text_analysis(others, contexts=60, seed=3)
    ours, theirs = rng.standard_normal((features, 32)), rng.standard_normal((others, 32))
    same = others // 3
    noise = rng.uniform(0, 0.35, (same, 1)) * rng.standard_normal((same, 32))
    theirs[:same] = ours[:same] + noise
    theirs[same : same + 8] = ours[1:9] + 0.4 * rng.standard_normal((8, 32))
    intervals = {"fraction_unexplained": [0.16, 0.17], "l0": [31.5, 32.3]}
    metrics = {**a.info["metrics"], "intervals": intervals}
    return (
        replace(a, directions=_unit(ours), info={**a.info, "metrics": metrics}),
        replace(b, directions=_unit(theirs)),
    )


def _unit(directions: Whole) -> NDArray[np.float16]:
    return (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float16)


def without_metrics(analysis: Analysis) -> Analysis:
    """The same analysis before anything was evaluated or logged."""
    return replace(analysis, info={**analysis.info, "metrics": None, "training": []})


def _values(rng: np.random.Generator, features: int, tokens: Whole, vocabulary: int) -> Floats:
    """Activations [rows, features]: each feature likes one token, fires now and then elsewhere."""
    likes = rng.integers(1, vocabulary, features)
    rate = 10 ** rng.uniform(-4.5, -1.3, features)
    liked = tokens[:, None] == likes[None, :]
    chance = np.where(liked, 0.9, rate[None, :])
    fires = rng.random(chance.shape) < chance
    fires[:, ::11] = False
    return np.where(fires, rng.gamma(2.0, 1.0, chance.shape) + liked, 0).astype(np.float32)


def _features(
    rng: np.random.Generator, values: Floats, tokens: Whole, vocabulary: int, logits: int
) -> Features:
    rows, count = values.shape
    fires = values > 0
    firings = fires.sum(axis=0)
    alive = firings > 0
    some = np.maximum(firings, 1)
    top = values.max(axis=0)
    mean = values.sum(axis=0) / some
    centred = np.where(fires, values - mean, 0)
    std = np.sqrt((centred**2).sum(axis=0) / some)
    safe = np.where(std > 0, std, 1)
    gap = np.where(alive, np.nan_to_num(mean), np.nan)
    histogram = np.zeros((count, BINS), dtype=np.int64)
    quantiles = np.full((count, 5), np.nan)
    for i in np.flatnonzero(alive):
        fired = values[fires[:, i], i]
        histogram[i] = np.histogram(fired, BINS, (0, float(top[i])))[0]
        quantiles[i] = np.quantile(fired, [0.1, 0.25, 0.5, 0.75, 0.9])
    ids, shares, lifts = _commonest(fires, tokens, vocabulary)
    near = np.argsort(rng.random((count, count)), axis=1)[:, :NONE_SHOWN]
    together = fires.T.astype(np.float32) @ fires.astype(np.float32)
    np.fill_diagonal(together, -1)
    mates = np.argsort(-together, axis=1, kind="stable")[:, :NONE_SHOWN]
    counts = np.take_along_axis(together, mates, 1)
    mates = np.where(counts > 0, mates, -1)
    angle = rng.uniform(0, 7, count)
    cluster = np.where(alive, (angle // 1).astype(int), -1)
    spread = rng.normal(0, 0.5, (2, count))
    promoted = rng.integers(0, vocabulary, (count, logits))
    effect = np.sort(rng.gamma(2, 1, (count, logits)), axis=1)[:, ::-1]
    place = {
        "x": np.where(alive, 4 * np.cos(cluster * 0.9) + spread[0], np.nan),
        "y": np.where(alive, 4 * np.sin(cluster * 0.9) + spread[1], np.nan),
    }
    return Features(
        firings=firings.astype(np.int64),
        density=firings / rows,
        mean=np.where(alive, mean, np.nan).astype(np.float32),
        mean_activation=values.mean(axis=0),
        std=np.where(alive, std, np.nan).astype(np.float32),
        skew=np.where(alive, (centred**3).sum(axis=0) / some / safe**3, np.nan).astype(np.float32),
        kurtosis=(gap * 0 + (centred**4).sum(axis=0) / some / safe**4).astype(np.float32),
        max=top.astype(np.float32),
        histogram=histogram.astype(np.int64),
        histogram_top=np.maximum(top, 1e-3).astype(np.float32),
        quantiles=quantiles.astype(np.float32),
        token_ids=ids,
        token_shares=shares,
        token_lifts=lifts,
        token_undercount=np.zeros(count, np.int64),
        places=np.stack([firings, firings * 0], 1),
        nearest_ids=near.astype(np.int32),
        nearest_cosines=np.sort(rng.uniform(-0.1, 0.9, near.shape))[:, ::-1].astype(np.float32),
        cofiring_ids=mates.astype(np.int32),
        cofiring_phis=np.where(mates >= 0, counts / counts.max(initial=1), np.nan).astype(
            np.float32
        ),
        cofiring_counts=np.maximum(counts, 0).astype(np.int64),
        cofiring_jaccards=np.where(mates >= 0, 0.25, 0).astype(np.float32),
        cofiring_npmis=np.where(mates >= 0, 0.5, np.nan).astype(np.float32),
        followed_ids=np.zeros((count, 0), np.int32),
        followed_phis=np.zeros((count, 0), np.float32),
        followed_cosines=np.zeros((count, 0), np.float32),
        neuron_ids=np.tile(np.arange(4, dtype=np.int32), (count, 1)),
        neuron_correlations=np.tile(np.array([0.9, -0.5, 0.3, 0.1], np.float32), (count, 1)),
        part=np.zeros(count, np.int32),
        decoder_norm=rng.uniform(0.9, 1.1, count).astype(np.float32),
        x=place["x"].astype(np.float32),
        y=place["y"].astype(np.float32),
        cluster=cluster.astype(np.int32),
        group=cluster.astype(np.int32),
        pca_x=place["y"].astype(np.float32),
        pca_y=place["x"].astype(np.float32),
        module=np.where(alive & (cluster < 5), cluster, -1).astype(np.int32),
        promoted_ids=promoted.astype(np.int32),
        promoted_values=effect.astype(np.float32),
        suppressed_ids=promoted[:, ::-1].astype(np.int32),
        suppressed_values=-effect.astype(np.float32),
        **_logits(rng, count, bool(logits)),
    )


def _logits(rng: np.random.Generator, count: int, there: bool) -> dict[str, Any]:
    """Histograms of 40 bars over ranges of their own; none without an unembedding."""
    law = 5000 * np.exp(-((np.linspace(-4, 4, 40 * there)) ** 2) / 2)
    high = rng.uniform(1, 3, count).astype(np.float32)
    found = (
        rng.poisson(law, (count, len(law))),
        np.stack([-high, high], 1),
        high / 4,
        high,
        high + 3,
    )
    names = ("histogram", "range", "std", "skew", "kurtosis")
    return {f"logit_{name}": value for name, value in zip(names, found, strict=True)}


def _rest(
    found: Features, values: Floats, length: int, examples: Examples
) -> tuple[Pairs, SampledRows, SampledFirings, Labels, Whole]:
    """Pairs, the rows of the first contexts, labels, and no tree."""
    first, rank = np.nonzero(found.cofiring_ids >= 0)
    at = first, rank
    second = found.cofiring_ids[at].astype(np.int64)
    pairs = Pairs(first, second, found.cofiring_phis[at].astype(float), found.cofiring_counts[at])
    some = values[: 5 * length]
    row, feature = np.nonzero(some)
    number = np.arange(len(some))
    offsets = np.concatenate([[0], np.cumsum((some > 0).sum(1))])
    mapped = number[::3].astype(np.int32)
    places = np.stack([np.cos(mapped), np.sin(mapped)], 1).astype(np.float32)
    rows = SampledRows(
        (number // length).astype(np.int32), (number % length).astype(np.int32), offsets,
        feature.astype(np.int32), some[row, feature], mapped, places, places * 2,
    )  # fmt: skip
    some = examples.of_kinds((RANDOM,))
    drawn = SampledFirings(
        some.feature.astype(np.int64), some.context.astype(np.int64),
        some.position.astype(np.int64), some.value,
    )  # fmt: skip
    return pairs, rows, drawn, _labels(found), np.zeros((0, 2), np.int32)


def _labels(found: Features) -> Labels:
    """Clear, unclear and missing ones in turn; some of them hostile."""
    count = len(found.firings)
    text = [
        f'token "word{i}"' if i % 3 else f"unclear (often {HOSTILE[i % 7]})" for i in range(count)
    ]
    score = np.where(np.arange(count) % 3 > 0, 0.95, 0.6)
    score[found.firings < 20] = np.nan
    for i in np.flatnonzero(found.firings < 20):
        text[i] = "too rare to tell"
    rule = {"kind": "values", "column": "token", "values": ["word"]}
    number = np.full(count, 50, np.int64)
    return Labels(
        text, [rule if np.isfinite(s) else None for s in score], score, score - 0.1, score + 0.04,
        score, score, score, score - 0.2, score > 0.8, number, number * 9,
    )  # fmt: skip


def _commonest(
    fires: NDArray[np.bool_], tokens: Whole, vocabulary: int
) -> tuple[NDArray[np.int32], Floats, Floats]:
    base = np.bincount(tokens, minlength=vocabulary) / len(tokens)
    ids, shares, lifts = [], [], []
    for column in fires.T:
        counts = np.bincount(tokens[column], minlength=vocabulary)
        order = np.argsort(-counts, kind="stable")[:NONE_SHOWN]
        share = counts[order] / max(counts.sum(), 1)
        ids.append(np.where(share > 0, order, -1))
        shares.append(share)
        lifts.append(share / np.maximum(base[order], 1e-9))
    shape = (fires.shape[1], min(NONE_SHOWN, vocabulary))
    return (
        np.array(ids, dtype=np.int32).reshape(shape),
        np.array(shares, dtype=np.float32).reshape(shape),
        np.array(lifts, dtype=np.float32).reshape(shape),
    )


def _examples(rng: np.random.Generator, values: Floats, contexts: int, length: int) -> Examples:
    rows: list[tuple[int, int, int, int, int, float]] = []
    entries: list[NDArray[Any]] = []
    for feature in range(values.shape[1]):
        grid = values[:, feature].reshape(contexts, length)
        best = grid.max(axis=1)
        order = [c for c in np.argsort(-best, kind="stable")[:20].tolist() if best[c] > 0]
        top = [(c, int(grid[c].argmax())) for c in order]
        fired = np.flatnonzero(grid.ravel())
        drawn = rng.choice(fired, min(24, fired.size), replace=False) if fired.size else fired
        drawn = drawn[np.argsort(-grid.ravel()[drawn], kind="stable")]
        some = [(int(place) // length, int(place) % length) for place in drawn]
        for kind, chosen in ((TOP, top), (RANDOM, some)):
            for rank, (context, position) in enumerate(chosen):
                value = float(grid[context, position])
                rows.append((feature, kind, rank, context, position, value))
                entries.append(np.flatnonzero(grid[context]))
    feature, kind, rank, context, position, value = (
        np.array(column) for column in (zip(*rows, strict=True) if rows else [[]] * 6)
    )
    sizes = [entry.size for entry in entries]
    places = np.concatenate(entries) if entries else np.zeros(0, dtype=np.int64)
    flat = np.repeat(context.astype(np.int64) * length, sizes) + places
    return Examples(
        feature=feature.astype(np.int32),
        kind=kind.astype(np.uint8),
        rank=rank.astype(np.int32),
        context=context.astype(np.int32),
        position=position.astype(np.int32),
        value=value.astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        fired_position=places.astype(np.int32),
        fired_value=values[flat, np.repeat(feature.astype(np.int64), sizes)].astype(np.float32),
        loss=np.where(rank == 0, rng.normal(0, 1, len(rank)), np.nan).astype(np.float32),
    )


def _info(kind: str, features: int, rows: int, contexts: int) -> dict[str, Any]:
    steps = [
        {
            "step": step, "rows": step * 512, "loss": 0.9 * 0.97**step + 0.1,
            "fraction_unexplained": 0.8 * 0.96**step + 0.12, "l0": 32.0,
            "dead_fraction": max(0.0, 0.4 - step / 100), "lr": 3e-4 * min(step / 10, 1),
        }
        for step in range(0, 100, 2)
    ]  # fmt: skip
    return {
        "kind": kind,
        "site": "blocks.1.resid_post",
        "host": "bundled:code-lm" if kind == "text" else "bundled:digits-vit",
        "dataset": HOSTILE[0],
        "store": "0123abcd",
        "sae": {"arch": "batchtopk", "features": features, "k": 32, "seed": 0},
        "split": "held-out",
        "rows": rows,
        "contexts": contexts,
        "metrics": {
            "rows_evaluated": rows,
            "fraction_unexplained": 0.1634,
            "l0": 31.9,
            "dead_fraction": 1 / 11,
            "dense_fraction": 0.0713,
            "loss_recovered": 0.9412,
            "loss": {
                "original": 2.31, "spliced": 2.52, "mean_ablated": 5.88, "zero_ablated": 7.4,
            },
            "baselines": {
                "pca": {"fraction_unexplained": 0.31, "l0": 32},
                "random": {"fraction_unexplained": 0.88, "l0": 32},
            },
        },
        "definitions": {"l0": "Mean number of features that fire on a row."},
        "training": steps,
        "versions": {"probe_sae": "0.1.0", "torch": "2.10.0"},
    }  # fmt: skip
