"""What pages say of labels, places, neurons, modules and metrics is what the analysis says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probe_sae.analysis.result import Analysis
from probe_sae.reporting import Report, write_report
from probe_sae.reporting.encoding import unpack
from probe_sae.reporting.together import together

pytestmark = pytest.mark.browser


def clear_feature(text: Analysis) -> int:
    return int(np.flatnonzero(text.labels.is_clear & (text.columns.module >= 0))[0])


def test_a_feature_says_its_label_and_what_it_is_worth(
    page: Any, text: Analysis, text_report: Report
) -> None:
    feature = clear_feature(text)
    page.visit(text_report, f"index.html#/feature/{feature}")

    assert text.labels.label[feature] in page.text("h1")
    assert page.text(".said-label") == text.labels.label[feature]
    assert "95 %" in page.text(".label-panel")
    assert "85 % to 99 %" in page.text(".label-panel")
    assert f"on {text.labels.firings_scored[feature]} firings" in page.text(".label-panel")


def test_an_unclear_label_is_not_a_name(page: Any, text: Analysis, text_report: Report) -> None:
    unclear = ~text.labels.is_clear & np.isfinite(text.labels.balanced_accuracy)
    feature = int(np.flatnonzero(unclear)[0])
    page.visit(text_report, f"index.html#/feature/{feature}")

    assert "unclear" not in page.text("h1")
    assert page.text(".said-label").startswith("unclear (often")


def test_labels_narrow_the_list_down(page: Any, text: Analysis, text_report: Report) -> None:
    page.visit(text_report, "index.html#/features?clear=1&sort=-fit")

    alive = text.columns.firings > 0
    clear = int((text.labels.is_clear & alive).sum())
    assert page.text(".count") == f"{clear} of {text.count} features"
    assert page.text("tr[data-id] td.fit") == "95 %"


def test_neurons_are_named_with_their_correlations(
    page: Any, text: Analysis, text_report: Report
) -> None:
    feature = clear_feature(text)
    page.visit(text_report, f"index.html#/feature/{feature}")
    panels = page.run(
        "return [...document.querySelectorAll('.panel')].filter((p) => "
        "p.textContent.includes('Neurons that go')).map((p) => p.innerText)"
    )

    assert len(panels) == 1
    for number in ("0.9", "\u22120.5", "0.3", "0.1"):
        assert number in panels[0]


def test_the_matrix_of_a_module_is_that_of_its_pairs(
    page: Any, text: Analysis, text_report: Report
) -> None:
    page.visit(text_report, "index.html#/module/1")
    members = np.flatnonzero(text.columns.module == 1)
    pairs = text.pairs
    inside = np.isin(pairs.first, members) & np.isin(pairs.second, members)
    strong = {
        frozenset((int(a), int(b)))
        for a, b, phi in zip(
            pairs.first[inside], pairs.second[inside], pairs.phi[inside], strict=True
        )
        if phi > 0.01
    }
    said = page.run(
        "return [...document.querySelectorAll('.matrix .cell')].map((c) => "
        "c.getAttribute('aria-label').match(/#(\\d+) and #(\\d+)/).slice(1, 3).map(Number))"
    )

    assert strong <= {frozenset(pair) for pair in said}
    assert {frozenset(pair) for pair in said} <= {
        frozenset((int(a), int(b)))
        for a, b in zip(pairs.first[inside], pairs.second[inside], strict=True)
    }


def test_links_between_modules_are_means_over_all_their_pairs(text: Analysis) -> None:
    found = unpack(together(text))
    module, pairs = text.columns.module, text.pairs
    low, high = np.minimum(pairs.first, pairs.second), np.maximum(pairs.first, pairs.second)
    once = {(int(a), int(b)): phi for a, b, phi in zip(low, high, pairs.phi, strict=True)}
    start = 0
    for i, count in enumerate(found["link_counts"].tolist()):
        for at in range(start, start + count):
            other = int(found["link_modules"][at])
            total = sum(phi for (a, b), phi in once.items() if {module[a], module[b]} == {i, other})
            sizes = int((module == i).sum()) * int((module == other).sum())
            assert found["link_phis"][at] / 32767 == pytest.approx(total / sizes, abs=1e-4)
        start += count
    assert start == len(found["link_phis"]) > 0


def test_metrics_stand_beside_baselines_and_intervals(page: Any, text: Any, tmp_path: Path) -> None:
    metrics = {**text.info["metrics"], "intervals": {"fraction_unexplained": [0.15, 0.18]}}
    report = write_report(
        replace(text, info={**text.info, "metrics": metrics}), tmp_path / "report"
    )
    page.visit(report, "index.html")
    rows = page.run(
        "return [...document.querySelectorAll('.metrics tr')].map((row) => "
        "[...row.children].map((cell) => cell.innerText))"
    )
    table = {row[0]: row[1:] for row in rows}

    assert rows[0][1:] == ["this dictionary", "95 % interval", "random", "PCA"]
    assert table["Fraction unexplained"] == ["16.3 %", "15 % \u2013 18 %", "88 %", "31 %"]
    assert table["Loss: spliced"][0] == "2.52"
    assert "15 % to 18 %" in page.text(".cards")
    assert "PCA 31 %" in page.text(".cards")
    assert page.complaints() == []
