"""A headless Chromium for tests of pages, driven through chromedriver's own HTTP interface."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
MISSING = None if CHROMIUM and DRIVER else "needs chromium and chromedriver (Debian: apt install chromium chromium-driver)"
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Browser:
    """One tab."""

    session: str
    """Address of the session at the driver."""

    def visit(self, page: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Opens a file in a viewport of this many CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._cdp("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._cdp("Emulation.setEmulatedMedia", {"features": [scheme]})
        call(f"{self.session}/url", {"url": page.resolve().as_uri()})

    def evaluate(self, script: str) -> Any:
        """What `script` returns."""
        return call(f"{self.session}/execute/sync", {"script": script, "args": []})

    def console(self) -> list[str]:
        """Messages since the last call: errors, warnings, requests that failed."""
        return [entry["message"] for entry in call(f"{self.session}/se/log", {"type": "browser"})]

    def screenshot(self) -> bytes:
        """The whole page as PNG."""
        picture = self._cdp("Page.captureScreenshot", {"captureBeyondViewport": True})
        return base64.b64decode(picture["data"])

    def pdf(self) -> bytes:
        """The page as it would be printed."""
        return base64.b64decode(self._cdp("Page.printToPDF", {"printBackground": True})["data"])

    def _cdp(self, command: str, params: dict[str, Any]) -> Any:
        return call(f"{self.session}/goog/cdp/execute", {"cmd": command, "params": params})


@contextmanager
def opened() -> Iterator[Browser]:
    """A browser with a profile of its own and no way to the network."""
    assert CHROMIUM
    assert DRIVER
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert driver.stdout
        try:
            # It prints the port that it chose.
            port = next(line.rsplit(" ", 1)[-1].strip(".\n") for line in driver.stdout if "started successfully on port" in line)
            options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={profile}"]}
            wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            root = f"http://127.0.0.1:{port}/session"
            session = f"{root}/{call(root, {'capabilities': {'alwaysMatch': wanted}})['sessionId']}"
            yield Browser(session=session)
            call(session, None, method="DELETE")
        finally:
            driver.terminate()
            driver.wait(20)
            driver.stdout.close()


def call(address: str, body: dict[str, Any] | None, *, method: str = "POST") -> Any:
    """The value of the driver's answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data=data, method=method, headers={"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        return json.load(answer)["value"]
