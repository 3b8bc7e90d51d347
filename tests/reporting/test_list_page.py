"""The list of features in Chromium: rows in view, order, search, keys, saved selections."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probe_sae.reporting import Report, features, write_report

pytestmark = pytest.mark.browser


def test_the_list_holds_only_the_rows_in_view(page: Any, text: Any, text_report: Report) -> None:
    page.visit(text_report, "index.html#/features")

    alive = int((text.columns.firings > 0).sum())
    rows = page.run("return document.querySelectorAll('tr[data-id]').length")
    assert page.text(".count") == f"{alive} of {text.count} features"
    assert 10 < rows < 60
    assert page.painted("#table") > 0.02


def test_the_list_sorts_by_any_column(page: Any, text: Any, text_report: Report) -> None:
    page.visit(text_report, "index.html#/features?sort=-max")

    first = page.run("return document.querySelector('tr[data-id]').dataset.id")
    assert int(first) == int(np.argmax(text.columns.max))

    page.run("document.querySelector('th.density button').click()")
    first = page.run("return document.querySelector('tr[data-id]').dataset.id")
    sort = page.run("return document.querySelector('th.density').getAttribute('aria-sort')")
    assert text.columns.firings[int(first)] == text.columns.firings.max()
    assert sort == "descending"
    assert "sort=-density" in page.browser.current_url


def test_search_finds_tokens_whatever_their_case(page: Any, text: Any, text_report: Report) -> None:
    page.visit(text_report, "index.html")
    page.press("/")
    page.press("WORD3")
    page.wait("document.querySelector('.count')")
    page.wait("location.hash.includes('WORD3')")

    pieces = [piece.decode("utf-8", "replace") for piece in text.inputs.pieces]
    hits = [
        any("word3" in pieces[token] for token in tokens if token >= 0) or "word3" in label
        for tokens, label in zip(
            text.columns.token_ids[:, :5].tolist(), text.labels.label, strict=True
        )
    ]
    hits_alive = int((np.array(hits) & (text.columns.firings > 0)).sum())
    assert page.text(".count") == f"{hits_alive} of {text.count} features"


def test_keys_walk_the_list_and_the_features(page: Any, text_report: Report) -> None:
    page.visit(text_report, "index.html#/features?sort=id")
    order = page.run("return probe.order.slice(0, 3)")
    for key in "jj":
        page.press(key)
    page.press("\ue007")
    page.wait(f"location.hash === '#/feature/{order[1]}'")
    page.wait("document.querySelector('.feature-head')")
    page.press("n")
    page.wait(f"location.hash === '#/feature/{order[2]}'")
    page.browser.back()
    page.browser.back()
    page.wait("document.querySelector('.count')")

    assert "sort=id" in page.browser.current_url


def test_labels_survive_a_reload_and_are_searched(page: Any, text_report: Report) -> None:
    page.visit(text_report, "index.html#/feature/7")
    page.run(
        "const field = document.querySelector('.note input');"
        "field.value = '<b>my own name</b>'; field.dispatchEvent(new Event('change'))"
    )
    page.visit(text_report, "index.html#/features?q=own%20name")

    assert page.text(".count").startswith("1 of")
    assert "<b>my own name</b>" in page.text("tr[data-id]")


def test_the_selection_is_saved_as_csv_without_formulas(
    page: Any, text: Any, text_report: Report
) -> None:
    page.visit(text_report, "index.html#/features")
    saved = page.run_async(
        "const done = arguments[0]; probe.download = (name, kind, text) => done(text);"
        "probe.notes.set(8, {label: '=1+1'}); probe.exportSelection([8, 9], 'csv')"
    )

    lines = list(csv.DictReader(io.StringIO(saved)))
    assert [line["feature"] for line in lines] == ["8", "9"]
    assert lines[0]["own_label"] == "'=1+1"
    assert lines[1]["label"] == text.labels.label[9]


def test_the_list_scrolls_to_its_end_and_remembers_its_place(
    page: Any, text_report: Report
) -> None:
    page.visit(text_report, "index.html#/features?sort=id")
    last = page.run("return probe.order[probe.order.length - 1]")
    page.run("document.querySelector('#table').scrollTop = 1e9")
    page.wait(f"document.querySelector('tr[data-id=\"{last}\"]')")
    page.run(f"document.querySelector('tr[data-id=\"{last}\"]').click()")
    page.wait("document.querySelector('.feature-head')")
    page.browser.back()

    page.wait(f"document.querySelector('tr[data-id=\"{last}\"]')")


@pytest.mark.parametrize("name", ["id", "density", "max", "mean", "share", "fit", "module"])
def test_every_order_is_that_of_comparing(page: Any, text_report: Report, name: str) -> None:
    """Rising and falling; those of one value by their number; what has no value counts least."""
    page.visit(text_report, "index.html#/features")
    page.run(  # negative ones, none, ties and the largest, whatever the dictionary has
        "const {max, mean, share, fit} = probe.report.index;"
        "mean.set([-2, NaN, 0, -0.5, 1e30, -1e30]); max.set([0, 0, 7, 7, 7]);"
        "share.set([65535, 65535, 0]); fit.set([255, 0, 254, 255])"
    )
    for sign in ("", "-"):
        got = page.run(f"return probe.select({{sort: '{sign}{name}', dead: '1'}})")
        wanted = page.run(
            "const {index: {firings, max, mean, share}, count} = probe.report;"
            "const none = (value) => Number.isNaN(value) ? -Infinity : value;"
            "const of = {id: (i) => i, density: (i) => firings[i], max: (i) => max[i],"
            " mean: (i) => none(mean[i]), share: (i) => share[i],"
            " fit: (i) => none(probe.fitOf(i)), module: probe.moduleOf};"
            f"const key = of['{name}'], sign = {-1 if sign else 1};"
            "return Array.from({length: count}, (_, i) => i)"
            ".sort((a, b) => sign * (key(a) - key(b)) || a - b)"
        )
        assert got == wanted


def test_numbers_are_written_as_the_browser_would(page: Any, text_report: Report) -> None:
    page.visit(text_report, "index.html#/features")

    wrong = page.run(
        "let seed = 1; const draw = () => (seed = (seed * 48271) % 2147483647) / 2147483647;"
        "const values = [0, 1, 12, 999, 1000, 1234567, 2 ** 52];"
        "values.push(0.5, 1.5, 999.5, 999.95, 0.001, 99999.5);"
        "for (let i = 0; i < 20000; i++)"
        " values.push(draw() * 10 ** (draw() * 9 - 3), Math.floor(10 ** (draw() * 15)));"
        "return values.flatMap((value) => [3, 4, 6].map((digits) => {"
        " const small = value !== 0 && value < 1e-3, whole = Number.isInteger(value);"
        " if (!whole && (small || value >= 1e6)) return null;"
        " const many = Math.max(digits, Math.ceil(Math.log10(value + 1)));"
        " const how = whole ? {} : {maximumSignificantDigits: many};"
        " const format = new Intl.NumberFormat('en', how);"
        " const wanted = format.format(value), got = probe.number(value, digits);"
        " const minus = value ? probe.number(-value, digits) === '\\u2212' + wanted : true;"
        " return got === wanted && minus ? null : `${value}: ${got}, not ${wanted}`;"
        "})).filter(Boolean).slice(0, 5)"
    )
    shares = page.run(
        "const format = new Intl.NumberFormat('en', {maximumSignificantDigits: 3});"
        "return [0.5, 0.12345, 1, 0.99999, 12.345, 1234.5, 0.00012345].filter((share) =>"
        " probe.percent(share) !== `${format.format(share * 100)} %`)"
    )

    assert wrong == []
    assert shares == []


def test_large_dictionaries_bring_the_order_of_the_list(
    page: Any, text: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "SORTED_THERE", 10)
    page.visit(write_report(text, tmp_path / "report"), "index.html#/features")

    firings = np.asarray(text.columns.firings)
    wanted = [i for i in np.argsort(-firings, kind="stable").tolist() if firings[i]]
    assert page.run("return Array.from(probe.report.index.order)")[: len(wanted)] == wanted
    assert page.run("return probe.order") == wanted
    some = page.run("return probe.select({q: 'word3'})")
    assert some == [i for i in wanted if i in set(some)]
    assert 0 < len(some) < len(wanted)


@pytest.mark.parametrize("fixture", ["image_report", "photo_report"])
def test_images_show_what_fires_a_feature_in_the_list(
    page: Any, fixture: str, request: pytest.FixtureRequest
) -> None:
    """The images of its strongest examples, in pixels or files; also in rows that come later."""
    report: Report = request.getfixturevalue(fixture)
    page.visit(report, "index.html#/features")
    page.wait("document.querySelectorAll('.thumbs .picture > .zoomed').length > 20")

    shown = (
        "const line = document.querySelector(`tr[data-id='${id}'] .thumbs`);"
        "const ranks = await probe.load('strongest');"
        "const from = id * ranks.shapes.context[1];"
        "return [line.children.length, [...ranks.columns.context.slice(from, from + 4)],"
        " [...ranks.columns.position.slice(from, from + 4)]]"
    )
    tops = (
        "const {examples} = await probe.feature(id);"
        "const tops = examples.filter((one) => one.kind === 'top').slice(0, 4);"
        "return [tops.map((one) => one.context + 1), tops.map((one) => one.position)]"
    )
    first, other, last = page.run(
        "return [0, 3, probe.order.length - 1].map((i) => probe.order[i])"
    )
    for id_ in (first, other, last):
        if id_ == last:
            page.run("document.querySelector('#table').scrollTop = 1e9")
            page.wait(f"document.querySelector(\"tr[data-id='{last}'] .thumbs\")")
        got, wanted = (
            page.run_async(
                f"const done = arguments[0]; (async (id) => {{ {code} }})({id_}).then(done)"
            )
            for code in (shown, tops)
        )
        count = len(wanted[0])
        assert got[0] == count > 0
        assert got[1][:count] == wanted[0]
        assert got[2][:count] == wanted[1]
        assert not any(got[1][count:])
    assert page.painted(f"tr[data-id='{last}'] .thumbs") > 0.1
