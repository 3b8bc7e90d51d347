import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from probe_sae.analysis.result import Analysis
from probe_sae.reporting import Report, write_report


def _load(name: str) -> ModuleType:
    """Import a helper beside this file: test folders are no packages."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """The module `fake_analysis`."""
    return _load("fake_analysis")


@pytest.fixture(scope="session")
def text(fake: ModuleType) -> Analysis:
    return fake.text_analysis()


@pytest.fixture(scope="session")
def images(fake: ModuleType) -> Analysis:
    return fake.image_analysis()


@pytest.fixture(scope="session")
def text_report(text: Analysis, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return write_report(text, tmp_path_factory.mktemp("text") / "report")


@pytest.fixture(scope="session")
def image_report(images: Analysis, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return write_report(images, tmp_path_factory.mktemp("image") / "report")


@pytest.fixture(scope="session")
def photo_report(fake: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Report:
    photos = fake.image_analysis(features=20, images=30, grid=7, size=56, channels=3)
    return write_report(photos, tmp_path_factory.mktemp("photo") / "report")


@pytest.fixture(scope="session")
def twins(fake: ModuleType) -> tuple[Analysis, Analysis]:
    return fake.twins()


@pytest.fixture(scope="session")
def compared_report(
    twins: tuple[Analysis, Analysis], tmp_path_factory: pytest.TempPathFactory
) -> Report:
    out = tmp_path_factory.mktemp("compared") / "report"
    return write_report(twins[0], out, compare=twins[1])


@pytest.fixture(scope="session")
def single_report(
    twins: tuple[Analysis, Analysis], tmp_path_factory: pytest.TempPathFactory
) -> Report:
    out = tmp_path_factory.mktemp("single") / "report of one.html"
    return write_report(twins[0], out, compare=twins[1], single_file=True)


@pytest.fixture(scope="session")
def single_photos(fake: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Report:
    photos = fake.image_analysis(features=20, images=30, grid=7, size=56, channels=3)
    out = tmp_path_factory.mktemp("single") / "photos.html"
    return write_report(photos, out, single_file=True)


def _browser_paths() -> tuple[str, str] | None:
    import shutil

    browser = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    driver = os.environ.get("CHROMEDRIVER") or shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium without network; skips where there is none."""
    pytest.importorskip("selenium")
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    paths = _browser_paths()
    if paths is None:
        pytest.skip("no chromium and chromedriver on PATH")
    options = ChromeOptions()
    options.binary_location = paths[0]
    switches = [
        "--headless=new --disable-gpu --disable-background-networking --disable-component-update",
        "--disable-sync --no-first-run --hide-scrollbars --enable-unsafe-swiftshader",
        "--window-size=1280,900 --force-prefers-reduced-motion",
    ]
    if sys.platform.startswith("linux") and os.geteuid() == 0:
        switches.append("--no-sandbox")
    for switch in " ".join(switches).split():
        options.add_argument(switch)
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(paths[1]))
    driver.set_script_timeout(20)
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A `Page` of that browser; the test must leave the console empty."""
    found = _load("browser_page").Page(browser)
    found.complaints()
    yield found
    assert found.complaints() == []
