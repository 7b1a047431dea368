"""JupyterLab and a Chromium that shows it, both without a network: what a learner sees when a slider is moved.

Chromium is driven over its DevTools socket, so nothing has to be installed but the browser.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket

MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", MAC)
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --remote-debugging-port=0 --window-size=1000,1200"
).split()
SECONDS = 120  # for any single step; a slow machine needs them, a fast one never waits


def browser() -> str | None:
    """The Chromium to be found here."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def wait_for(what: str, ask: Callable[[], Any]) -> Any:
    """Ask until the answer is true; AssertionError says what never came."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if answer := ask():
            return answer
        time.sleep(0.2)
    raise AssertionError(f"{what} did not come within {SECONDS} s")


@contextmanager
def running(command: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A program in the background, ended afterwards; what it says goes to `log`."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, **options)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """JupyterLab on `folder`, with none of the user's settings; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {name: str(folder / ".jupyter") for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    own |= {f"JUPYTERLAB_{name}_DIR": str(folder / ".jupyter") for name in ("SETTINGS", "WORKSPACES")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
    command += ["--LabApp.extension_manager=readonly"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    environment = {k: v for k, v in os.environ.items() if k not in ("MPLBACKEND", "PRUNEKIT_STATIC")} | own
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return urllib.request.urlopen(f"{address}/api", timeout=5).status == 200
        except OSError:
            assert process.poll() is None, (folder / "lab.log").read_text()[-2000:]
            return False

    with running(command, folder / "lab.log", env=environment, cwd=folder) as process:
        wait_for("JupyterLab", answers)
        yield address


def at(selector: str) -> str:
    """JavaScript for the first element that fits."""
    return f"document.querySelector({json.dumps(selector)})"


class Page:
    """One page of a running Chromium."""

    def __init__(self, address: str) -> None:
        self.socket = websocket.create_connection(address, timeout=SECONDS, suppress_origin=True)
        self.numbers = itertools.count(1)
        self.send("Emulation.setFocusEmulationEnabled", enabled=True)  # a window that nobody looks at has no focus

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol, and its result."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def js(self, expression: str) -> Any:
        """The value of a JavaScript expression; None while it fails."""
        found = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        return found["result"].get("value") if "exceptionDetails" not in found else None

    def wait(self, what: str, expression: str, otherwise: Callable[[], None] = lambda: None) -> None:
        """Until the expression is true; meanwhile `otherwise` again and again. AssertionError shows the page's text."""
        try:
            wait_for(what, lambda: self.js(expression) or otherwise())
        except AssertionError as err:
            raise AssertionError(f"{err}; the page says:\n{self.js('document.body.innerText')}") from None

    def place(self, selector: str, *, across: float = 0.5) -> tuple[float, float]:
        """Where an element is on the page: its middle, or elsewhere between its left (0) and right (1) edge."""
        box = self.js(f"(b => [b.x, b.width, b.y + b.height / 2])({at(selector)}.getBoundingClientRect())")
        return box[0] + across * box[1], box[2]

    def click(self, selector: str) -> None:
        """Click the middle of an element."""
        self.drag(self.place(selector), self.place(selector))

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse at one place and let it go at another."""
        for kind, (x, y) in zip(("Moved", "Pressed", "Moved", "Released"), (start, start, end, end)):
            held = {} if kind == "Moved" and (x, y) == start else {"button": "left", "buttons": 1, "clickCount": 1}
            self.send("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **held)


@contextmanager
def chromium(program: str, folder: Path) -> Iterator[Page]:
    """An empty page in a Chromium of its own that reaches nothing but this machine."""
    profile = folder / ".chromium"
    offline = ["--proxy-server=127.0.0.1:9", "--proxy-bypass-list=127.0.0.1", f"--user-data-dir={profile}"]
    with running([program, *QUIET, *offline, "about:blank"], folder / "chromium.log"):
        port = wait_for("Chromium", lambda: (p := profile / "DevToolsActivePort").exists() and p.read_text().split())[0]
        listed = urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=SECONDS).read()
        page = Page(next(t["webSocketDebuggerUrl"] for t in json.loads(listed) if t["type"] == "page"))
        try:
            yield page
        finally:
            page.socket.close()
