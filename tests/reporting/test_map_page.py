"""The map in Chromium, judged by its pixels: by WebGL, on a plain canvas, under the mouse."""

import re
import time
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


def test_the_map_draws_on_a_plain_canvas_without_webgl(page: Any, text_report: Report) -> None:
    switch = page.command(
        "Page.addScriptToEvaluateOnNewDocument",
        {
            "source": "const get = HTMLCanvasElement.prototype.getContext;"
            "HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {"
            "return /webgl/.test(kind) ? null : get.call(this, kind, ...rest); };"
        },
    )
    try:
        page.visit(text_report, "map.html")
        page.wait("document.querySelector('.map-note').textContent.includes('WebGL')")

        assert page.painted(".map-frame") > 0.01
    finally:
        page.command("Page.removeScriptToEvaluateOnNewDocument", switch)


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
    page.wait("document.querySelector('.map-side h2')")

    found = int(page.text(".map-side h2").split()[0])
    assert found >= 0.9 * np.isfinite(text.columns.x).sum()
