"""The explorer's files hold the sampled inputs with all that fires on them, as exactly as said."""

import json
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

from probe_sae.analysis.arrays import Examples
from probe_sae.analysis.result import Analysis
from probe_sae.analysis.sampled import SampledRows
from probe_sae.reporting import Report
from probe_sae.reporting.encoding import unpack
from probe_sae.reporting.explorer import explored_inputs, explorer_files
from probe_sae.reporting.inputs import find_shown


class Row(NamedTuple):
    context: int
    position: int
    fired: dict[int, float]
    """Feature -> level."""


def files(analysis: Analysis) -> dict[str, Any]:
    return dict(explorer_files(analysis, find_shown(analysis)))


def rows_of(found: dict[str, Any], analysis: Analysis) -> Iterator[Row]:
    """Read rows back from the files, as the pages do."""
    listed = unpack(found["explore/list"])
    contexts = find_shown(analysis).contexts[listed["rank"]]
    number = 0
    for shard in range(len(found["explore/list"]["shards"])):
        assert found["explore/list"]["shards"][shard] == number
        columns = unpack(found[f"explore/{shard:03d}"])
        row = firing = 0
        for rows in columns["rows"].tolist():
            for _ in range(rows):
                part = slice(firing, firing + int(columns["counts"][row]))
                levels = columns["levels"][part] / 255
                fired = dict(zip(columns["features"][part].tolist(), levels.tolist(), strict=True))
                yield Row(int(contexts[number]), int(columns["positions"][row]), fired)
                row, firing = row + 1, part.stop
            number += 1
    assert number == len(contexts)


def expected_rows(analysis: Analysis) -> list[Row]:
    rows = analysis.rows
    found = []
    for i in range(len(rows.context)):
        part = slice(int(rows.offsets[i]), int(rows.offsets[i + 1]))
        fired = dict(zip(rows.feature[part].tolist(), rows.value[part].tolist(), strict=True))
        found.append(Row(int(rows.context[i]), int(rows.position[i]), fired))
    return sorted(found, key=lambda row: row[:2])


def many_rows(analysis: Analysis, contexts: int, length: int, each: int) -> Analysis:
    """The analysis with other sampled rows: `each` random features on every row."""
    rng = np.random.default_rng(3)
    count = contexts * length
    feature = np.argsort(rng.random((count, analysis.count)), axis=1)[:, :each]
    number = np.arange(count)
    rows = SampledRows(
        (number // length).astype(np.int32), (number % length).astype(np.int32),
        (np.arange(count + 1) * each).astype(np.int64),
        np.sort(feature, axis=1).ravel().astype(np.int32),
        rng.gamma(2, 1, count * each).astype(np.float32),
        number[::5].astype(np.int32), rng.random((len(number[::5]), 2), np.float32),
        rng.random((len(number[::5]), 2), np.float32),
    )  # fmt: skip
    return replace(analysis, rows=rows)


@pytest.mark.parametrize("fixture", ["text", "images"])
def test_every_firing_of_the_sampled_rows_comes_back(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    analysis: Analysis = request.getfixturevalue(fixture)
    value = analysis.rows.value.copy()
    value[::5] *= 1e-3
    analysis = replace(analysis, rows=replace(analysis.rows, value=value))

    found = list(rows_of(files(analysis), analysis))

    expected = expected_rows(analysis)
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    for row, truth in zip(found, expected, strict=True):
        assert row.fired.keys() == truth.fired.keys()
        for feature, value in truth.fired.items():
            level = value / analysis.columns.max[feature]
            assert row.fired[feature] >= 1 / 255
            assert abs(row.fired[feature] - level) <= max(1 / 510, 1 / 255 - level) + 1e-6


def test_inputs_are_cut_into_shards_that_hold_whole_inputs(text: Analysis) -> None:
    analysis = many_rows(text, contexts=40, length=48, each=30)

    found = files(analysis)

    assert len(found["explore/list"]["shards"]) == 4
    assert [row.fired.keys() for row in rows_of(found, analysis)] == [
        row.fired.keys() for row in expected_rows(analysis)
    ]


def test_the_list_counts_rows_firings_and_features(text: Analysis) -> None:
    listed = unpack(files(text)["explore/list"])

    rows = text.rows
    for i, context in enumerate(np.unique(rows.context)):
        some = np.repeat(rows.context == context, np.diff(rows.offsets))
        assert listed["rows"][i] == (rows.context == context).sum()
        assert listed["firings"][i] == some.sum()
        assert listed["features"][i] == len(np.unique(rows.feature[some]))


def test_rows_in_any_order_give_the_same_files(text: Analysis) -> None:
    rows = text.rows
    order = np.random.default_rng(0).permutation(len(rows.context))
    counts = np.diff(rows.offsets)[order]
    firings = np.concatenate(
        [np.arange(int(rows.offsets[i]), int(rows.offsets[i + 1])) for i in order]
    )
    shuffled = replace(
        rows,
        context=rows.context[order],
        position=rows.position[order],
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        feature=rows.feature[firings],
        value=rows.value[firings],
        mapped=np.argsort(order)[rows.mapped].astype(np.int32),
    )

    assert files(replace(text, rows=shuffled)) == files(text)


def test_maps_hold_the_places_of_the_mapped_rows(text: Analysis) -> None:
    text = many_rows(text, contexts=5, length=48, each=3)
    found = files(text)

    maps, rows = unpack(found["explore/maps"]), text.rows
    contexts = find_shown(text).contexts[unpack(found["explore/list"])["rank"]]
    assert np.array_equal(contexts[maps["input"]], rows.context[rows.mapped])
    assert np.array_equal(maps["position"], rows.position[rows.mapped])
    for name, places in (("pca", rows.pca), ("umap", rows.umap)):
        width = float(np.ptp(places, axis=0).max())
        shift = maps[name] / 65534 * width - places
        assert np.ptp(shift, axis=0).max() <= width / 65534 * 1.5


def test_too_many_inputs_are_cut_at_the_stated_sizes(text: Analysis) -> None:
    analysis = many_rows(text, contexts=40, length=48, each=30)
    only = replace(analysis.rows, mapped=analysis.rows.mapped[:2])

    assert len(explored_inputs(analysis, inputs=7)) == 7
    assert len(explored_inputs(analysis, firings=10 * 48 * 30)) == 10
    assert len(explored_inputs(analysis, firings=10 * 48 * 30 - 1)) == 9
    assert len(explored_inputs(analysis, firings=1)) == 1
    first = int(only.context[only.mapped[0]])
    assert explored_inputs(replace(analysis, rows=only), inputs=1).tolist() == [first]


def test_negative_activations_keep_their_sign(text: Analysis) -> None:
    value = text.rows.value.copy()
    value[::3] *= -1
    analysis = replace(text, rows=replace(text.rows, value=value))

    found = files(analysis)

    scales = unpack(found["explore/list"])["scales"]
    for row, truth in zip(rows_of(found, analysis), expected_rows(analysis), strict=True):
        for feature, expected in truth.fired.items():
            near = row.fired[feature] * scales[feature]
            assert np.sign(near) == np.sign(expected)
            assert abs(near - expected) <= scales[feature] / 255


def test_inputs_that_no_example_shows_are_written_too(text: Analysis) -> None:
    none = np.zeros(0, np.int32)
    without = Examples(
        none, none.astype(np.uint8), none, none, none, np.zeros(0, np.float32),
        np.zeros(1, np.int64), none, *np.zeros((2, 0), np.float32),
    )  # fmt: skip

    shown = find_shown(replace(text, examples=without))

    assert shown.contexts.tolist() == np.unique(text.rows.context).tolist()


def test_no_sampled_rows_are_no_inputs(fake: ModuleType, text: Analysis) -> None:
    none = np.zeros(0, np.int32)
    floats = np.zeros(0, np.float32)
    empty = SampledRows(
        none, none, np.zeros(1, np.int64), none, floats, none,
        np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32),
    )  # fmt: skip

    found = files(replace(text, rows=empty))

    assert found["explore/list"]["shards"] == []
    assert len(unpack(found["explore/list"])["rank"]) == 0


def test_a_firing_costs_about_three_bytes(fake: ModuleType) -> None:
    analysis = many_rows(fake.text_analysis(features=512), contexts=60, length=48, each=16)

    found = files(analysis)

    size = sum(len(json.dumps(value)) for name, value in found.items() if "maps" not in name)
    assert size / len(analysis.rows.feature) <= 3.2
    assert len(json.dumps(found["explore/maps"])) / len(analysis.rows.mapped) <= 20


def test_the_report_holds_these_files(text: Analysis, text_report: Report) -> None:
    for name, value in files(text).items():
        written = (text_report.folder / "data" / f"{name}.js").read_text()
        assert value["gz"] in written
