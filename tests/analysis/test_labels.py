"""Planted rules are found and put in words; noise is called unclear; scores equal brute force."""

import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from probe_sae.analysis import (
    BackgroundRows,
    ImageInputs,
    Labels,
    SampledFirings,
    TextInputs,
    label_features,
    rule_matches,
    score_rule,
)
from probe_sae.analysis.labels.intervals import mean_of, share_of
from probe_sae.analysis.labels.rows import is_scoring
from probe_sae.analysis.labels.rules import columns_of
from probe_sae.analysis.labels.words import LONGEST_LABEL, describe
from probe_sae.errors import SettingsError, ShapeError

from .brute_rules import holds
from .label_worlds import (
    ID,
    WORDS,
    Samples,
    images,
    patches_of,
    random_texts,
    rows_of,
    sampled,
    texts,
)

Where = Callable[[list[str], int], bool]
"""(texts of a context, position) -> whether the feature fires; position 0 is the special token."""


def text_of(run: list[str], at: int) -> str:
    """Return what is before a token on its line."""
    return "".join(run[1:at]).rpartition("\n")[2]


PLANTED: dict[str, tuple[Where, str]] = {
    "token": (lambda run, at: run[at] == " dog", 'token "dog"'),
    "either case": (lambda run, at: run[at].strip().lower() == "red", 'token "red"'),
    "one case": (lambda run, at: run[at] == " None", 'exactly "␣None"'),
    "two tokens": (lambda run, at: run[at] in (" cat", " dog"), 'tokens "cat" or "dog"'),
    "suffix": (lambda run, at: run[at].endswith("ing"), "ends in -ing"),
    "prefix": (lambda run, at: run[at].startswith(" un"), "begins with un-"),
    "class": (lambda run, at: run[at].isdigit(), "digits"),
    "before": (lambda run, at: run[at - 1] == " alarm", 'after "alarm"'),
    "pair": (lambda run, at: run[at - 1 : at + 1] == [" the", " cat"], '"cat" after "the"'),
    "word": (
        lambda run, at: bool(re.search(r"(?<!\w)import$", "".join(run[1 : at + 1]))),
        'word so far "import"',
    ),
    "near": (lambda run, at: "#" in run[max(1, at - 3) : at], 'within 3 tokens after "#"'),
    "position": (lambda run, at: at == 1, "first token"),
    "early": (lambda run, at: at <= 4, "first 4 tokens"),
    "line start": (lambda run, at: at == 1 or "\n" in run[at - 1], "line start"),
    "quotes": (lambda run, at: text_of(run, at).count('"') % 2 == 1, "in quotes"),
    "both": (lambda run, at: run[at].isdigit() and "=" in text_of(run, at), "digits"),
}


@pytest.fixture(scope="module")
def world() -> Samples:
    """Return samples of features that fire where `PLANTED` says."""
    inputs = random_texts()
    context, position = rows_of(inputs)
    runs = [
        [inputs.piece(int(t)) for t in inputs.tokens[a:b]]
        for a, b in zip(inputs.offsets[:-1], inputs.offsets[1:], strict=True)
    ]
    rows = list(zip(context.tolist(), position.tolist(), strict=True))
    fires = np.array([[where(runs[c], p) for c, p in rows] for where, _ in PLANTED.values()])
    return sampled(inputs, context, position, fires)


@pytest.fixture(scope="module")
def labels(world: Samples) -> Labels:
    return label_features(*world.all())


@pytest.mark.parametrize("name", [name for name in PLANTED if name != "both"])
def test_a_planted_rule_is_found_and_put_in_words(name: str, labels: Labels) -> None:
    number = list(PLANTED).index(name)

    assert labels.label[number] == PLANTED[name][1]
    assert labels.is_clear[number]
    assert labels.balanced_accuracy[number] > 0.98
    assert labels.low[number] > 0.9


def test_two_conditions_are_found_together(labels: Labels) -> None:
    rule = labels.rule[list(PLANTED).index("both")]

    assert rule is not None
    assert {part["column"] for part in rule["parts"]} == {"digits", "after = on the line"}


def test_scores_equal_brute_force(world: Samples, labels: Labels) -> None:
    firings, background, inputs, density = world.all()
    assert isinstance(inputs, TextInputs)
    row_of_entry = background.row_of_entry()
    for feature, rule in enumerate(labels.rule):
        fired = set(row_of_entry[background.feature == feature].tolist())
        hits, false = set[tuple[int, int, bool]](), list[bool]()
        for i in np.flatnonzero(firings.feature == feature):
            place = int(firings.context[i]), int(firings.position[i])
            hits.add((*place, holds(dict(rule or {}), inputs, *place)))
        for i in range(len(background.context)):
            place = int(background.context[i]), int(background.position[i])
            if i in fired:
                hits.add((*place, holds(dict(rule or {}), inputs, *place)))
            elif is_scoring(np.array([place[0]]), 0)[0]:
                false.append(holds(dict(rule or {}), inputs, *place))
        told = [hit for c, _, hit in hits if is_scoring(np.array([c]), 0)[0]]
        sensitivity, specificity = np.mean(told), 1 - np.mean(false)
        d = density[feature]
        right, wrong = d * sensitivity, (1 - d) * (1 - specificity)

        assert labels.sensitivity[feature] == pytest.approx(sensitivity)
        assert labels.specificity[feature] == pytest.approx(specificity)
        assert labels.balanced_accuracy[feature] == pytest.approx((sensitivity + specificity) / 2)
        assert labels.precision[feature] == pytest.approx(right / (right + wrong))
        assert labels.firings_scored[feature] == len(told)
        assert labels.rows_scored[feature] == len(told) + len(false)


EVERY_COLUMN: list[dict[str, Any]] = [
    *(
        {"kind": "values", "column": column, "values": values}
        for column, values in {
            "token": ["red", "none", "\n"],
            "exact token": [" Red", " None"],
            "beginning of 2": ["un"],
            "beginning of 3": ["str"],
            "end of 3": ["ing"],
            "end of 2": ["og"],
            "token before": [word.strip(" ").casefold() for word in WORDS[::2]],
            "token after": ["cat"],
            "pair": [["the", "cat"], ["im", "port"]],
            "word so far": ["import", "sort", "undo42", "1999"],
            "line's first token": ["#", "def", "("],
            "within 3": ["alarm", "#"],
            "within 8": ["alarm", "("],
        }.items()
    ),
    *(
        {"kind": "flag", "column": column, "is": wanted}
        for column in (
            *("in quotes", "in a comment", "in ( )", "after = on the line", "seen before"),
            *("inside a word", "digits", "line end", "capitalised", "lower-case word"),
            "punctuation",
        )
        for wanted in (True, False)
    ),
    {"kind": "number", "column": "position", "below": 3},
    {"kind": "number", "column": "place in the line", "at_least": 2},
    {"kind": "number", "column": "indentation", "at_least": 1},
]


@pytest.mark.parametrize("special", [(0,), ()], ids=["special", "plain"])
@pytest.mark.parametrize(
    "rule", EVERY_COLUMN, ids=lambda rule: f"{rule['column']} {rule.get('is')}"
)
def test_every_column_is_what_the_text_says(rule: dict[str, Any], special: tuple[int, ...]) -> None:
    """With a special token before each context, and with an ordinary one in its place."""
    inputs = replace(random_texts(contexts=25, length=60, seed=3), special=list(special))
    context, position = rows_of(inputs)

    found = rule_matches(rule, inputs, context, position)

    places = zip(context.tolist(), position.tolist(), strict=True)
    assert found.tolist() == [holds(rule, inputs, *place) for place in places]
    assert 0 < found.sum() < len(found)


def test_a_window_has_each_token_once() -> None:
    inputs = random_texts(contexts=25, length=60, seed=3)

    windows = columns_of(inputs, *rows_of(inputs)).windows["within 8"].codes

    for window in windows:
        seen = window[window >= 0]
        assert len(set(seen.tolist())) == len(seen)


def test_a_feature_of_most_rows_is_compared_with_the_others() -> None:
    """It fires on four words of six: each is commoner among all rows than among quiet ones."""
    words = [b"one", b"two", b"six", b"ten", b"cat", b"dog"]
    tokens = np.random.default_rng(0).integers(0, 6, (200, 30))
    inputs = texts(tokens.tolist(), words, ())
    fires = (tokens < 4).reshape(1, -1)

    found = label_features(*sampled(inputs, *rows_of(inputs), fires).all())

    rule = found.rule[0]
    assert rule is not None
    assert set(rule["values"]) == {"one", "two", "six", "ten"}
    assert found.balanced_accuracy[0] == 1


def test_long_rules_are_cut_in_words() -> None:
    values = [letter * 40 for letter in "abcde"]
    part = {"kind": "values", "column": "token", "values": values}

    label = describe({"kind": "all", "parts": [part, part]})

    assert len(label) == LONGEST_LABEL
    assert label.endswith("…")


def test_noise_is_unclear() -> None:
    inputs = random_texts()
    context, position = rows_of(inputs)
    fires = np.random.default_rng(1).random((500, len(context))) < 0.01
    noise = sampled(inputs, context, position, fires)

    found = label_features(*noise.all())

    assert found.is_clear.mean() < 0.01
    assert np.nanmean(found.balanced_accuracy) == pytest.approx(0.5, abs=0.02)
    assert np.mean([label.startswith("unclear (often ") for label in found.label]) > 0.98


def test_a_broad_rule_for_a_rare_feature_is_not_clear() -> None:
    """Digits are a quarter of the rows; one in 200 of them fires the feature."""
    inputs = random_texts(contexts=2000)
    context, position = rows_of(inputs)
    digits = rule_matches({"kind": "flag", "column": "digits"}, inputs, context, position)
    fires = digits & (np.random.default_rng(0).random(len(digits)) < 0.005)

    found = label_features(*sampled(inputs, context, position, fires[None]).all())

    assert found.balanced_accuracy[0] > 0.8
    assert found.low[0] > 0.7
    assert found.precision[0] < 0.1
    assert not found.is_clear[0]


def test_hard_negatives_show_what_random_ones_hide() -> None:
    """A rule about the token alone, where the feature wants a pair."""
    inputs = random_texts()
    context, position = rows_of(inputs)
    pair = {"kind": "values", "column": "pair", "values": [["im", "port"]]}
    fires = rule_matches(pair, inputs, context, position)[None]
    samples = sampled(inputs, context, position, fires)
    token = {"kind": "values", "column": "token", "values": ["port"]}

    loose, exact = (score_rule(rule, 0, *samples.all()) for rule in (token, pair))

    assert loose.balanced_accuracy > 0.95
    assert loose.hard_accuracy < 0.85
    assert (exact.balanced_accuracy, exact.hard_accuracy) == (1, 1)


def test_too_few_firings_are_too_rare_to_tell() -> None:
    inputs = random_texts()
    context, position = rows_of(inputs)
    fires = np.zeros((2, len(context)), np.bool_)
    fires[0, :12] = True

    found = label_features(*sampled(inputs, context, position, fires).all())

    assert found.label == ["too rare to tell"] * 2
    assert np.isnan(found.balanced_accuracy).all()
    assert not found.is_clear.any()


NONE = np.zeros(0, np.int64)
NO_FIRINGS = SampledFirings(NONE, NONE, NONE, NONE.astype(np.float32))
NO_ROWS = BackgroundRows(NONE, NONE, np.zeros(1, np.int64), NONE)


@pytest.mark.parametrize(
    "inputs", [random_texts(5), texts([]), texts([[], []]), images(3), images(0)]
)
@pytest.mark.parametrize("features", [0, 2])
def test_empty_samples_have_nothing_to_tell(
    inputs: TextInputs | ImageInputs, features: int
) -> None:
    found = label_features(NO_FIRINGS, NO_ROWS, inputs, np.zeros(features))

    assert found.label == ["too rare to tell"] * features
    assert found.rule == [None] * features
    assert found.is_clear.tolist() == [False] * features


def test_firings_without_a_background_have_nothing_to_tell() -> None:
    inputs = random_texts(50)
    context, position = rows_of(inputs)
    feature = np.zeros(len(context), np.int64)
    firings = SampledFirings(feature, context, position, np.ones(len(context), np.float32))

    found = label_features(firings, NO_ROWS, inputs, np.ones(1))

    assert found.label == ["too rare to tell"]


def test_no_context_is_on_both_sides_and_seeds_cut_otherwise() -> None:
    context = np.arange(10_000)

    one, other = is_scoring(context, 0), is_scoring(context, 1)

    assert (is_scoring(context.repeat(3), 0) == one.repeat(3)).all()
    assert one.mean() == pytest.approx(0.5, abs=0.02)
    assert (one == other).mean() == pytest.approx(0.5, abs=0.02)


def test_what_is_scored_on_does_not_enter_the_rule() -> None:
    """The feature fires on one token in the finding half, on another in the scoring half."""
    inputs = random_texts()
    context, position = rows_of(inputs)
    token = inputs.tokens[inputs.offsets[context] + position]
    scoring = is_scoring(context, 0)
    fires = np.where(scoring, token == ID[" of"], token == ID[" dog"])

    found = label_features(*sampled(inputs, context, position, fires[None]).all())

    assert found.rule[0] == {"kind": "values", "column": "token", "values": ["dog"]}
    assert found.sensitivity[0] == 0
    assert found.label[0].startswith("unclear")


def test_permuted_rows_change_nothing(world: Samples, labels: Labels) -> None:
    generator = np.random.default_rng(0)
    f, b = world.firings, world.background
    order = np.lexsort((generator.random(len(f.feature)), f.feature))
    rows = generator.permutation(len(b.context))
    parts = [b.feature[b.offsets[row] : b.offsets[row + 1]][::-1] for row in rows]
    firings = SampledFirings(*(getattr(f, field.name)[order] for field in fields(f)))
    background = BackgroundRows(
        b.context[rows],
        b.position[rows],
        np.cumsum([0, *map(len, parts)]),
        np.concatenate(parts),
    )

    found = label_features(firings, background, world.inputs, world.density)

    assert_same(found, labels)


def test_the_same_seed_gives_the_same_labels(world: Samples, labels: Labels) -> None:
    assert_same(label_features(*world.all()), labels)


def assert_same(one: Labels, other: Labels) -> None:
    assert (one.label, one.rule) == (other.label, other.rule)
    for field in fields(Labels)[2:]:
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


def test_rules_survive_json_and_score_as_the_label_did(world: Samples, labels: Labels) -> None:
    for feature, rule in enumerate(labels.rule):
        again = json.loads(json.dumps(rule))

        score = score_rule(again, feature, *world.all())

        assert score.balanced_accuracy == labels.balanced_accuracy[feature]
        assert (score.low, score.high) == (labels.low[feature], labels.high[feature])
        assert score.hard_accuracy == labels.hard_accuracy[feature]
        assert describe(again) == describe(rule or {})


def test_hostile_text_never_crashes_and_labels_stay_short() -> None:
    nasty = [
        *(b"\x00", b"\x1b[31m", "\u202eevil".encode(), b"\xed\xa0\x80", b"\xe2\x82", b"\xac"),
        *(b"x" * 100_000, b"<script>", b"", b" " * 5000, b"\r\n\x0b", "\u00a0\u2028".encode()),
        *("e\u0301" * 3000, "İΣ", "\U0001f9d1\u200d\U0001f680", '"""', "\ufeff", "\x7f\x85"),
    ]
    pieces = [b"<bos>", *(p.encode() if isinstance(p, str) else p for p in nasty)]
    generator = np.random.default_rng(0)
    runs = [generator.integers(0, len(pieces) + 1, 30).tolist() for _ in range(300)]
    runs += [[], [-1]]
    inputs = texts(runs, pieces)
    context, position = rows_of(inputs)
    token = inputs.tokens[inputs.offsets[context] + position]
    fires = np.stack([token == i for i in range(1, len(pieces) + 1)])
    noise = generator.random((5, len(token))) < 0.02

    found = label_features(*sampled(inputs, context, position, np.vstack([fires, noise])).all())

    for label in found.label:
        assert 0 < len(label) <= LONGEST_LABEL
        assert not any(unicodedata.category(c)[0] == "C" for c in label), label
        assert "\n" not in label
    assert found.is_clear[: len(pieces) - 1].mean() > 0.9
    assert found.label[0] == 'token "␀"'
    json.dumps(found.rule).encode()


REGIONS: dict[str, Callable[[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]], Any]] = {
    "class kind 3": lambda label, y, x, light: label == 3,
    "class kind 4 or kind 1": lambda label, y, x, light: np.isin(label, [1, 4]),
    "top row": lambda label, y, x, light: y == 0,
    "right column": lambda label, y, x, light: x == 3,
    "row 1 column 1-2 or row 4 column 2": lambda label, y, x, light: np.isin(4 * y + x, [0, 1, 13]),
    "left 3 columns, top 3 rows": lambda label, y, x, light: (y < 3) & (x < 3),
    "corner": lambda label, y, x, light: (y % 3 == 0) & (x % 3 == 0),
    "centre": lambda label, y, x, light: (y % 3 > 0) & (x % 3 > 0),
    "row 2 column 3": lambda label, y, x, light: (y == 1) & (x == 2),
    "bright (0.91 or more)": lambda label, y, x, light: light >= 0.91,
    "dark (under 0.1)": lambda label, y, x, light: light < 0.1,
}


@pytest.mark.parametrize("name", REGIONS)
def test_planted_rules_of_images_are_found(name: str) -> None:
    inputs = images()
    context, position = patches_of(inputs)
    y, x = np.divmod(position, 4)
    light = inputs.thumbnails[context, 2 * y, 2 * x, 0] / 255
    fires = REGIONS[name](inputs.label[context], y, x, light)

    found = label_features(*sampled(inputs, context, position, fires[None]).all())

    assert found.label == [name]
    assert found.balanced_accuracy[0] > 0.95


def test_class_and_region_are_found_together() -> None:
    inputs = images(1500)
    context, position = patches_of(inputs)
    fires = (inputs.label[context] == 2) & (position < 4)

    found = label_features(*sampled(inputs, context, position, fires[None]).all())

    assert set(found.label[0].split(", ")) == {"class kind 2", "top row"}
    assert found.balanced_accuracy[0] == 1


@pytest.mark.parametrize("grid", [(1, 1), (3, 3), (20, 20)])
def test_patches_that_do_not_divide_the_image_have_their_pixels_mean(grid: tuple[int, int]) -> None:
    inputs = replace(images(40), grid=grid)
    context, position = patches_of(inputs)
    rule = {"kind": "number", "column": "brightness", "at_least": 0.5}

    found = rule_matches(rule, inputs, context, position)

    grey = inputs.thumbnails[..., 0] / 255
    for c, p, bright in zip(context, position, found, strict=True):
        rows, columns = (
            slice(i * 8 // n, max(i * 8 // n + 1, (i + 1) * 8 // n))
            for i, n in zip(divmod(int(p), grid[1]), grid, strict=True)
        )
        assert bright == (np.float32(grey[c, rows, columns].mean()) >= np.float32(0.5))


def test_a_class_token_has_no_place_on_the_grid() -> None:
    inputs = images(10)

    found = rule_matches(
        {"kind": "flag", "column": "corner"}, inputs, np.arange(2), np.array([16, 0])
    )

    assert found.tolist() == [False, True]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            {"kind": "values", "column": "tokn", "values": ["a"]},
            "no column of values 'tokn'.*token",
        ),
        ({"kind": "flag", "column": "position"}, "no flag 'position'"),
        ({"kind": "number", "column": "position"}, "`below` or `at_least`"),
        ({"kind": "number", "column": "position", "below": "x"}, "`below` or `at_least`"),
        ({"kind": "values", "column": "token", "values": "a"}, "needs a list"),
        ({"kind": "values", "column": "pair", "values": [3]}, "3 is no value of 'pair'"),
        ({"kind": "any"}, "is no rule"),
        ({"kind": "all", "parts": []}, "is no rule"),
        ("token", "is no rule"),
    ],
)
def test_what_is_no_rule_is_refused(rule: Any, message: str, world: Samples) -> None:
    with pytest.raises(SettingsError, match=message):
        score_rule(rule, 0, *world.all())


def test_endless_nesting_is_refused(world: Samples) -> None:
    rule: dict[str, Any] = {"kind": "flag", "column": "digits"}
    for _ in range(5000):
        rule = {"kind": "all", "parts": [rule]}

    with pytest.raises(SettingsError, match="is no rule"):
        score_rule(rule, 0, *world.all())


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda f, b: (replace(f, feature=f.feature[::-1]), b), "sorted by feature"),
        (lambda f, b: (replace(f, context=f.context[1:]), b), "different lengths"),
        (lambda f, b: (replace(f, position=f.position + 10**6), b), "beyond its"),
        (lambda f, b: (replace(f, context=f.context + 10**6), b), "but there are 400"),
        (lambda f, b: (f, replace(b, position=b.position - 50)), "beyond its"),
        (lambda f, b: (f, replace(b, offsets=b.offsets[1:])), "offsets"),
        (lambda f, b: (f, replace(b, feature=b.feature + 99)), "there are 16"),
    ],
)
def test_samples_that_cannot_be_right_are_refused(
    broken: Callable[[SampledFirings, BackgroundRows], tuple[SampledFirings, BackgroundRows]],
    message: str,
    world: Samples,
) -> None:
    with pytest.raises(ShapeError, match=message):
        label_features(*broken(world.firings, world.background), world.inputs, world.density)


def test_intervals_of_single_rows_are_wilsons() -> None:
    from scipy.stats import binomtest

    hits = np.arange(80) < 60

    share = share_of(hits, np.arange(80))

    expected = binomtest(60, 80).proportion_ci(method="wilson")
    assert share.low == pytest.approx(expected.low, abs=0.003)
    assert share.high == pytest.approx(expected.high, abs=0.003)


def test_rows_copied_within_contexts_add_no_certainty() -> None:
    hits = np.arange(80) < 60

    once = share_of(hits, np.arange(80))
    copied = share_of(hits.repeat(10), np.arange(80).repeat(10))

    np.testing.assert_allclose(copied, once, atol=0.003)


def test_rows_that_all_agree_are_as_sure_as_their_contexts() -> None:
    from scipy.stats import binomtest

    share = share_of(np.ones(100, np.bool_), np.arange(100) // 10)

    assert share.low == pytest.approx(binomtest(10, 10).proportion_ci(method="wilson").low)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Rows come by fours in contexts that lean one way or the other."""
    generator = np.random.default_rng(0)
    context = np.arange(160) // 4
    covered = 0
    for _ in range(1000):
        lean = generator.beta(8, 2, 40).repeat(4)
        told, spared = (
            share_of(generator.random(160) < p, context) for p in (lean, lean**0 * 0.95)
        )
        interval = mean_of(told, spared)
        covered += interval.low <= (0.8 + 0.95) / 2 <= interval.high

    assert 0.93 <= covered / 1000 <= 0.99
