"""A real browser on the page: Chromium, controlled by Playwright, with its pixels read back."""

import base64
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as Tab

_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_TO_PNG = "id => document.getElementById(id).toDataURL('image/png').split(',')[1]"


@contextmanager
def chromium() -> Iterator["Browser"]:
    """A headless Chromium; the test is skipped without one."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs a browser: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def pixels(tab: "Tab", canvas: str) -> NDArray[np.uint8]:
    """The contents of a canvas: RGBA (H, W, 4)."""
    png = np.frombuffer(base64.b64decode(tab.evaluate(_TO_PNG, canvas)), np.uint8)
    decoded = cv2.imdecode(png, cv2.IMREAD_UNCHANGED)
    code = cv2.COLOR_BGRA2RGBA if decoded.shape[2] == 4 else cv2.COLOR_BGR2RGBA
    return np.asarray(cv2.cvtColor(decoded, code), dtype=np.uint8)


def light(tab: "Tab") -> str:
    """The state of the light."""
    return str(tab.evaluate("document.body.dataset.light"))


def text(tab: "Tab", name: str) -> str:
    return str(tab.evaluate("id => document.getElementById(id).textContent", name))


def violations(tab: "Tab") -> list[str]:
    """Serious and critical accessibility problems, as axe finds them."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(tab).response["violations"]
    return [
        f"{each['id']}: {node['target']}"
        for each in found
        if each["impact"] in {"serious", "critical"}
        for node in each["nodes"]
    ]


def wait_until(holds: Callable[[], Any], *, within_s: float = 10.0) -> float:
    """Seconds until a condition is true; fails the test after a limit."""
    started = monotonic()
    while not holds():
        if monotonic() - started > within_s:
            pytest.fail(f"nothing came of it within {within_s:g} s")
        sleep(0.02)
    return monotonic() - started
