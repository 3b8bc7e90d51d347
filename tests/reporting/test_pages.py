"""What a person sees in Chromium, opened from disk with the network off."""

import functools
import json
import re
import shutil
import threading
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probe_sae.reporting import Report, write_report

pytestmark = pytest.mark.browser


class SilentHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def contrast(first: list[float], second: list[float]) -> float:
    """Return the contrast of two colours: (lighter + 0.05) / (darker + 0.05).

    Source: WCAG 2.2, relative luminance.
    """

    def luminance(colour: list[float]) -> float:
        parts = [value / 255 for value in colour[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    darker, lighter = sorted((luminance(first), luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def busy_feature(analysis: Any) -> int:
    """Return a feature with many examples that does not fire everywhere."""
    shown = np.bincount(analysis.examples.feature, minlength=analysis.count)
    return int(np.argmax(shown * (analysis.columns.density < 0.1)))


def test_the_overview_shows_what_was_measured(page: Any, text_report: Report) -> None:
    page.visit(text_report, "index.html")
    page.wait("document.querySelectorAll('.start .text').length > 3")

    shown = page.text("#main")
    assert "blocks.1.resid_post" in shown
    assert "16.3 %" in shown
    assert "94.1 %" in shown
    assert "</script><script>alert(1)</script>" in shown
    assert "Few dense features7.13 %" in shown.replace("\n", "")
    assert page.painted(".chart") > 0.05
    assert page.run("return document.querySelectorAll('.curve').length") == 4


def test_plots_open_in_plotly_under_the_strict_policy(page: Any, text_report: Report) -> None:
    page.visit(text_report, "index.html")
    button = "[...document.querySelectorAll('button')].find(b => /^Open/.test(b.textContent))"
    page.run(f"{button}.scrollIntoView({{block: 'center'}}); {button}.click()")
    page.wait("document.querySelector('.plotly .bars path')")

    assert page.painted(".plotly") > 0.1


@pytest.mark.parametrize("width", ["5", "16", "full"])
@pytest.mark.parametrize("tab", ["top", "groups", "random"])
def test_a_text_feature_shows_its_examples(
    page: Any, text: Any, text_report: Report, tab: str, width: str
) -> None:
    feature = busy_feature(text)
    page.visit(text_report, f"index.html#/feature/{feature}?tab={tab}&ctx={width}")
    page.wait("document.querySelector('.example-body').dataset.ready")

    marked = page.run("return document.querySelectorAll('.token.marked').length")
    shown = page.run("return document.querySelectorAll('.example').length")
    assert marked == shown > 3
    assert page.text(".token.marked")
    assert page.painted(".example-panel") > 0.02


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_tokens_are_coloured_by_activation_and_stay_readable(
    page: Any, text: Any, text_report: Report, theme: str
) -> None:
    page.command(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": theme}]},
    )
    page.visit(text_report, f"index.html#/feature/{busy_feature(text)}?ctx=full")
    page.wait("document.querySelector('.example-body').dataset.ready")

    strongest, silent, ink, under = page.run(
        "const paint = document.createElement('canvas').getContext('2d',"
        " {willReadFrequently: true});"
        "const rgba = colour => { paint.clearRect(0, 0, 1, 1); paint.fillStyle = colour;"
        "  paint.fillRect(0, 0, 1, 1); return [...paint.getImageData(0, 0, 1, 1).data]; };"
        "const style = which => getComputedStyle(document.querySelector(which));"
        "const back = which => style(which).backgroundColor;"
        "return [back('.token.marked'), back('.token:not(.fires)'),"
        "  style('.token.marked').color, back('.text')].map(rgba)"
    )
    page.command("Emulation.setEmulatedMedia", {"features": []})
    assert silent[3] == 0
    assert strongest[3] > 200
    share = strongest[3] / 255
    shown = [share * top + (1 - share) * below for top, below in zip(strongest, under, strict=True)]
    assert contrast(shown, ink) >= 4.5


def test_a_feature_page_gives_the_analysis_numbers(
    page: Any, text: Any, text_report: Report
) -> None:
    feature = busy_feature(text)
    page.visit(text_report, f"index.html#/feature/{feature}")

    stats = page.text(".stats").replace("\n", " ")
    assert f"Firings {text.columns.firings[feature]}" in stats
    assert f"Kurtosis {float(f'{text.columns.kurtosis[feature]:.3g}'):g}" in stats
    assert page.painted(".histogram .chart") > 0.03


def test_a_feature_page_shows_its_effect_on_all_logits_and_on_the_loss(
    page: Any, text: Any, text_report: Report
) -> None:
    feature, columns, examples = busy_feature(text), text.columns, text.examples
    page.visit(text_report, f"index.html#/feature/{feature}")

    logits = page.text(".logits")
    for value in (columns.logit_std[feature], columns.logit_kurtosis[feature]):
        assert f"{float(f'{value:.3g}'):g}" in logits
    assert page.painted(".logits .chart") > 0.03
    assert page.count(".logits .bar") == columns.logit_histogram.shape[1]
    strongest = examples.loss[examples.of(feature)][0]
    assert page.count(".example .loss") == 1
    shown = page.text(".example:first-child .loss").replace("\N{MINUS SIGN}", "-")
    assert float(shown.removeprefix("loss ").removesuffix(" nats")) == pytest.approx(
        strongest, rel=0.06
    )


def test_without_an_unembedding_no_logits_are_drawn(
    page: Any, images: Any, image_report: Report
) -> None:
    page.visit(image_report, f"index.html#/feature/{busy_feature(images)}")

    assert page.count(".logits") == 0
    assert page.count(".plate .loss") > 0


def test_classes_without_names_are_their_numbers(
    page: Any, images: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    feature = busy_feature(images)
    unnamed = replace(images, inputs=replace(images.inputs, classes=[]))
    report = write_report(unnamed, tmp_path_factory.mktemp("numbers") / "report")
    page.visit(report, f"index.html#/feature/{feature}")

    classes = page.run(
        "const panel = [...document.querySelectorAll('.panel')].find((one) =>"
        " one.querySelector('h2')?.innerText === 'Commonest classes');"
        "return [...panel.querySelectorAll('tbody th')].map((cell) => cell.innerText)"
    )
    known = [int(one) for one in images.columns.token_ids[feature] if one >= 0]
    assert len(classes) > 1
    assert [int(name) for name in classes] == known[: len(classes)]
    assert "?" not in page.text(".plates")


def test_characters_split_over_tokens_are_shown_whole(
    page: Any, text: Any, text_report: Report
) -> None:
    inputs = text.inputs
    assert inputs.tokens[10:12].tolist() == [3, 4]
    examples = text.examples
    feature = int(examples.feature[np.flatnonzero(examples.context == 0)[0]])
    page.visit(text_report, f"index.html#/feature/{feature}?ctx=full&tab=random")
    page.wait("document.querySelector('.example-body').dataset.ready")
    page.run("for (const b of document.querySelectorAll('.fold')) b.click()")
    seen = page.text(".example-body")
    page.visit(text_report, f"index.html#/feature/{feature}?ctx=full")
    page.wait("document.querySelector('.example-body').dataset.ready")

    assert "😀" in seen + page.text(".example-body")


def test_code_keeps_its_lines_in_the_full_context(page: Any, text_report: Report) -> None:
    page.visit(text_report, "index.html#/feature/5?ctx=full")
    page.wait("document.querySelector('.example-body').dataset.ready")

    style = page.run(
        "const s = getComputedStyle(document.querySelector('.text'));"
        "return [s.whiteSpace, s.fontFamily]"
    )
    assert style[0] == "break-spaces"
    assert "mono" in style[1]


def test_a_dead_feature_says_so(page: Any, text_report: Report) -> None:
    page.visit(text_report, "index.html#/feature/0")

    assert "dead: it fired on no analysed row" in page.text("#main")


@pytest.mark.parametrize("fixture", ["image_report", "photo_report"])
def test_an_image_feature_shows_pictures_under_heat(
    page: Any, fixture: str, request: pytest.FixtureRequest
) -> None:
    report: Report = request.getfixturevalue(fixture)
    page.visit(report, "index.html#/feature/3")
    page.wait("document.querySelector('.example-body').dataset.ready")
    page.wait("[...document.querySelectorAll('.picture img')].every(i => i.naturalWidth > 0)")

    slide = (
        "const s = document.querySelector('.example-tools input');"
        "s.value = arguments[0]; s.dispatchEvent(new Event('input'))"
    )
    page.run(slide, "1")
    heated = page.pixels(".picture")
    page.run(slide, "0")
    bare = page.pixels(".picture")

    assert page.painted(".picture") > 0.3
    assert (np.abs(heated - bare).sum(axis=1) > 60).mean() > 1 / 60
    assert "heat=0" in page.browser.current_url
    assert page.run("return document.querySelectorAll('.picture .patch').length") > 3
    assert "digit" in page.text(".plate figcaption")


def test_a_dictionary_of_pixels_shows_images(
    page: Any, fake: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pixels = fake.pixel_analysis()
    report = write_report(pixels, tmp_path_factory.mktemp("pixels") / "report")
    page.visit(report, "index.html")
    page.wait("document.querySelectorAll('.gallery canvas').length")

    assert page.run("return document.querySelectorAll('.pairs .pair').length") == 20
    assert page.run("return document.querySelectorAll('.gallery canvas').length") == pixels.count
    for selector in (".pairs canvas", ".codes", ".gallery canvas"):
        assert page.painted(selector) > 0.1
    page.visit(report, "index.html#/feature/2")
    page.wait("document.querySelector('.alone canvas')")
    assert page.painted(".alone canvas") > 0.1
    assert page.complaints() == []


def test_modules_list_their_members(page: Any, text: Any, text_report: Report) -> None:
    page.visit(text_report, "index.html#/module/1")

    size = int((text.columns.module == 1).sum())
    assert page.text(".lead").startswith(f"{size} features")
    links = page.run("return document.querySelectorAll('.columns > .panel .related a').length")
    assert links == size


def test_labels_go_out_and_come_back_as_a_file(page: Any, text_report: Report) -> None:
    page.visit(text_report, "index.html#/feature/8")
    page.run("probe.notes.set(8, {label: 'eight', note: 'x', star: true})")

    exported = page.run_async(
        "const done = arguments[0]; probe.download = (name, kind, text) => done(text);"
        "probe.notes.export()"
    )
    entries = json.loads(exported)["labels"]
    assert entries["8"] == {"label": "eight", "note": "x", "star": True}

    entries["8"]["label"], entries["999999"] = "acht", {"label": "no such feature"}
    said = page.run_async(
        "const done = arguments[1]; probe.notes.import(new File([arguments[0]], 'labels.json'))"
        ".then(() => done([probe.notes.get(8).label, probe.notes.get(999999).label]))",
        json.dumps({"format": "probe_sae.labels", "version": 1, "labels": entries}),
    )
    assert said == ["acht", ""]


def test_the_theme_is_chosen_and_remembered(page: Any, text_report: Report) -> None:
    page.visit(text_report, "index.html")
    page.press("tt")
    page.visit(text_report, "index.html#/features")

    chosen = page.run("return document.documentElement.dataset.theme")
    paper = page.run("return getComputedStyle(document.body).backgroundColor")
    page.press("t")
    assert chosen == "dark"
    assert int(re.findall(r"\d+", paper)[0]) < 128


@pytest.mark.parametrize("place", ["#/feature/999999", "#/feature/-1", "#/nowhere", "#/module/99"])
def test_an_address_that_names_nothing_says_so(page: Any, text_report: Report, place: str) -> None:
    page.visit(text_report, f"index.html{place}")

    assert "No such" in page.text(".problem")


def test_the_help_names_the_keys(page: Any, text_report: Report) -> None:
    page.visit(text_report, "index.html")
    page.press("?")
    page.wait("document.querySelector('dialog[open]')")

    assert "next, previous feature" in page.text("dialog")


def test_a_static_server_serves_it_as_well(page: Any, text_report: Report) -> None:
    handler = functools.partial(SilentHandler, directory=str(text_report.folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            page.browser.get(f"http://127.0.0.1:{server.server_port}/index.html#/feature/5")
            page.wait("document.querySelectorAll('.example').length")
        finally:
            server.shutdown()

    assert page.text(".token.marked")


def test_a_problem_keeps_off_the_edges_of_a_phone(page: Any, text_report: Report) -> None:
    metrics = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.command("Emulation.setDeviceMetricsOverride", metrics)
    page.visit(text_report, "index.html#/nowhere")
    left, right = page.run(
        "const box = document.querySelector('.problem').getBoundingClientRect();"
        "return [box.left, document.documentElement.clientWidth - box.right]"
    )
    page.command("Emulation.clearDeviceMetricsOverride", {})

    assert left == right == 16


@pytest.mark.parametrize("place", ["#/", "#/features", "#/feature/5?ctx=5", "#/modules", "map"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_a_phone(page: Any, text_report: Report, place: str, scheme: str) -> None:
    metrics = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.command("Emulation.setDeviceMetricsOverride", metrics)
    page.command("Emulation.setEmulatedMedia", media)
    try:
        page.visit(text_report, "map.html" if place == "map" else f"index.html{place}")

        overflow = page.run(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        paper = page.run("return getComputedStyle(document.body).backgroundColor")
        assert overflow <= 0
        assert (int(re.findall(r"\d+", paper)[0]) < 128) == (scheme == "dark")
    finally:
        page.command("Emulation.clearDeviceMetricsOverride", {})
        page.command("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("harm", ["missing", "cut short", "changed"])
def test_a_lost_or_damaged_file_is_named_on_the_page(
    page: Any, image_report: Report, tmp_path: Path, harm: str
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
    page.visit(Report(folder, image_report.summary), "index.html#/feature/3")
    page.browser.get_log("browser")

    assert "data/f/00000.js" in page.text(".problem")


def test_no_corpus_text_ran(page: Any, text_report: Report) -> None:
    """An alert would block the driver; an injected element would stand in the page."""
    for place in ("index.html", "index.html#/features", "index.html#/modules", "map.html"):
        page.visit(text_report, place)

        found = page.run(
            "return [...document.querySelectorAll('img, script')].map(e => e.getAttribute('src'))"
        )
        assert all(re.match(r"assets/|data/", source or "") for source in found), json.dumps(found)


def test_images_are_zoomed_to_their_strongest_patch(page: Any, image_report: Report) -> None:
    page.visit(image_report, "index.html#/feature/5")
    page.wait("document.querySelector('.plate .patch')")
    scale = "getComputedStyle(document.querySelector('.zoomed')).transform"
    before = page.run(f"return {scale}")
    page.run("document.querySelectorAll('.example-tools .choice button')[2].click()")
    page.wait(f"{scale} !== 'none'")

    assert before == "none"
    assert page.run(f"return {scale}").startswith("matrix(6, 0, 0, 6")
    inside = page.run(
        "const box = document.querySelector('.picture').getBoundingClientRect();"
        "const mark = document.querySelector('.patch').getBoundingClientRect();"
        "return [mark.x + mark.width / 2 - box.x, mark.y + mark.height / 2 - box.y,"
        " box.width, box.height]"
    )
    assert 0 <= inside[0] <= inside[2]
    assert 0 <= inside[1] <= inside[3]
    assert "zoom=6" in page.browser.current_url
