"""What follows the feature on its page in Chromium."""

from typing import Any

import numpy as np
import pytest

from probe_sae.reporting import Report

pytestmark = pytest.mark.browser


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
