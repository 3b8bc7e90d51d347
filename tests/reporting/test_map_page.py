"""The map in Chromium, judged by its pixels: by WebGL, on a plain canvas, under the mouse."""

import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from probe_sae.reporting import Report

pytestmark = pytest.mark.browser


def test_the_map_draws_its_points_by_webgl(page: Any, text_report: Report) -> None:
    page.visit(text_report, "map.html")
    page.wait("document.querySelector('#main').dataset.ready === 'plotly'")

    assert page.painted(".map-frame") > 0.01
    assert page.text(".map-note").startswith("2")


def test_the_map_is_found_under_its_name_on_the_other_page_too(
    page: Any, text_report: Report
) -> None:
    page.visit(text_report, "index.html#/map")
    page.wait("location.pathname.endsWith('/map.html')")
    page.wait("document.querySelector('#main').dataset.ready === 'plotly'")


@pytest.fixture
def plain(page: Any, text_report: Report) -> Iterator[Any]:
    """The map of `text_report` in a browser without WebGL."""
    switch = page.command(
        "Page.addScriptToEvaluateOnNewDocument",
        {
            "source": "const get = HTMLCanvasElement.prototype.getContext;"
            "HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {"
            "return /webgl/.test(kind) ? null : get.call(this, kind, ...rest); };"
        },
    )
    page.visit(text_report, "map.html")
    page.wait("document.querySelector('.map-note').textContent.includes('WebGL')")
    yield page
    page.command("Page.removeScriptToEvaluateOnNewDocument", switch)


def places(page: Any) -> Any:
    """Return the features on the map and where the plain one has them, as shares of its canvas."""
    found = page.run("return Array.from({length: probe.report.count}, (_, id) => probe.place(id))")
    ids = np.flatnonzero([place is not None for place in found])
    x, y = np.array([found[i] for i in ids]).T
    return ids, 0.03 + 0.94 * x, 0.97 - 0.94 * y


def drag(page: Any, *corners: tuple[float, float]) -> None:
    """Draw from corner to corner, given as shares of the plain map's canvas."""
    left, top, width, height = page.run(
        "const box = document.querySelector('.map-canvas').getBoundingClientRect();"
        "return [box.left, box.top, box.width, box.height]"
    )
    spots = [(left + x * width, top + y * height) for x, y in corners]
    page.mouse("mousePressed", *spots[0])
    for spot in spots[1:]:
        page.mouse("mouseMoved", *spot)
    page.mouse("mouseReleased", *spots[-1])


def listed(page: Any) -> set[int]:
    """Return the features in the list beside the map."""
    hrefs = page.run(
        "return [...document.querySelectorAll('.map-side li a')].map(a => a.getAttribute('href'))"
    )
    return {int(href.rpartition("/")[2]) for href in hrefs}


def test_the_map_draws_on_a_plain_canvas_without_webgl(plain: Any) -> None:
    assert plain.painted(".map-frame") > 0.01


def test_a_lasso_on_the_plain_map_lists_what_is_inside(plain: Any) -> None:
    ids, x, y = places(plain)
    plain.run("document.querySelector('[data-tool=lasso]').click()")
    before = plain.pixels(".map-canvas")
    drag(plain, (0.02, 0.02), (0.02, 0.98), (0.98, 0.98), (0.03, 0.03))

    # A triangle: below the diagonal. Dots within a hundredth of a side may go either way.
    inside, near = y > x, abs(y - x) < 0.01
    assert plain.text(".map-side h2").endswith("in the lasso")
    assert set(ids[inside & ~near]) <= listed(plain) <= set(ids[inside | near])
    assert 0 < len(listed(plain)) < len(ids)
    flame = [(p[:, 0] > 180) & (p[:, 2] < 90) for p in (before, plain.pixels(".map-canvas"))]
    assert flame[1].sum() > flame[0].sum() + 100


def test_a_box_on_the_plain_map_lists_and_a_drag_moves(plain: Any) -> None:
    ids, x, y = places(plain)
    plain.run("document.querySelector('[data-tool=box]').click()")
    drag(plain, (0.7, 0.8), (0.5, 0.6), (0.3, 0.25))

    inside = (x > 0.3) & (x < 0.7) & (y > 0.25) & (y < 0.8)
    assert listed(plain) == set(ids[inside])
    assert plain.browser.current_url.split("#")[0].endswith("map.html")
    plain.press("\ue00c")
    assert plain.run("return document.querySelector('.map-side').hidden") is True
    plain.run("document.querySelector('[data-tool=move]').click()")
    drag(plain, (0.7, 0.8), (0.3, 0.2))
    assert plain.run("return document.querySelector('.map-side').hidden") is True


def test_keys_zoom_and_list_what_is_in_view(plain: Any) -> None:
    ids, x, y = places(plain)
    plain.press("v")
    assert plain.text(".map-side h2") == f"{len(ids)} in view"
    plain.run("document.querySelector('.map-frame').focus()")
    plain.press("++\ue012")  # twice nearer, once to the left

    half, left = 0.5 / 1.4**2, 0.1 / 1.4**2
    plain.press("v")
    inside = (abs(x - 0.5 + left) < half) & (abs(y - 0.5) < half)
    assert listed(plain) == set(ids[inside])
    plain.press("0v")
    assert plain.text(".map-side h2") == f"{len(ids)} in view"


def test_keys_work_on_the_map_by_webgl_too(page: Any, text_report: Report) -> None:
    page.visit(text_report, "map.html")
    page.wait("document.querySelector('#main').dataset.ready === 'plotly'")
    ids, x, y = places(page)
    for key in "++":
        page.press(key)
    page.wait("probe.mapList && document.querySelector('.map-plotly').layout.xaxis.range[0] > 0.1")
    page.press("v")

    half = 0.53 / 1.4**2  # of plotly's range, -0.03 to 1.03
    inside = (abs((x - 0.5) / 0.94) < half) & (abs((y - 0.5) / 0.94) < half)
    assert listed(page) == set(ids[inside])
    assert 0 < len(listed(page)) < len(ids)


def test_the_map_lists_what_a_search_finds(page: Any, text_report: Report) -> None:
    page.visit(text_report, f"map.html#?q={quote('word12')}&colour=module")
    page.wait("document.querySelector('.map-side h2')")

    assert re.match(r"\d+ found", page.text(".map-side"))
    assert "word12" in page.text(".map-side")


def test_the_map_tells_names_on_hover_and_opens_features_on_click(
    page: Any, text: Any, text_report: Report
) -> None:
    feature = int(np.nanargmax(text.columns.x))
    page.visit(text_report, f"map.html#?sel={feature}")
    page.wait("document.querySelector('#main').dataset.ready === 'plotly'")
    x, y = page.run(
        "const box = document.querySelector('.map-frame').getBoundingClientRect();"
        "const [x, y] = probe.place(arguments[0]).map(v => (v + 0.03) / 1.06);"
        "return [box.left + x * box.width, box.top + (1 - y) * box.height]",
        feature,
    )

    page.mouse("mouseMoved", x - 4, y)
    page.mouse("mouseMoved", x, y)
    page.wait("document.querySelector('.map-page > .tip').hidden === false")
    assert f"#{feature}" in page.text(".map-page > .tip")

    time.sleep(0.2)  # plotly looks at a resting mouse with a delay, and a click takes what it saw
    page.mouse("mousePressed", x, y)
    page.mouse("mouseReleased", x, y)
    page.wait(f"location.href.endsWith('index.html#/feature/{feature}')")
    page.wait("document.querySelector('.feature-head')")


def test_a_lasso_on_the_map_lists_what_is_inside(page: Any, text: Any, text_report: Report) -> None:
    page.visit(text_report, "map.html")
    page.wait("document.querySelector('#main').dataset.ready === 'plotly'")
    page.run("document.querySelector('.modebar-btn[data-val=lasso]').click()")
    left, top, right, bottom = page.run(
        "const box = document.querySelector('.map-frame').getBoundingClientRect();"
        "return [box.left + 5, box.top + 5, box.right - 5, box.bottom - 5]"
    )

    page.mouse("mousePressed", left, bottom)
    for x, y in ((left, top + 99), (left, top), (right, top), (right, top + 99), (right, bottom)):
        page.mouse("mouseMoved", x, y)
    page.mouse("mouseReleased", right, bottom)
    page.wait("parseInt(document.querySelector('.map-side h2')?.innerText) > 0")

    found = int(page.text(".map-side h2").split()[0])
    assert found >= 0.9 * np.isfinite(text.columns.x).sum()
