"""What every test gets: mini scale, one thread, no display, no network, no writing into the course's own ledger."""

from __future__ import annotations

import os
import signal
import socket

os.environ["PRUNEKIT_SCALE"] = "mini"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job, where no test could be stopped
    signal.signal(signal.SIGINT, signal.default_int_handler)

LOCAL = ("127.", "localhost", "::1")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for the network fails at once; servers on this machine are fine."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def check(sock: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        if sock.family != getattr(socket, "AF_UNIX", None) and not str(host).startswith(LOCAL):
            raise RuntimeError(f"a test tried to reach {address!r}: tests work without a network")

    def guarded(self: socket.socket, address: object) -> None:
        check(self, address)
        return connect(self, address)  # type: ignore[arg-type]

    def guarded_ex(self: socket.socket, address: object) -> int:
        check(self, address)
        return connect_ex(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setattr(socket.socket, "connect_ex", guarded_ex)


@pytest.fixture(autouse=True)
def own_ledger(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Records that a test makes do not end up among the course's results."""
    monkeypatch.setenv("PRUNEKIT_RESULTS", str(tmp_path_factory.mktemp("results")))
