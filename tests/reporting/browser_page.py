"""A page of a report in Chromium: go there, wait, read, press, look at the pixels."""

import io
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_sae.reporting import Report

WAIT = 20
HARMLESS = re.compile(r"GL Driver Message|WebGL")
"""Chromium tells how slow its software rendering is."""


class Page:
    def __init__(self, browser: Any) -> None:
        self.browser = browser
        self.run = browser.execute_script
        self.run_async = browser.execute_async_script
        self.command = browser.execute_cdp_cmd
        self.is_down = False

    def visit(self, report: Report, place: str) -> None:
        """Open a page afresh and wait until it shows something."""
        self.browser.get("about:blank")
        self.browser.get(f"{report.folder.as_uri()}/{place}")
        self.wait("document.querySelector('#main[data-ready], .problem')")

    def wait(self, condition: str) -> Any:
        """Wait for a JavaScript expression to be true; return it, of an element only that."""
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.browser, WAIT, 0.05).until(
            lambda driver: driver.execute_script(
                f"const found = {condition}; return found instanceof Node || found"
            ),
            condition,
        )

    def text(self, selector: str) -> str:
        """Return the text that a person can read in the first such element."""
        return self.run(f"return document.querySelector({selector!r})?.innerText || ''")

    def count(self, selector: str) -> int:
        """Return how many such elements there are."""
        return self.run(f"return document.querySelectorAll({selector!r}).length")

    def press(self, keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.browser).send_keys(keys).perform()

    def mouse(self, kind: str, x: float, y: float) -> None:
        """Send one event of a mouse whose left button does the work."""
        event: dict[str, Any] = {"type": kind, "x": x, "y": y}
        self.is_down = kind == "mousePressed" or (self.is_down and kind == "mouseMoved")
        if self.is_down or kind == "mouseReleased":
            event |= {"button": "left", "buttons": int(self.is_down)}
        if kind != "mouseMoved":
            event |= {"clickCount": 1}
        self.command("Input.dispatchMouseEvent", event)
        # plotly looks at the mouse once a frame
        self.run_async("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")

    def pixels(self, selector: str) -> NDArray[np.int64]:
        """Return an element's pixels as a person sees them, [pixels, 3]."""
        from PIL import Image
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.common.by import By
        from selenium.webdriver.support.ui import WebDriverWait

        redrawn = [StaleElementReferenceException]  # between the finding and the picture
        shot = WebDriverWait(self.browser, WAIT, 0.05, redrawn).until(
            lambda driver: driver.find_element(By.CSS_SELECTOR, selector).screenshot_as_png
        )
        image = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))
        return image.reshape(-1, 3).astype(np.int64)

    def painted(self, selector: str) -> float:
        """Return the share of an element's pixels that differ from its commonest colour."""
        pixels = self.pixels(selector)
        colours, counts = np.unique(pixels, axis=0, return_counts=True)
        return float((np.abs(pixels - colours[counts.argmax()]).sum(axis=1) > 24).mean())

    def complaints(self) -> list[str]:
        """Return what the console said since it was last asked."""
        lines = [line["message"] for line in self.browser.get_log("browser")]
        return [line for line in lines if not HARMLESS.search(line)]
