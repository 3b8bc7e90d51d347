"""A report in one file: a policy of hashes, no way out of a data block, every page in Chromium."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probe_sae.analysis.result import Analysis
from probe_sae.errors import OutputExists, SettingsError
from probe_sae.reporting import Report, write_report
from probe_sae.reporting.single import check_single


def html_of(report: Report) -> str:
    return report.index.read_text(encoding="utf-8")


def digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_only_the_script_and_the_style_that_the_policy_names_count(single_report: Report) -> None:
    html = html_of(single_report)

    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    styles = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    policy = re.findall(r'Content-Security-Policy" content="([^"]+)"', html)
    assert [len(scripts), len(styles)] == [1, 1]
    assert policy == [
        f"default-src 'none'; script-src 'sha256-{digest(scripts[0])}'; "
        f"style-src 'sha256-{digest(styles[0])}'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    ]


def test_everything_else_is_a_block_of_data(single_report: Report) -> None:
    html = html_of(single_report)

    openings = re.findall(r"<script[^>]*>", html)
    kinds = {re.sub(r' id="[^"]*"', "", tag) for tag in openings}
    assert kinds == {
        "<script>", '<script type="application/json">', '<script type="text/plain">',
    }  # fmt: skip
    assert html.count("</script") == len(openings)
    assert "plotly.min" not in html.split("<script>")[0]
    assert not re.search(r'(src|href)="(?!data:|#)', html.split("<script>")[0])


def test_names_and_sizes_that_cannot_be_are_refused(text: Analysis, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"ends in \.html"):
        write_report(text, tmp_path / "report", single_file=True)
    with pytest.raises(SettingsError, match="up to 2,048 features"):
        check_single(tmp_path / "report.html", 2049)
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_replaced_only_by_force_and_only_a_report(
    text: Analysis, tmp_path: Path
) -> None:
    out = tmp_path / "report.html"
    out.write_text("my own page")
    for force in (False, True):
        with pytest.raises(OutputExists):
            write_report(text, out, single_file=True, force=force)
    assert out.read_text() == "my own page"

    out.unlink()
    write_report(text, out, single_file=True)
    with pytest.raises(OutputExists, match="exists already"):
        write_report(text, out, single_file=True)
    write_report(text, out, single_file=True, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def visit(page: Any, report: Report, place: str = "") -> None:
    page.visit(report, report.page.replace(" ", "%20") + place)


@pytest.mark.browser
def test_links_lead_through_all_pages(page: Any, single_report: Report) -> None:
    visit(page, single_report)
    page.wait("document.querySelectorAll('.start .text').length > 3")
    seen = []
    for name in ("Features", "Map", "Modules", "Compare", "Overview"):
        page.run(f"[...document.querySelectorAll('nav a')].find(a => a.text === {name!r}).click()")
        page.wait(f"document.querySelector('nav [aria-current]')?.text === {name!r}")
        page.wait("document.querySelector('main').dataset.ready === (location.hash || '#/')")
        seen.append(page.text("main h1"))

    assert seen[:3] == ["Features", "Map", "Modules"]
    assert page.browser.current_url.startswith(single_report.index.as_uri())


@pytest.mark.browser
@pytest.mark.parametrize("place", ["#/features", "#/feature/5", "#/modules", "#/map", "#/compare"])
def test_every_link_and_picture_stays_in_the_file(
    page: Any, single_report: Report, place: str
) -> None:
    visit(page, single_report, place)

    found = page.run(
        "return [...document.querySelectorAll('[href], [src]')]"
        ".map(e => e.getAttribute('href') || e.getAttribute('src'))"
    )
    assert found
    assert all(re.match(r"#|data:image/", link) for link in found), found


@pytest.mark.browser
def test_a_feature_shows_examples_and_its_counterpart(page: Any, single_report: Report) -> None:
    visit(page, single_report, "#/feature/5")
    page.wait("document.querySelector('.example-body').dataset.ready")

    assert page.text(".token.marked")
    assert page.text(".counterpart")
    assert page.painted(".histogram .chart") > 0.03


@pytest.mark.browser
def test_the_map_is_drawn_zoomed_and_opens_features(
    page: Any, twins: tuple[Analysis, Analysis], single_report: Report
) -> None:
    feature = int(np.nanargmax(twins[0].columns.x))
    visit(page, single_report, f"#/map?sel={feature}")
    page.wait("document.querySelector('.map-frame').dataset.drawn")
    whole = page.painted(".map-frame")
    page.run("document.querySelector('.map-tools button').click()")
    zoomed = page.pixels(".map-frame")
    page.run("document.querySelectorAll('.map-tools button')[2].click()")
    back = page.pixels(".map-frame")
    x, y = page.run(
        "const box = document.querySelector('.map-canvas').getBoundingClientRect();"
        "const [x, y] = probe.place(arguments[0]);"
        "return [box.left + (0.03 + x * 0.94) * box.width,"
        " box.top + (0.97 - y * 0.94) * box.height]",
        feature,
    )
    page.mouse("mousePressed", x, y)
    page.mouse("mouseReleased", x, y)
    page.wait(f"location.hash.startsWith('#/feature/{feature}')")

    assert whole > 0.005
    assert (np.abs(zoomed - back).sum(axis=1) > 24).mean() > 0.005
    assert page.run("return document.body.className") == ""


@pytest.mark.browser
def test_a_search_on_the_map_stays_on_the_map(page: Any, single_report: Report) -> None:
    visit(page, single_report, "#/map")
    page.press("/word12")
    page.wait("document.querySelector('.map-side h2')")

    assert re.match(r"\d+ found", page.text(".map-side"))
    assert page.run("return location.hash").startswith("#/map?")


@pytest.mark.browser
def test_pictures_are_in_the_file(page: Any, single_photos: Report) -> None:
    visit(page, single_photos, "#/feature/3")
    page.wait("document.querySelectorAll('.picture img').length > 3")
    page.wait("[...document.querySelectorAll('.picture img')].every(i => i.naturalWidth > 0)")

    assert page.painted(".picture") > 0.3


@pytest.mark.browser
def test_an_injected_script_does_not_run(page: Any, single_report: Report, tmp_path: Path) -> None:
    """What a hostile editor of the file could add is refused by the policy."""
    bad = "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'>"
    copy = tmp_path / "copy.html"
    copy.write_text(html_of(single_report).replace("</main>", f"</main>{bad}"), encoding="utf-8")
    page.visit(Report(tmp_path, single_report.summary, copy.name), copy.name)

    said = page.browser.get_log("browser")
    assert page.run("return window.ran === undefined")
    assert sum("Content Security Policy" in line["message"] for line in said) >= 2


@pytest.mark.browser
def test_a_damaged_block_is_named(page: Any, single_report: Report, tmp_path: Path) -> None:
    copy = tmp_path / "copy.html"
    html = html_of(single_report)
    start = html.index('"gz":"', html.index('id="data/f/00000.js">')) + 400
    copy.write_text(html[:start] + html[start + 99 :], encoding="utf-8")
    page.visit(Report(tmp_path, single_report.summary, copy.name), f"{copy.name}#/feature/3")
    page.browser.get_log("browser")

    assert "data/f/00000.js is damaged" in page.text(".problem")


@pytest.mark.browser
def test_the_page_reads_examples_as_they_are(
    page: Any, twins: tuple[Analysis, Analysis], single_report: Report
) -> None:
    examples, feature = twins[0].examples, 5
    visit(page, single_report, f"#/feature/{feature}")

    read = page.run_async(
        "const done = arguments[1]; probe.feature(arguments[0]).then(f => done(f.examples.map("
        "e => [e.position, [...e.fired.keys()], e.fired.get(e.position)])))",
        feature,
    )
    bounds = examples.of(feature)
    assert len(read) == bounds.stop - bounds.start > 5
    for i, (position, places, level) in zip(range(bounds.start, bounds.stop), read, strict=True):
        own = slice(examples.offsets[i], examples.offsets[i + 1])
        assert position == examples.position[i]
        assert places == examples.fired_position[own].tolist()
        top = twins[0].columns.max[feature]
        assert level == pytest.approx(examples.value[i] / top, rel=1e-3)
