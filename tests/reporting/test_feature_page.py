"""What follows the feature on its page in Chromium."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from probe_sae.reporting import Report, write_report


@pytest.mark.browser
def test_the_small_map_follows_the_feature_and_the_theme(page: Any, text_report: Report) -> None:
    shots = []
    page.visit(text_report, "index.html#/feature/5")
    for change in (None, "location.hash = '#/feature/6'", "probe.setTheme('dark')"):
        page.run(change or "")
        page.wait("document.querySelector('#main').dataset.ready === location.hash")
        page.run("document.querySelector('.minimap').scrollIntoView({block: 'center'})")
        page.run_async("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        shots.append(page.pixels(".minimap canvas"))
    page.run("probe.setTheme('auto')")
    flame = [(shot[:, 0] > 180) & (shot[:, 2] < 90) for shot in shots]
    grey = [((np.ptp(shot, axis=1) < 24) & (abs(shot.sum(1) - 560) < 60)).sum() for shot in shots]

    assert all(0.0002 < part.mean() < 0.05 for part in flame)
    assert not np.array_equal(flame[0], flame[1])
    assert np.array_equal(flame[1], flame[2])
    assert min(grey[:2]) > 200 > 10 * grey[2]
    assert shots[2].mean() < 80 < shots[1].mean()


@pytest.fixture(scope="module")
def unnamed(fake: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Report]:
    """An analysis of images without classes, and its report."""
    images = fake.image_analysis(features=40, images=30)
    none = np.zeros((images.count, 0))
    columns = replace(
        images.columns, token_ids=none.astype(np.int32), token_shares=none, token_lifts=none
    )
    inputs = replace(images.inputs, label=np.full(30, -1, np.int32), classes=[])
    labels = replace(images.labels, label=[f"row {i}" for i in range(images.count)])
    found = replace(images, columns=columns, inputs=inputs, labels=labels)
    return found, write_report(found, tmp_path_factory.mktemp("unnamed") / "report")


def test_images_without_classes_start_with_the_best_labels(unnamed: tuple[Any, Report]) -> None:
    analysis, report = unnamed
    starts = report.summary["start"]

    usable = np.flatnonzero(analysis.columns.firings >= 10)
    fit = np.nan_to_num(analysis.labels.balanced_accuracy)
    rarest = usable[np.argsort(analysis.columns.density[usable], kind="stable")]
    parts = np.array_split(rarest, 6)
    assert starts == [part[np.argmax(fit[part])] for part in parts]


@pytest.mark.browser
@pytest.mark.parametrize(
    "place", ["", "#/features", "#/feature/5", "#/modules", "#/inputs", "#/input/2"]
)
def test_images_without_classes_do_not_speak_of_tokens(
    page: Any, unnamed: tuple[Any, Report], place: str
) -> None:
    page.visit(unnamed[1], f"index.html{place}")
    page.wait("!document.querySelector('.waiting')")

    assert "token" not in page.text("#main").lower()
    assert "class" not in page.text("#main").lower()


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 400])
def test_relatives_of_an_image_feature_stand_under_its_examples(
    page: Any, image_report: Report, width: int
) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.command("Emulation.setDeviceMetricsOverride", metrics)
    page.visit(image_report, "index.html#/feature/5")
    page.wait("document.querySelector('.example-body').dataset.ready")
    boxes = page.run(
        "return ['.example-panel', '.under', '.right'].map(s => {"
        "const b = document.querySelector(s).getBoundingClientRect();"
        "return [b.left, b.right, b.top, b.bottom]; })"
    )
    page.command("Emulation.clearDeviceMetricsOverride", {})
    examples, under, right = boxes

    if width == 1280:
        assert under[0] == examples[0]
        assert 0 < under[2] - examples[3] < 40
        assert right[0] > under[1]
    else:
        assert examples[3] < right[2] < right[3] < under[2]


@pytest.mark.browser
def test_buttons_stay_where_they_are_beside_a_long_name(page: Any, text_report: Report) -> None:
    places: list[Any] = []
    for name in ("short", "a name that goes on and on " * 7):
        page.visit(text_report, "index.html#/feature/9")
        page.run("probe.notes.set(9, {label: arguments[0]})", name)
        page.visit(text_report, "index.html#/feature/9")
        places += [
            page.run(
                "const rect = which => document.querySelector(which).getBoundingClientRect();"
                "const [b, h] = [rect('.feature-head .buttons'), rect('h1')];"
                "return [b.left, b.right, b.bottom, h.bottom, h.height]"
            )
        ]
    page.run("probe.notes.set(9, {label: ''})")

    (left, right, *_), (second_left, second_right, bottom, under, height) = places
    assert (left, right) == (second_left, second_right)
    assert bottom <= under + 1
    assert height > 60
