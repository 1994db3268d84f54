"""Chromium without a window, driven over a pipe by its DevTools protocol: no library needed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EXECUTABLE = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DEADLINE_S = 60
# Headless, alone, quiet.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class Browser:
    """One page of a browser, and all that it was heard to say and seen to ask for.

    No name resolves, and without `server` there is no network at all: whatever asks for one fails.

    Args:
        profile: A folder for it to write into.
        server: Whether it may reach servers on 127.0.0.1.

    Attributes:
        said: Console messages, errors and violations of the page's policy, as text.
        asked: The addresses of all requests, but for data in the page itself.
    """

    def __init__(self, profile: Path, *, server: bool = False) -> None:
        assert EXECUTABLE
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()

        def as_three_and_four() -> None:  # where the browser looks for the pipe
            spare = os.dup(answers) if answers != 4 else answers
            os.dup2(commands, 3)
            os.dup2(spare, 4)
            for number in (3, 4):  # also where they are what they were
                os.set_inheritable(number, True)

        rules = "--host-resolver-rules=MAP * ~NOTFOUND" + ", EXCLUDE 127.0.0.1" * server
        self._process = subprocess.Popen(
            [EXECUTABLE, *FLAGS, rules, f"--user-data-dir={profile}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=as_three_and_four,
            close_fds=False,  # all others are not inheritable
        )
        os.close(commands)
        os.close(answers)
        self.said: list[str] = []
        self.asked: list[str] = []
        self._count, self._session, self._rest = 0, "", b""
        self._loads = 0
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self._call(
            "Network.emulateNetworkConditions",
            offline=not server,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, AssertionError):
            self._session = ""
            self._call("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def open(self, page: Path | str, *, width: int = 1280, dark: bool = False) -> None:
        """Shows a file or an address in a window so wide, on a system that is light or dark."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[feature])
        loads = self._loads
        self._call("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        while self._loads == loads:
            self._listen()

    def run(self, script: str) -> Any:
        """The value of an expression in the page, or what its promise came to."""
        done = self._call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Waits until an expression in the page is true."""
        deadline = time.monotonic() + DEADLINE_S
        while not self.run(condition):
            assert time.monotonic() < deadline, self.run("document.body.innerText")
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """Presses and releases the mouse over an element."""
        box = self.run(
            f"(e => (e.scrollIntoView({{block: 'center'}}), e.getBoundingClientRect().toJSON()))"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def select_files(self, selector: str, files: Sequence[Path]) -> None:
        """Selects files in an input, as in the dialog that it opens."""
        found = self._call(
            "Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})"
        )
        names, handle = [str(file) for file in files], found["result"]["objectId"]
        self._call("DOM.setFileInputFiles", files=names, objectId=handle)

    def press(self, key: str) -> None:
        """Presses Enter or Tab on whatever has the focus."""
        code, text = {"Enter": (13, "\r"), "Tab": (9, "")}[key]
        values = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self._call("Input.dispatchKeyEvent", type="keyDown", text=text, **values)
        self._call("Input.dispatchKeyEvent", type="keyUp", **values)

    def print_media(self, emulated: bool) -> None:
        """Whether the page is styled as it would be printed."""
        self._call("Emulation.setEmulatedMedia", media="print" if emulated else "")

    def without_scripts(self, disabled: bool) -> None:
        """Whether pages opened from now on run scripts."""
        self._call("Emulation.setScriptExecutionDisabled", value=disabled)

    def pdf(self, path: Path) -> None:
        """Writes the page as it would be printed."""
        printed = self._call("Page.printToPDF", preferCSSPageSize=True)
        path.write_bytes(base64.b64decode(printed["data"]))

    def _call(self, method: str, **params: object) -> dict[str, Any]:
        """Sends a command and waits for its answer, heeding events meanwhile."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        wanted = self._count
        while True:
            answer = self._listen()
            if answer.get("id") == wanted:
                assert "error" not in answer, f"{method}: {answer}"
                return dict(answer["result"])

    def _listen(self) -> dict[str, Any]:
        """The next message; an event is kept."""
        deadline = time.monotonic() + DEADLINE_S
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0, deadline - time.monotonic()))
            assert ready, "the browser is silent"
            part = os.read(self._read, 1 << 20)
            assert part, "the browser is gone"
            self._rest += part
        one, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(one)
        self._keep(message.get("method", ""), message.get("params", {}))
        return message

    def _keep(self, method: str, params: dict[str, Any]) -> None:
        """Notes what an event says."""
        if method == "Page.loadEventFired":
            self._loads += 1
        elif method == "Runtime.exceptionThrown":
            self.said.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.said.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded":
            self.said.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith("data:"):
                self.asked.append(url)
