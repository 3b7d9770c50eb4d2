"""A real Chromium without a window, driven over its debugging pipe: the DevTools protocol as JSON over two descriptors."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 120.0


class Page:
    """One tab: what it asked of any network, what its console said, and what its scripts give."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing, self._number, self._rest = reading, writing, 0, b""
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command's result; events that come before it are kept."""
        self._number += 1
        own = {"id": self._number, "method": method, "params": parameters}
        os.write(self._writing, json.dumps(own | ({"sessionId": self._session} if self._session else {})).encode() + b"\0")
        while (message := self._message()).get("id") != self._number:
            self.events.append(message)
        assert "error" not in message, message
        return dict(message["result"])

    def _message(self) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS
        while b"\0" not in self._rest:
            assert select.select([self._reading], [], [], max(0.0, deadline - time.monotonic()))[0], "Chromium does not answer"
            part = os.read(self._reading, 1 << 20)
            assert part, "Chromium is gone"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(line))

    def open(self, file: Path, width: int = 1200, height: int = 900, scheme: str = "light") -> None:
        """Load a file and wait until all of it is there."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self.call("Page.navigate", url=file.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._message())

    def run(self, script: str) -> Any:
        """The value of an expression; an error of it fails the test."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """A key, down and up."""
        codes = {"Tab": 9, "Enter": 13, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "End": 35, "Home": 36}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])

    def complaints(self) -> list[str]:
        """What the console, the log and the issues panel have said: errors and warnings, broken policies."""
        self.run("0")
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Audits.issueAdded")
        return [json.dumps(event["params"])[:1000] for event in self.events if event.get("method") in kinds]

    def requests(self) -> list[str]:
        """Every address that was asked for."""
        self.run("0")
        sent = [event["params"] for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [str(one["request"]["url"]) for one in sent]


@contextmanager
def page(folder: Path) -> Iterator[Page]:
    """A tab in a Chromium of its own, with an empty profile in the folder."""
    command = find()
    from_us, to_browser = os.pipe()
    from_browser, to_us = os.pipe()
    # The browser reads descriptor 3 and writes 4: a shell moves ours there.
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --hide-scrollbars --remote-debugging-pipe"
    )
    line = f'exec "$0" {flags} --user-data-dir="$1" about:blank 3<&{from_us} 4>&{to_us}'
    arguments = ["bash", "-c", line, command, str(folder)]
    with subprocess.Popen(arguments, pass_fds=(from_us, to_us), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        os.close(from_us)
        os.close(to_us)
        try:
            yield Page(from_browser, to_browser)
        finally:
            process.terminate()
            os.close(from_browser)
            os.close(to_browser)


def find() -> str:
    """The browser's command; where there is none the test is skipped, or fails if BRITTLE_EVAL_CHROMIUM=required."""
    given = os.environ.get("BRITTLE_EVAL_CHROMIUM")
    if given and given != "required":
        return given
    for name in NAMES:
        if (command := shutil.which(name)) is not None:
            return command
    if given == "required":
        pytest.fail("no Chromium on this machine, and BRITTLE_EVAL_CHROMIUM=required: apt-get install chromium")
    pytest.skip("no Chromium on this machine: apt-get install chromium, or name one in BRITTLE_EVAL_CHROMIUM")
