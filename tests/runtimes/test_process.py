"""Runtimes in their own process: what they refuse, what happens when they die, hang or are fed something else."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from prunekit.errors import InputError, RuntimeFailure
from prunekit.latency.layers import Layer, write_onnx
from prunekit.runtimes import Runtime

CONV = Layer("", 4, 6, (1, 8, 8), (3, 3), (1, 1), (1, 1), (1, 1))
X = np.ones(CONV.input_shape(), np.float32)


@pytest.fixture
def conv(tmp_path: Path) -> Path:
    write_onnx(CONV, os.fspath(tmp_path / "conv.onnx"))
    return tmp_path / "conv.onnx"


def test_it_runs_and_times(conv: Path):
    with Runtime("ort") as runtime:
        runtime.load("a", conv)
        runtime.load("b", conv)
        assert runtime.run("a", X)[0].shape == (1, 6, 8, 8)
        times = runtime.time({"a": X, "b": X}, repeats=5)
        assert runtime.version.count(".") >= 1
    assert [len(t.wall_ms) for t in times.values()] == [5, 5]
    assert times["a"].cpu() > 0 and 0 < times["b"].wall() < 1000


def test_steps_of_a_file(conv: Path):
    with Runtime("ort") as runtime:
        nodes = runtime.nodes(conv, X, repeats=3)
        (layer,) = [node for node in nodes if node.op == "Conv"]
        assert layer.shape[0] == 1 and layer.shape[2:] == (8, 8) and layer.shape[1] >= 6  # blocks may be filled up
        assert layer.ms > 0 and list(conv.parent.iterdir()) == [conv]  # its trace is gone
    with pytest.raises(InputError, match="eager does not tell"), Runtime("eager") as runtime:
        runtime.nodes(conv, X)


def test_a_shape_that_the_file_refuses_is_said_and_the_process_goes_on(conv: Path):
    with Runtime("ort") as runtime:
        runtime.load("net", conv)
        with pytest.raises(RuntimeFailure, match=r"ort does not take float32 \(1, 4, 9, 8\): .*invalid dimensions"):
            runtime.run("net", np.ones((1, 4, 9, 8), np.float32))
        assert len(runtime.run("net", X)) == 1


def test_a_process_that_dies_is_an_error_here(conv: Path):
    with Runtime("ort") as runtime:
        runtime.load("net", conv)
        os.kill(runtime._process.pid, signal.SIGSEGV)
        with pytest.raises(RuntimeFailure, match="its process was ended by SIGSEGV"):
            runtime.run("net", X)


def test_a_process_that_hangs_is_ended(conv: Path):
    with Runtime("ort") as runtime:
        os.kill(runtime._process.pid, signal.SIGSTOP)
        runtime.timeout_s = 0.2
        with pytest.raises(RuntimeFailure, match=r"did not load conv.onnx within 0.2 s"):
            runtime.load("net", conv)


def test_no_room_for_the_input_is_said(conv: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Runtime("ort") as runtime:
        runtime.load("net", conv)
        monkeypatch.setattr(np, "save", full)
        with pytest.raises(RuntimeFailure, match=r"cannot hand \(1, 4, 8, 8\) .*No space left .*TMPDIR"):
            runtime.run("net", X)


def test_files_that_are_something_else(tmp_path: Path, conv: Path):
    files = {"a.onnx": b"PK\x03\x04", "b.pte": b"\x08\x09", "c.xml": b"\x00", "d.pt2": b"hello"}
    with Runtime("ort") as runtime:
        for name, head in files.items():
            (tmp_path / name).write_bytes(head)
            with pytest.raises(InputError, match="whatever its name says"):
                runtime.load("net", tmp_path / name)
        with pytest.raises(InputError, match="cannot read .*absent.onnx"):
            runtime.load("net", tmp_path / "absent.onnx")
        with pytest.raises(InputError, match=r"net.tflite: an exported file ends in"):
            runtime.load("net", tmp_path / "net.tflite")
        conv.write_bytes(conv.read_bytes()[:40])  # half a file
        with pytest.raises(RuntimeFailure, match="ort does not load conv.onnx"):
            runtime.load("net", conv)


def test_names_and_numbers_that_cannot_be():
    with pytest.raises(InputError, match="no runtime 'tensorrt'; there are ort, openvino, xnnpack, eager, compile"):
        Runtime("tensorrt")
    with pytest.raises(InputError, match="threads is a whole number"):
        Runtime("ort", threads=0)
