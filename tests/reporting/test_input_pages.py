"""The inputs explorer in Chromium: what fires where, two inputs compared, the map of rows."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from probe_sae.analysis.result import Analysis
from probe_sae.reporting import Report, write_report
from probe_sae.reporting.inputs import find_shown

pytestmark = pytest.mark.browser

ENTER, TAB, RIGHT, LEFT, DOWN = "\ue007", "\ue004", "\ue014", "\ue012", "\ue015"
FOCUSED = "document.activeElement"


def rank_of(analysis: Analysis, context: int) -> int:
    return int(find_shown(analysis).context_ranks(np.array([context]))[0])


def codes(analysis: Analysis, context: int) -> NDArray[np.float64]:
    """Return the codes of an input by brute force, [positions, features]."""
    rows = analysis.rows
    here = np.flatnonzero(rows.context == context)
    found = np.zeros((int(rows.position[here].max()) + 1, analysis.count))
    for row in here:
        part = slice(int(rows.offsets[row]), int(rows.offsets[row + 1]))
        found[rows.position[row], rows.feature[part]] = rows.value[part]
    return found


def levels(analysis: Analysis, context: int) -> NDArray[np.float64]:
    tops = np.where(analysis.columns.max > 0, analysis.columns.max, 1)
    return codes(analysis, context) / tops


def busiest_place(analysis: Analysis, context: int) -> int:
    return int((codes(analysis, context) > 0).sum(axis=1).argmax())


def ids(page: Any, selector: str) -> list[int]:
    return page.run(
        f"return [...document.querySelectorAll({selector!r})].map(d => Number(d.dataset.feature))"
    )


@pytest.mark.parametrize("kind", ["text", "images"])
def test_the_page_unpacks_what_the_analysis_holds(
    page: Any,
    kind: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    analysis: Analysis = request.getfixturevalue(kind)
    monkeypatch.setattr("probe_sae.reporting.explorer.FIRINGS_A_SHARD", 300)
    report = write_report(analysis, tmp_path / "report")
    if kind == "text":
        assert (report.folder / "data/explore/001.js").exists()
    page.visit(report, "index.html#/inputs")
    read = (
        "const done = arguments[1]; probe.explored(arguments[0]).then(input => done("
        "[input.rank, [...input.positions], [...input.starts], [...input.features],"
        " [...input.levels]]))"
    )
    for number, context in enumerate(np.unique(analysis.rows.context).tolist()):
        rank, positions, starts, features, stored = page.run_async(read, number)

        truth = levels(analysis, context)
        found = np.zeros_like(truth)
        places = np.repeat(positions, np.diff(starts))
        found[places, features] = np.array(stored) / 255
        assert rank == rank_of(analysis, context)
        assert np.array_equal(found > 0, truth > 0)
        assert np.abs(found - truth).max() <= 1 / 255


def test_a_token_lists_its_features_strongest_first(
    page: Any, text: Analysis, text_report: Report
) -> None:
    place = busiest_place(text, 1)
    page.visit(text_report, f"index.html#/input/{rank_of(text, 1)}?at={place}")

    row = levels(text, 1)[place]
    expected = np.argsort(-np.rint(row * 255), kind="stable")[: int((row > 0).sum())]
    assert len(expected) > 3
    assert ids(page, ".at-place .dot") == expected.tolist()
    value = codes(text, 1)[place][expected[0]]
    shown = page.text(".at-place .firing .figure")
    assert float(shown) == pytest.approx(value, rel=0.01)
    assert page.run("return document.querySelector('.token.chosen') !== null")


def test_the_text_and_the_counts_are_the_analysis_own(
    page: Any, text: Analysis, text_report: Report
) -> None:
    page.visit(text_report, f"index.html#/input/{rank_of(text, 2)}")
    labels = page.run(
        "return [...document.querySelectorAll('.input-text .token')]"
        ".map(t => t.getAttribute('aria-label'))"
    )

    piece = text.inputs.pieces[int(text.inputs.tokens[2 * 48 + 1])].decode("utf-8", "replace")  # type: ignore[union-attr]
    firing = (codes(text, 2) > 0).sum(axis=1)
    counts = [int(re.findall(r", (\d+) features?$", label)[0]) for label in labels]
    assert piece in page.text(".input-text")
    assert len(counts) <= 48
    assert counts[:8] == firing[:8].tolist()


def test_choosing_a_feature_colours_the_tokens(
    page: Any, text: Analysis, text_report: Report
) -> None:
    page.visit(text_report, f"index.html#/input/{rank_of(text, 1)}")
    before = page.pixels(".input-text")
    best = ids(page, ".whole .dot")[0]
    page.run("document.querySelector('.whole .dot').click()")
    after = page.pixels(".input-text")
    page.wait("location.hash.includes('f=')")

    def orange(pixels: NDArray[Any]) -> float:
        return float(((pixels[:, 0] - pixels[:, 2]) > 60).mean())

    assert best == int(levels(text, 1).sum(axis=0).argmax())
    assert orange(before) < 0.001
    assert orange(after) > 0.005
    lit = page.run(
        "return [...document.querySelectorAll('.input-text .token')].map((t, i) =>"
        " t.classList.contains('fires') ? i : -1).filter(i => i >= 0).length"
    )
    assert lit == int((codes(text, 1)[:, best] > 0).sum())
    page.run("document.querySelector('.legend .clear').click()")
    assert np.array_equal(page.pixels(".input-text"), before)


def test_pointing_at_a_feature_shows_its_colours_for_a_moment(
    page: Any, text: Analysis, text_report: Report
) -> None:
    page.visit(text_report, f"index.html#/input/{rank_of(text, 1)}")
    point = "document.querySelector('.whole li').dispatchEvent(new Event(arguments[0]))"
    count = "return document.querySelectorAll('.input-text .fires').length"

    page.run(point, "pointerenter")
    assert page.run(count) > 0
    page.run(point, "pointerleave")
    assert page.run(count) == 0


def test_features_of_the_whole_input_are_ranked_by_sum_or_maximum(
    page: Any, text: Analysis, text_report: Report
) -> None:
    page.visit(text_report, f"index.html#/input/{rank_of(text, 0)}?by=max")

    strongest = levels(text, 0).max(axis=0)
    listed = ids(page, ".whole .dot")
    stored = np.rint(strongest * 255)
    assert all(np.diff(stored[listed]) <= 0)
    assert stored[listed[0]] == stored.max()
    page.run("document.querySelector('.whole [data-value=sum]').click()")
    assert ids(page, ".whole .dot")[0] == int(levels(text, 0).sum(axis=0).argmax())
    assert "by=" not in page.browser.current_url


def test_the_heat_map_shows_codes_and_chooses(
    page: Any, text: Analysis, text_report: Report
) -> None:
    page.visit(text_report, f"index.html#/input/{rank_of(text, 1)}")
    assert page.painted(".heat-frame canvas") > 0.02
    page.run(
        "const c = document.querySelector('.heat-frame canvas'); c.scrollIntoView();"
        "c.focus({preventScroll: true})"
    )
    feature = ids(page, ".heat-label")[2]
    place = int(np.flatnonzero(codes(text, 1)[:, feature])[0])
    for key in (RIGHT, DOWN, DOWN, *[RIGHT] * place, ENTER):
        page.press(key)

    said = page.text("#heat-said")
    value = codes(text, 1)[place, feature]
    assert said.startswith(f"#{feature}")
    assert float(re.findall(r"≈ ([\d.]+)", said)[0]) == pytest.approx(value, rel=0.02)
    assert page.browser.current_url.endswith(f"?f={feature}&at={place}")


def test_two_inputs_are_compared_by_mean_activation(
    page: Any, text: Analysis, text_report: Report
) -> None:
    first, second = rank_of(text, 0), rank_of(text, 3)
    page.visit(text_report, f"index.html#/input/{first}?with={second}")

    means = [codes(text, context).sum(axis=0) / 48 for context in (0, 3)]
    difference = means[0] - means[1]
    best = ids(page, "tbody tr")[0]
    assert abs(difference[best]) == pytest.approx(np.abs(difference).max(), rel=0.02)
    shown = page.text("tbody tr .difference").replace("\N{MINUS SIGN}", "-").replace("+", "")
    assert float(shown) == pytest.approx(difference[best], rel=0.03)
    fires = [mean > 0 for mean in means]
    for name, members in (
        ("a", fires[0] & ~fires[1]),
        ("b", fires[1] & ~fires[0]),
        ("both", fires[0] & fires[1]),
    ):
        page.run(f"document.querySelector('.choice [data-value={name}]').click()")
        page.run("document.querySelector('.wide-table + p button')?.click()")
        assert sorted(ids(page, "tbody tr")) == np.flatnonzero(members).tolist()
    page.run("document.querySelector('tbody .dot').click()")
    lit = page.run(
        "return [...document.querySelectorAll('.input-text')]"
        ".map(t => t.querySelectorAll('.fires').length > 0)"
    )
    assert lit == [True, True]
    assert "set=both" in page.browser.current_url
    assert "f=" in page.browser.current_url


def test_the_list_is_searched_and_ordered(page: Any, text: Analysis, text_report: Report) -> None:
    page.visit(text_report, "index.html#/inputs?sort=features")

    total = len(np.unique(text.rows.context))
    distinct = [(codes(text, c).sum(axis=0) > 0).sum() for c in np.unique(text.rows.context)]
    assert page.text(".inputs .count") == f"{total} of {total}"
    assert f"{max(distinct)} features" in page.text(".input-list li")
    page.run(
        "const s = document.querySelector('.inputs-left input'); s.value = 'A.PY';"
        "s.dispatchEvent(new Event('input'))"
    )
    assert page.text(".inputs .count") == f"1 of {total}"
    page.run("document.querySelector('.input-link').click()")
    page.wait("document.querySelector('.input-page')")
    page.browser.back()
    page.wait("document.querySelector('.inputs .count')")
    assert page.text(".inputs .count") == f"1 of {total}"


def test_the_map_of_rows_is_coloured_and_opens_inputs(
    page: Any, text: Analysis, text_report: Report
) -> None:
    page.visit(text_report, "index.html#/inputs")
    page.wait("document.querySelector('.rows-canvas').dataset.drawn")
    plain = page.pixels(".rows-canvas")
    assert page.painted(".rows-canvas") > 0.001
    page.run("document.querySelector('.rows-panel [data-value=pca]').click()")
    page.wait("document.querySelector('.rows-canvas').dataset.drawn.startsWith('pca')")
    feature = int(levels(text, 0).sum(axis=0).argmax())
    page.visit(text_report, f"index.html#/inputs?colour=feature&f={feature}")
    page.wait("document.querySelector('.rows-canvas').dataset.drawn")

    rows = text.rows
    fires = [
        feature in rows.feature[rows.offsets[row] : rows.offsets[row + 1]] for row in rows.mapped
    ]
    assert f"fires on {sum(fires)} of these rows" in page.text(".rows-panel .legend")
    assert not np.array_equal(page.pixels(".rows-canvas"), plain)
    page.run("document.querySelector('.rows-canvas').focus()")
    page.press(RIGHT)
    row = int(rows.mapped[0])
    piece = text.inputs.piece(int(text.inputs.tokens[row]))  # type: ignore[union-attr]
    assert piece in page.text(".row-said b")
    page.press(ENTER)
    expected = f"#/input/{rank_of(text, int(rows.context[row]))}?at={rows.position[row]}"
    page.wait(f"location.hash === {expected!r}")


def test_keys_alone_open_an_input_and_walk_its_tokens(page: Any, text_report: Report) -> None:
    page.visit(text_report, "index.html")
    page.press("gi")
    page.wait("document.querySelector('.input-link')")
    page.run("document.querySelector('.inputs-left select').focus()")
    page.press(TAB)
    page.press(ENTER)
    page.wait("document.querySelector('.input-text')")
    for _ in range(20):
        page.press(TAB)
        if page.run(f"return {FOCUSED}.matches('.input-text .token')"):
            break
    start = page.run(f"return {FOCUSED}.getAttribute('aria-label')")
    page.press(RIGHT)
    after = page.run(f"return {FOCUSED}.getAttribute('aria-label')")
    page.press(LEFT)
    assert page.run(f"return {FOCUSED}.getAttribute('aria-label')") == start != after
    assert page.run(f"return {FOCUSED}.getAttribute('aria-selected')") == "true"
    assert "at=" in page.browser.current_url
    for _ in range(4):
        page.press(TAB)
        if page.run(f"return {FOCUSED}.matches('.dot')"):
            break
    page.press(" ")
    page.wait("location.hash.includes('f=')")
    page.press("n")
    page.wait("document.querySelector('.eyebrow').textContent.includes('2 of')")


@pytest.mark.parametrize("fixture", ["image_report", "photo_report"])
def test_patches_of_a_picture_are_coloured(
    page: Any, fixture: str, request: pytest.FixtureRequest
) -> None:
    page.visit(request.getfixturevalue(fixture), "index.html#/input/0")
    page.wait("[...document.querySelectorAll('.picture img')].every(i => i.naturalWidth > 0)")
    page.run("document.querySelector('.whole .dot').click(); document.activeElement.blur()")

    lit = page.run("return document.querySelectorAll('.patch-cell.fires').length")
    pixels = page.pixels(".picture.large")
    assert lit > 0
    assert ((pixels[:, 0] - pixels[:, 2]) > 20).mean() > 0.005
    page.run("document.querySelector('.patch-cell').focus()")
    page.press(DOWN)
    assert "row 2, column 1" in page.text(".at-place h2")


def test_images_of_one_row_show_their_features(
    page: Any, fake: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pixels = fake.pixel_analysis()
    report = write_report(pixels, tmp_path_factory.mktemp("one_row") / "report")
    page.visit(report, "index.html#/input/1")

    row = codes(pixels, 1)[0]
    assert sorted(ids(page, ".whole .dot")) == np.flatnonzero(row).tolist()
    assert page.run("return document.querySelector('.at-place, .heat-panel')") is None
    assert "patches" not in page.text("#main")


def test_negative_activations_are_blue(
    page: Any, text: Analysis, tmp_path_factory: pytest.TempPathFactory
) -> None:
    signed = replace(text, rows=replace(text.rows, value=-text.rows.value))
    report = write_report(signed, tmp_path_factory.mktemp("signed") / "report")
    page.visit(report, f"index.html#/input/{rank_of(text, 1)}?at={busiest_place(text, 1)}")
    page.run("document.querySelector('.whole .dot').click()")

    assert page.run("return document.querySelectorAll('.input-text .cold').length") > 0
    assert page.run("return document.querySelectorAll('.input-text .fires').length") == 0
    assert page.text(".at-place .firing .figure").startswith("\N{MINUS SIGN}")


def test_an_example_links_to_its_input(page: Any, text: Analysis, text_report: Report) -> None:
    examples, here = text.examples, np.unique(text.rows.context)
    some = np.flatnonzero(np.isin(examples.context, here) & (examples.kind == 0))[0]
    feature = int(examples.feature[some])
    page.visit(text_report, f"index.html#/feature/{feature}")
    page.wait("document.querySelector('.example-body').dataset.ready")
    page.run("for (const b of document.querySelectorAll('.fold')) b.click()")
    target = (
        f"#/input/{rank_of(text, int(examples.context[some]))}"
        f"?f={feature}&at={examples.position[some]}"
    )

    page.run(f"document.querySelector('a[href=\"{target}\"]').click()")
    page.wait("document.querySelector('.input-text .token.chosen.fires')")


@pytest.mark.parametrize("place", ["#/input/999999", "#/input/0?with=99999", "#/input/x"])
def test_inputs_that_are_not_there_are_said(page: Any, text_report: Report, place: str) -> None:
    page.visit(text_report, f"index.html{place}")

    assert "No such input" in page.text(".problem")


@pytest.mark.parametrize("report", ["text_report", "image_report"])
@pytest.mark.parametrize("place", ["inputs", "input/{}", "input/{}?with={}"])
def test_pages_fit_a_phone_and_run_no_text(
    page: Any, report: str, place: str, request: pytest.FixtureRequest
) -> None:
    found: Report = request.getfixturevalue(report)
    analysis: Analysis = request.getfixturevalue("text" if report == "text_report" else "images")
    metrics = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.command("Emulation.setDeviceMetricsOverride", metrics)
    try:
        address = place.format(*(rank_of(analysis, context) for context in (0, 1)))
        page.visit(found, f"index.html#/{address}")
        overflow = page.run(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
    finally:
        page.command("Emulation.clearDeviceMetricsOverride", {})

    sources = page.run(
        "return [...document.querySelectorAll('img, script')].map(e => e.getAttribute('src'))"
    )
    assert overflow <= 0
    assert not page.run("return document.querySelector('.problem')")
    assert all(re.match(r"assets/|data/|img/", source or "") for source in sources), json.dumps(
        sources
    )
