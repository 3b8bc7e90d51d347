"""What a person sees in Chromium, opened from disk with the network off."""

import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from numpy.typing import NDArray

from probe_sae.reporting import Report

pytestmark = pytest.mark.browser
WAIT = 20
HARMLESS = re.compile(r"GL Driver Message|WebGL")
"""Chromium tells how slow its software rendering is."""


@pytest.fixture(autouse=True)
def _quiet_console(browser: Any) -> Iterator[None]:
    """Every test ends with an empty console, and no hostile string ran."""
    browser.get_log("browser")
    yield
    lines = [line["message"] for line in browser.get_log("browser")]
    assert [line for line in lines if not HARMLESS.search(line)] == []


def wait(browser: Any, condition: str) -> Any:
    """Wait for a JavaScript expression to be true; return it."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, WAIT, 0.05).until(
        lambda driver: driver.execute_script(f"return {condition}"), condition
    )


def visit(browser: Any, report: Report, place: str) -> None:
    browser.get("about:blank")
    browser.get(f"{report.folder.as_uri()}/{place}")
    wait(browser, "document.querySelector('#main[data-ready], .problem')")


def text_of(browser: Any, selector: str) -> str:
    return browser.execute_script(f"return document.querySelector({selector!r})?.innerText || ''")


def press(browser: Any, keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(keys).perform()


def pixels_of(browser: Any, selector: str) -> NDArray[np.int64]:
    """Return an element's pixels as a person sees them, [pixels, 3]."""
    from PIL import Image
    from selenium.webdriver.common.by import By

    shot = browser.find_element(By.CSS_SELECTOR, selector).screenshot_as_png
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).reshape(-1, 3).astype(np.int64)


def painted(browser: Any, selector: str) -> float:
    """Return the share of an element's pixels that differ from its commonest colour."""
    pixels = pixels_of(browser, selector)
    colours, counts = np.unique(pixels, axis=0, return_counts=True)
    return float((np.abs(pixels - colours[counts.argmax()]).sum(axis=1) > 24).mean())


def test_the_overview_shows_what_was_measured(browser: Any, text_report: Report) -> None:
    visit(browser, text_report, "index.html")
    wait(browser, "document.querySelectorAll('.start .text').length > 3")

    page = text_of(browser, "#main")
    assert "blocks.1.resid_post" in page
    assert "16.3 %" in page
    assert "94.1 %" in page
    assert "</script><script>alert(1)</script>" in page
    assert "Few dense features7.13 %" in page.replace("\n", "")
    assert painted(browser, ".chart") > 0.05
    assert browser.execute_script("return document.querySelectorAll('.curve').length") == 4


def test_plots_open_in_plotly_under_the_strict_policy(browser: Any, text_report: Report) -> None:
    visit(browser, text_report, "index.html")
    button = "[...document.querySelectorAll('button')].find(b => /^Open/.test(b.textContent))"
    browser.execute_script(f"{button}.scrollIntoView({{block: 'center'}}); {button}.click()")
    wait(browser, "document.querySelector('.plotly .bars path')")

    assert painted(browser, ".plotly") > 0.1


def test_the_list_holds_only_the_rows_in_view(browser: Any, text: Any, text_report: Report) -> None:
    visit(browser, text_report, "index.html#/features")

    alive = int((text.features.firings > 0).sum())
    rows = browser.execute_script("return document.querySelectorAll('tr[data-id]').length")
    assert text_of(browser, ".count") == f"{alive} of {text.count} features"
    assert 10 < rows < 60
    assert painted(browser, "#table") > 0.02


def test_the_list_sorts_by_any_column(browser: Any, text: Any, text_report: Report) -> None:
    visit(browser, text_report, "index.html#/features?sort=-max")

    first = browser.execute_script("return document.querySelector('tr[data-id]').dataset.id")
    assert int(first) == int(np.argmax(text.features.max))

    browser.execute_script("document.querySelector('th.density button').click()")
    first = browser.execute_script("return document.querySelector('tr[data-id]').dataset.id")
    sort = browser.execute_script(
        "return document.querySelector('th.density').getAttribute('aria-sort')"
    )
    assert text.features.firings[int(first)] == text.features.firings.max()
    assert sort == "descending"
    assert "sort=-density" in browser.current_url


def test_search_finds_tokens_whatever_their_case(
    browser: Any, text: Any, text_report: Report
) -> None:
    visit(browser, text_report, "index.html")
    press(browser, "/")
    press(browser, "WORD3")
    wait(browser, "document.querySelector('.count')")
    wait(browser, "location.hash.includes('WORD3')")

    pieces = [piece.decode("utf-8", "replace") for piece in text.inputs.pieces]
    hits = [
        any("word3" in pieces[token] for token in tokens if token >= 0)
        for tokens in text.features.token_ids[:, :5].tolist()
    ]
    hits_alive = int((np.array(hits) & (text.features.firings > 0)).sum())
    assert text_of(browser, ".count") == f"{hits_alive} of {text.count} features"


def test_keys_walk_the_list_and_the_features(browser: Any, text_report: Report) -> None:
    visit(browser, text_report, "index.html#/features?sort=id")
    order = browser.execute_script("return probe.order.slice(0, 3)")
    for key in "jj":
        press(browser, key)
    press(browser, "\ue007")
    wait(browser, f"location.hash === '#/feature/{order[1]}'")
    wait(browser, "document.querySelector('.feature-head')")
    press(browser, "n")
    wait(browser, f"location.hash === '#/feature/{order[2]}'")
    browser.back()
    browser.back()
    wait(browser, "document.querySelector('.count')")

    assert "sort=id" in browser.current_url


def busy_feature(analysis: Any) -> int:
    """Return a feature with many examples that does not fire everywhere."""
    shown = np.bincount(analysis.examples.feature, minlength=analysis.count)
    return int(np.argmax(shown * (analysis.features.density < 0.1)))


@pytest.mark.parametrize("width", ["5", "16", "full"])
@pytest.mark.parametrize("tab", ["top", "groups", "random"])
def test_a_text_feature_shows_its_examples(
    browser: Any, text: Any, text_report: Report, tab: str, width: str
) -> None:
    feature = busy_feature(text)
    visit(browser, text_report, f"index.html#/feature/{feature}?tab={tab}&ctx={width}")
    wait(browser, "document.querySelector('.example-body').dataset.ready")

    marked = browser.execute_script("return document.querySelectorAll('.token.marked').length")
    shown = browser.execute_script("return document.querySelectorAll('.example').length")
    assert marked == shown > 3
    assert text_of(browser, ".token.marked")
    assert painted(browser, ".example-panel") > 0.02


def test_a_feature_page_gives_the_analysis_numbers(
    browser: Any, text: Any, text_report: Report
) -> None:
    feature = busy_feature(text)
    visit(browser, text_report, f"index.html#/feature/{feature}")

    stats = text_of(browser, ".stats").replace("\n", " ")
    assert f"Firings {text.features.firings[feature]}" in stats
    assert f"Kurtosis {float(f'{text.features.kurtosis[feature]:.3g}'):g}" in stats
    assert painted(browser, ".histogram .chart") > 0.03


def test_characters_split_over_tokens_are_shown_whole(
    browser: Any, text: Any, text_report: Report
) -> None:
    inputs = text.inputs
    assert inputs.tokens[10:12].tolist() == [3, 4]
    examples = text.examples
    feature = int(examples.feature[np.flatnonzero(examples.context == 0)[0]])
    visit(browser, text_report, f"index.html#/feature/{feature}?ctx=full&tab=random")
    wait(browser, "document.querySelector('.example-body').dataset.ready")
    browser.execute_script("for (const b of document.querySelectorAll('.fold')) b.click()")
    page = text_of(browser, ".example-body")
    visit(browser, text_report, f"index.html#/feature/{feature}?ctx=full")
    wait(browser, "document.querySelector('.example-body').dataset.ready")

    assert "😀" in page + text_of(browser, ".example-body")


def test_code_keeps_its_lines_in_the_full_context(browser: Any, text_report: Report) -> None:
    visit(browser, text_report, "index.html#/feature/5?ctx=full")
    wait(browser, "document.querySelector('.example-body').dataset.ready")

    style = browser.execute_script(
        "const s = getComputedStyle(document.querySelector('.text'));"
        "return [s.whiteSpace, s.fontFamily]"
    )
    assert style[0] == "pre-wrap"
    assert "mono" in style[1]


def test_a_dead_feature_says_so(browser: Any, text_report: Report) -> None:
    visit(browser, text_report, "index.html#/feature/0")

    assert "dead: it fired on no analysed row" in text_of(browser, "#main")


@pytest.mark.parametrize("fixture", ["image_report", "photo_report"])
def test_an_image_feature_shows_pictures_under_heat(
    browser: Any, fixture: str, request: pytest.FixtureRequest
) -> None:
    report: Report = request.getfixturevalue(fixture)
    visit(browser, report, "index.html#/feature/3")
    wait(browser, "document.querySelector('.example-body').dataset.ready")
    wait(browser, "[...document.querySelectorAll('.picture img')].every(i => i.naturalWidth > 0)")

    slide = (
        "const s = document.querySelector('.example-tools input');"
        "s.value = arguments[0]; s.dispatchEvent(new Event('input'))"
    )
    browser.execute_script(slide, "1")
    heated = pixels_of(browser, ".picture")
    browser.execute_script(slide, "0")
    bare = pixels_of(browser, ".picture")

    assert painted(browser, ".picture") > 0.3
    assert (np.abs(heated - bare).sum(axis=1) > 60).mean() > 1 / 60
    assert "heat=0" in browser.current_url
    assert browser.execute_script("return document.querySelectorAll('.picture .patch').length") > 3
    assert "digit" in text_of(browser, ".plate figcaption")


def test_the_map_draws_its_points_by_webgl(browser: Any, text_report: Report) -> None:
    visit(browser, text_report, "map.html")
    wait(browser, "document.querySelector('#main').dataset.ready === 'plotly'")

    assert painted(browser, ".map-frame") > 0.01
    assert text_of(browser, ".map-note").startswith("2")


def test_the_map_draws_on_a_plain_canvas_without_webgl(browser: Any, text_report: Report) -> None:
    switch = browser.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument",
        {
            "source": "const get = HTMLCanvasElement.prototype.getContext;"
            "HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {"
            "return /webgl/.test(kind) ? null : get.call(this, kind, ...rest); };"
        },
    )
    try:
        visit(browser, text_report, "map.html")
        wait(browser, "document.querySelector('.map-note').textContent.includes('WebGL')")

        assert painted(browser, ".map-frame") > 0.01
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", switch)


def test_the_map_lists_what_a_search_finds(browser: Any, text_report: Report) -> None:
    visit(browser, text_report, f"map.html#?q={quote('word12')}&colour=module")
    wait(browser, "document.querySelector('.map-side h2')")

    assert re.match(r"\d+ found", text_of(browser, ".map-side"))
    assert "word12" in text_of(browser, ".map-side")


def test_modules_list_their_members(browser: Any, text: Any, text_report: Report) -> None:
    visit(browser, text_report, "index.html#/module/1")

    size = int((text.features.module == 1).sum())
    assert text_of(browser, ".lead").startswith(f"{size} features")
    links = browser.execute_script("return document.querySelectorAll('.related a').length")
    assert links == size


def test_labels_survive_a_reload_and_are_searched(browser: Any, text_report: Report) -> None:
    visit(browser, text_report, "index.html#/feature/7")
    browser.execute_script(
        "const field = document.querySelector('.note input');"
        "field.value = '<b>my own name</b>'; field.dispatchEvent(new Event('change'))"
    )
    visit(browser, text_report, "index.html#/features?q=own%20name")

    assert text_of(browser, ".count").startswith("1 of")
    assert "<b>my own name</b>" in text_of(browser, "tr[data-id]")


@pytest.mark.parametrize("place", ["#/", "#/features", "#/feature/5?ctx=5", "#/modules", "map"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_a_phone(browser: Any, text_report: Report, place: str, scheme: str) -> None:
    metrics = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        visit(browser, text_report, "map.html" if place == "map" else f"index.html{place}")

        overflow = browser.execute_script(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert overflow <= 0
        assert (int(re.findall(r"\d+", paper)[0]) < 128) == (scheme == "dark")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("harm", ["missing", "cut short", "changed"])
def test_a_lost_or_damaged_file_is_named_on_the_page(
    browser: Any, image_report: Report, tmp_path: Path, harm: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(image_report.folder, folder)
    victim = folder / "data/f/00000.js"
    whole = victim.read_text()
    if harm == "missing":
        victim.unlink()
    else:
        head, tail = whole[: len(whole) // 2], whole[len(whole) // 2 :]
        swapped = tail.translate(str.maketrans("ABCD", "DCBA"))
        victim.write_text(head if harm == "cut short" else head + swapped)
    visit(browser, Report(folder, image_report.summary), "index.html#/feature/3")
    browser.get_log("browser")

    assert "data/f/00000.js" in text_of(browser, ".problem")


def test_no_corpus_text_ran(browser: Any, text_report: Report) -> None:
    """An alert would block the driver; an injected element would stand in the page."""
    for place in ("index.html", "index.html#/features", "index.html#/modules", "map.html"):
        visit(browser, text_report, place)

        found = browser.execute_script(
            "return [...document.querySelectorAll('img, script')].map(e => e.getAttribute('src'))"
        )
        assert all(re.match(r"assets/|data/", source or "") for source in found), json.dumps(found)
