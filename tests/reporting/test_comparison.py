"""A report that compares holds both dictionaries, matched; in Chromium it shows and finds them."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probe_sae.analysis.counterparts import counterparts
from probe_sae.analysis.result import Analysis
from probe_sae.errors import SettingsError
from probe_sae.reporting import Report, write_report
from probe_sae.reporting.encoding import unpack
from probe_sae.reporting.features import visible

Pair = tuple[Analysis, Analysis]


def data_of(report: Report) -> dict[str, Any]:
    text = (report.folder / "data/compare.js").read_text()
    return unpack(json.loads(text.removeprefix('probe.take("compare",').removesuffix(");\n")))


def living(analysis: Analysis) -> Any:
    return np.flatnonzero(analysis.columns.firings > 0)


def test_the_data_hold_the_matching(twins: Pair, compared_report: Report) -> None:
    columns, expected = data_of(compared_report), counterparts(*twins)

    for name, side in (("a", expected.a), ("b", expected.b)):
        assert np.array_equal(columns[f"{name}_pair"].astype(int) - 1, side.pair)
        assert np.array_equal(columns[f"{name}_best"].astype(int) - 1, side.best)
        known = ~np.isnan(side.best_cosine)
        cosines = columns[f"{name}_best_cosine"]
        assert np.allclose(cosines[known] / 32767, side.best_cosine[known], atol=2**-15)
        assert (cosines[~known] == -32768).all()
    assert np.array_equal(columns["b_firings"], twins[1].columns.firings)
    for name, one in (("a_words", twins[0]), ("b_words", twins[1])):
        lines = columns[name].tobytes().decode().split("\n")
        assert len(lines) == one.count
        assert lines[1] == one.label(1)


def test_report_json_counts_what_is_shared(twins: Pair, compared_report: Report) -> None:
    found = json.loads((compared_report.folder / "report.json").read_text())["compare"]

    expected = counterparts(*twins)
    for name, side, one in (("a", expected.a, twins[0]), ("b", expected.b, twins[1])):
        best, pair = (x[living(one)] for x in (side.best_cosine, side.pair_cosine))
        for bound in (0.7, 0.9):
            assert found[name]["matched"][str(bound)] == (pair >= bound).sum() > 5
            assert found[name]["found_again"][str(bound)] == pytest.approx((best >= bound).mean())
        assert sum(found[name]["best_histogram"]) == found[name]["alive"] == len(living(one))
        assert found[name]["metrics"] == one.info["metrics"]
    assert found["same_rows"] is False
    assert found["edges"][0] <= min(np.nanmin(expected.a.best_cosine), 0)


def test_hostile_text_of_the_other_stands_raw_in_no_file(
    fake: Any, compared_report: Report, single_report: Report
) -> None:
    raw = [text for text in fake.HOSTILE if "<" in text or "\u2028" in text]
    pages = [*compared_report.folder.rglob("*.js"), *compared_report.folder.glob("*.html")]
    for path in [*pages, single_report.index]:
        if "plotly" not in path.name:
            text = path.read_text(encoding="utf-8")
            assert not any(hostile in text for hostile in raw), path.name


@pytest.mark.parametrize("single", [False, True])
def test_a_comparison_written_twice_has_the_same_bytes(
    twins: Pair, compared_report: Report, single_report: Report, tmp_path: Path, single: bool
) -> None:
    name = "again.html" if single else "again"
    again = write_report(twins[0], tmp_path / name, compare=twins[1], single_file=single)

    def digests(report: Report) -> dict[str, str]:
        paths = [report.index] if single else report.folder.rglob("*")
        return {
            "page" if single else str(path.relative_to(report.folder)): hashlib.sha256(
                path.read_bytes()
            ).hexdigest()
            for path in paths
            if path.is_file()
        }

    assert digests(again) == digests(single_report if single else compared_report)


def test_a_refused_comparison_leaves_nothing(text: Analysis, images: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="different kinds"):
        write_report(text, tmp_path / "report", compare=images)

    assert not list(tmp_path.iterdir())


def row_texts(page: Any) -> list[str]:
    return page.run(
        "return [...document.querySelectorAll('.paired tbody tr')].map(r => r.innerText)"
    )


@pytest.mark.browser
def test_the_page_shows_both_side_by_side(page: Any, twins: Pair, compared_report: Report) -> None:
    page.visit(compared_report, "index.html#/compare")

    matched = compared_report.summary["compare"]["a"]["matched"]["0.7"]
    assert page.text(".lead").startswith(f"{matched} features are in both")
    sides = page.text(".sides").replace("\n", " ")
    assert f"Features {twins[0].count} {twins[1].count}" in re.sub(r"\s+", " ", sides)
    assert "16 % to 17 %" in sides
    assert page.text(".warned").startswith("Analysed on different rows")
    assert page.painted(".both-ways .chart") > 0.03
    assert page.text("nav").split()[-1] == "Compare"


@pytest.mark.browser
def test_the_table_holds_the_rows_in_view_with_an_example(
    page: Any, twins: Pair, compared_report: Report
) -> None:
    page.visit(compared_report, "index.html#/compare")
    page.wait("document.querySelector('#table').dataset.filled")

    found = counterparts(*twins)
    best = int(np.nanargmax(found.a.pair_cosine))
    first = row_texts(page)[1]
    assert f"A #{best}" in first
    assert f"B #{found.a.pair[best]}" in first
    assert f"{found.a.pair_cosine[best]:.3f}" in first
    assert page.run("return document.querySelectorAll('.paired tr[data-a]').length") < 40
    assert page.text(".paired .token.marked")


@pytest.mark.browser
@pytest.mark.parametrize("view", ["near", "a", "b"])
def test_each_view_counts_its_features(
    page: Any, twins: Pair, compared_report: Report, view: str
) -> None:
    page.visit(compared_report, f"index.html#/compare?view={view}")

    found = counterparts(*twins)
    near, only = [], []
    for side, one in ((found.a, twins[0]), (found.b, twins[1])):
        alone = living(one)[~(side.pair_cosine[living(one)] >= 0.7)]
        near.append(int((side.best_cosine[alone] >= 0.7).sum()))
        only.append(int((side.best_cosine[alone] < 0.7).sum()))
    assert near[1] > 2
    expected = {"near": sum(near), "a": only[0], "b": only[1]}[view]
    assert page.text(".filters .count") == f"{expected} row{'' if expected == 1 else 's'}"
    counts = re.findall(r"\d+", page.text(".lead").replace("0.7", ""))
    assert [int(n) for n in counts[1:]] == [*near, *only]


@pytest.mark.browser
def test_the_table_sorts_searches_and_keeps_its_state_in_the_address(
    page: Any, twins: Pair, compared_report: Report
) -> None:
    page.visit(compared_report, "index.html#/compare?view=all")
    page.run("document.querySelector('.paired th:last-child button').click()")
    firings = twins[1].columns.firings
    assert f"B #{firings.argmax()}" in row_texts(page)[1]

    page.run(
        "const field = document.querySelector('.pair-search'); field.value = '#17';"
        "field.dispatchEvent(new Event('input'))"
    )
    assert all(re.search(r"[AB] #17\b", text) for text in row_texts(page)[1:-1])
    assert "q=%2317" in page.browser.current_url
    assert "sort=-density_b" in page.browser.current_url


@pytest.mark.browser
def test_a_feature_names_its_counterpart(page: Any, twins: Pair, compared_report: Report) -> None:
    found = counterparts(*twins)
    feature = int(np.nanargmax(found.a.pair_cosine))
    page.visit(compared_report, f"index.html#/feature/{feature}")

    shown = page.text(".counterpart")
    assert f"B #{found.a.pair[feature]}" in shown
    assert f"Cosine {found.a.pair_cosine[feature]:.3f}" in shown
    assert "both ways" in shown


@pytest.mark.browser
def test_the_figures_of_both_stand_in_one_table(page: Any, compared_report: Report) -> None:
    page.visit(compared_report, "index.html#/compare")

    heads, cells, inside = page.run(
        "const right = e => Math.round(e.getBoundingClientRect().right);"
        "const table = document.querySelector('table.sides');"
        "return [[...table.tHead.rows[0].cells].map(right),"
        "  [...table.tBodies[0].rows[0].cells].map(right),"
        "  right(table) <= right(table.closest('.panel'))]"
    )
    assert heads == cells
    assert inside


@pytest.mark.browser
def test_features_of_the_other_have_its_tokens(
    page: Any, twins: Pair, compared_report: Report
) -> None:
    page.visit(compared_report, "index.html#/compare")
    feature = int(np.argmax(twins[1].columns.firings))
    shown = page.run_async(
        f"const done = arguments[0]; probe.sides().then(({{b}}) => done(b.tokens({feature})))"
    )

    other = twins[1]
    ids = [token for token in other.columns.token_ids[feature, :5].tolist() if token >= 0]
    assert shown == [visible(other.token_text(token)) for token in ids]


@pytest.mark.browser
def test_keys_walk_the_table(page: Any, twins: Pair, compared_report: Report) -> None:
    page.visit(compared_report, "index.html#/features")
    page.press("gd")
    page.wait("document.querySelector('.paired tr[data-a]')")
    page.press("jj\ue007")

    second = np.argsort(-np.nan_to_num(counterparts(*twins).a.pair_cosine, nan=-1))[1]
    page.wait(f"location.hash === '#/feature/{second}'")


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_comparison_fits_a_phone(page: Any, compared_report: Report, scheme: str) -> None:
    page.command(
        "Emulation.setDeviceMetricsOverride",
        {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False},
    )
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.command("Emulation.setEmulatedMedia", media)
    try:
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        page.visit(compared_report, "index.html#/feature/7")
        assert page.run(f"return {wide}") <= 0
        page.visit(compared_report, "index.html#/compare?view=all")

        assert page.run(f"return {wide}") <= 0
        assert page.painted("#table") > 0.02
    finally:
        page.command("Emulation.clearDeviceMetricsOverride", {})
        page.command("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.browser
def test_a_report_without_comparison_offers_none(page: Any, text_report: Report) -> None:
    page.visit(text_report, "index.html#/compare")

    assert "compares nothing" in page.text(".problem")
    assert "Compare" not in page.text("nav")
