"""A local web server that misbehaves on demand, and the scripts' folder on the import path."""

import sys
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "data_scripts"))


class Server:
    """files: path -> bytes. faults: path -> what goes wrong, one entry a request. log: (path, Range header)."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.log: list[tuple[str, str | None]] = []
        self.release = threading.Event()  # ends the requests that hang
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"site": self}))
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    def asked(self, path: str) -> list[str | None]:
        """The Range headers of the requests for a path."""
        return [wanted for p, wanted in self.log if p == path]

    def stop(self) -> None:
        self.release.set()
        self.http.shutdown()
        self.http.server_close()


class _Handler(BaseHTTPRequestHandler):
    site: Server

    def log_message(self, *_) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Quiet."""

    def do_GET(self) -> None:
        path, wanted = unquote(self.path.lstrip("/")), self.headers.get("Range")
        self.site.log.append((path, wanted))
        fault = self.site.faults[path].pop(0) if self.site.faults[path] else ""
        body = self.site.files.get(path)
        if fault.isdigit() or body is None:
            self.send_error(int(fault or 404))
            return
        start, status = 0, 200
        if wanted and fault != "no range":
            start, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
            if fault == "wrong range":
                start = 0
            if start >= len(body):
                self.send_error(416)
                return
        piece = body[start:]
        if fault == "corrupt":
            piece = bytes([piece[0] ^ 1]) + piece[1:]
        sent = piece[: len(piece) // 2] if fault in ("drop", "truncate") else piece
        self.send_response(status)
        self.send_header("Content-Length", str(len(sent) if fault == "truncate" else len(piece)))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if fault == "hang":
            self.site.release.wait(5)
            return
        self.wfile.write(sent)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site = Server()
    yield site
    site.stop()
