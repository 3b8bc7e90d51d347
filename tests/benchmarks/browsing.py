"""Chromium as the benchmarks of pages use it: fresh, headless, its main thread's time counted."""

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any


@contextmanager
def start_browser(*more: str) -> Generator[Any]:
    """Yield a driver of a browser with a profile of its own; switches may be added."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = os.environ.get("CHROMIUM") or shutil.which("chromium") or ""
    profile = tempfile.mkdtemp()
    switches = (
        "--headless=new --disable-gpu --no-first-run --enable-unsafe-swiftshader --no-sandbox "
        f"--window-size=1280,900 --js-flags=--expose-gc --user-data-dir={profile}"
    )
    for switch in (*switches.split(), *more):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "SEVERE"})
    driver = Chrome(options=options, service=Service(shutil.which("chromedriver") or ""))
    driver.set_script_timeout(60)
    try:
        driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        yield driver
    finally:
        driver.quit()
        shutil.rmtree(profile, ignore_errors=True)


def painted(driver: Any, ready: str, first: str = "") -> float:
    """Return milliseconds until a frame is painted after the expression `ready` holds.

    They count from the start of navigation, or from the statement `first`, which is run.
    """
    return driver.execute_async_script(f"""const done = arguments[0];
const began = {"performance.now()" if first else "0"}; {first};
const look = () => ({ready})
  ? requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - began)))
  : requestAnimationFrame(look);
look();""")


def cpu_ms(driver: Any) -> float:
    """Return milliseconds that the page's main thread has worked."""
    metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    values = {metric["name"]: metric["value"] for metric in metrics}
    return 1000 * values["TaskDuration"]


def heap_mb(driver: Any) -> float:
    """Return megabytes of JavaScript's heap, after a collection."""
    driver.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
    used = driver.execute_cdp_cmd("Runtime.getHeapUsage", {})
    return (used["usedSize"] + used.get("backingStorageSize", 0)) / 1e6
