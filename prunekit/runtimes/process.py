"""`Runtime`: what runs an exported file, in a process of its own, so that a crash there is an error message here."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prunekit.errors import InputError, MissingDependencyError, RuntimeFailure

Name = Literal["ort", "openvino", "xnnpack", "eager", "compile"]
READS = MappingProxyType(
    {
        "ort": (".onnx",),
        "openvino": (".xml", ".onnx"),
        "xnnpack": (".pte",),
        "eager": (".pt2",),
        "compile": (".pt2",),
    }
)
EXTRA = MappingProxyType({"ort": "onnx", "openvino": "openvino", "xnnpack": "executorch"})  # prunekit[...]
# suffix -> (what such a file is, where its mark lies, the mark)
MARKS = MappingProxyType(
    {
        ".onnx": ("an ONNX file", 0, b"\x08"),  # the first field of every ModelProto: its version
        ".xml": ("an OpenVINO file", 0, b"<?xml"),
        ".pte": ("an ExecuTorch program", 4, b"ET"),
        ".pt2": ("a torch.export archive", 0, b"PK"),
    }
)


@dataclass(frozen=True)
class Timing:
    """Milliseconds of each pass. cpu_ms: of all threads of the runtime's process together."""

    wall_ms: tuple[float, ...]
    cpu_ms: tuple[float, ...]

    def wall(self) -> float:
        """Median wall time, ms."""
        return statistics.median(self.wall_ms)

    def cpu(self) -> float:
        """Median CPU time, ms; where other programs run too it is steadier than wall time."""
        return statistics.median(self.cpu_ms)


@dataclass(frozen=True)
class Node:
    """One step of a network as a runtime executes it. op: its operator; shape: of its output; ms: its fastest pass."""

    op: str
    shape: tuple[int, ...]
    ms: float


class Runtime:
    """One runtime in one process; use it in a `with` block.

    with Runtime("ort") as runtime:
        runtime.load("net", "net.onnx")
        (logits,) = runtime.run("net", x)               # x: numpy, float32
        ms = runtime.time({"net": x}, repeats=20)["net"].wall()

    name: "ort", "openvino" (in float32), "xnnpack" (ExecuTorch), "eager" or "compile" (torch). threads: for one pass.
    timeout_s: for one order, above which the process is ended.
    Raises InputError (unknown name, no such file, a file that is something else), MissingDependencyError with the pip
    line, and RuntimeFailure when the runtime refuses a file or an input, or its process dies.
    """

    def __init__(self, name: str, *, threads: int = 1, timeout_s: float = 600) -> None:
        if name not in READS:
            raise InputError(f"no runtime '{name}'; there are {', '.join(READS)}.")
        if type(threads) is not int or threads < 1:
            raise InputError(f"threads is a whole number from 1 on, got {threads!r}.")
        self.name, self.threads, self.timeout_s = name, threads, timeout_s
        self.version = ""

    def __enter__(self) -> Runtime:
        self._stack = contextlib.ExitStack()
        try:
            self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="prunekit-")))
            self._log = self._stack.enter_context(open(self._folder / "stderr", "w+b"))
            self._process = subprocess.Popen(
                [sys.executable, os.fspath(Path(__file__).with_name("worker.py")), self.name, str(self.threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env={**os.environ, "OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "PASSIVE"},
            )
            self._stack.callback(self._end)
            self.version = self._answer("start")["version"]
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def load(self, name: str, path: str | os.PathLike[str]) -> None:
        """Read the file; later calls know it as `name`."""
        path = Path(path)
        check_file(path)
        if path.suffix not in READS[self.name]:
            raise InputError(f"{self.name} reads {' and '.join(READS[self.name])} files, not {path.name}.")
        self._ask(f"load {path.name}", do="load", name=name, path=os.fspath(path.absolute()))

    def drop(self) -> None:
        """Forget all that was loaded."""
        self._ask("drop", do="drop")

    def run(self, name: str, x: NDArray[Any]) -> list[NDArray[Any]]:
        """The outputs for one batch."""
        given, out = self._store("x", x), self._folder / "y"
        count = self._ask(f"take {x.dtype} {x.shape}", do="run", name=name, x=given, y=os.fspath(out))["outputs"]
        return [np.load(f"{out}.{i}.npy") for i in range(count)]

    def time(self, inputs: Mapping[str, NDArray[Any]], *, repeats: int = 20, warmup: int = 3) -> dict[str, Timing]:
        """Pass times of the named networks, which take turns. inputs: name -> its batch."""
        if not inputs or repeats < 1 or warmup < 0:
            raise InputError(f"{len(inputs)} networks, repeats={repeats}, warmup={warmup}: at least 1, 1 and 0.")
        files = {name: self._store(str(i), x) for i, (name, x) in enumerate(inputs.items())}
        found = self._ask("time it", do="time", inputs=files, repeats=repeats, warmup=warmup)
        return {name: Timing(tuple(t["wall_ms"]), tuple(t["cpu_ms"])) for name, t in found.items()}

    def nodes(self, path: str | os.PathLike[str], x: NDArray[Any], *, repeats: int = 10) -> list[Node]:
        """What a file consists of when onnxruntime ("ort" alone) executes it on one thread, step by step."""
        if self.name != "ort":
            raise InputError(f"{self.name} does not tell what its steps cost; ort does.")
        path = Path(path)
        check_file(path)
        order = {"path": os.fspath(path.absolute()), "x": self._store("x", x), "repeats": repeats}
        found = self._ask(f"profile {path.name}", do="nodes", **order)["nodes"]
        return [Node(node["op"], tuple(node["shape"]), node["ms"]) for node in found]

    def _store(self, stem: str, x: NDArray[Any]) -> str:
        file = self._folder / f"{stem}.npy"
        try:
            np.save(file, np.ascontiguousarray(x))
        except OSError as err:
            raise RuntimeFailure(
                f"cannot hand {tuple(x.shape)} to {self.name} through {self._folder.parent} ({err.strerror}); free "
                "some space there, or set TMPDIR to another folder."
            ) from err
        return os.fspath(file)

    def _ask(self, what: str, **order: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead, and _answer says so
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        return self._answer(what)

    def _answer(self, what: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._process.stdout, selectors.EVENT_READ)
            if not waiting.select(self.timeout_s):
                self._process.kill()
                raise RuntimeFailure(f"{self.name} did not {what} within {self.timeout_s:g} s and was ended.")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeFailure(f"{self.name} did not {what}: its process {self._death()}. Nothing else is lost.")
        reply = json.loads(line)
        if reply.get("missing") and what == "start":
            extra = EXTRA.get(self.name)
            hint = f': pip install "prunekit[{extra}]"' if extra else ""
            raise MissingDependencyError(f"the runtime {self.name} is not installed{hint} ({reply['error']}).")
        if "error" in reply:
            raise RuntimeFailure(f"{self.name} does not {what}: {_short(reply['error'])}")
        return reply

    def _death(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        said = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return how + (f" after saying '{said[-1].strip()[:200]}'" if said else "")

    def _end(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def check_file(path: Path) -> None:
    """Raise InputError unless the file is there and is what its name says."""
    if path.suffix not in MARKS:
        raise InputError(f"{path.name}: an exported file ends in {', '.join(MARKS)}.")
    what, start, mark = MARKS[path.suffix]
    try:
        with open(path, "rb") as file:
            head = file.read(start + len(mark))
    except OSError as err:
        raise InputError(f"cannot read {path} ({err.strerror}).") from err
    if head[start:] != mark:
        raise InputError(f"{path} is not {what}, whatever its name says: it begins with {head[:8]!r}. Export it again.")


def _short(message: str) -> str:
    """The telling lines of a runtime's message, which may be pages long."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ".join(lines)[:400]
