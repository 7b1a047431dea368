"""The staircase: milliseconds of one layer at every width. A runtime works on blocks of channels, so widths inside a
block cost the same, and an odd width can cost more than the next round one."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from prunekit.errors import InputError
from prunekit.latency.layers import Layer
from prunekit.latency.table import TABLED, device_name, measure_layers
from prunekit.runtimes import Runtime

Vary = Literal["outputs", "inputs", "depthwise"]


@dataclass(frozen=True)
class Staircase:
    """times_ms of a convolution at each of `widths`, what it was that had this width, and where it was measured."""

    widths: tuple[int, ...]
    times_ms: tuple[float, ...]
    where: str
    vary: Vary = "outputs"


def staircase(
    widths: Sequence[int],
    *,
    vary: Vary = "outputs",
    other: int = 64,
    size: tuple[int, int] = (28, 28),
    kernel: int = 3,
    runtime: str = "ort",
    repeats: int = 20,
) -> Staircase:
    """Time a convolution (kernel x kernel, on size pixels) at each width, on one thread: the smallest of some passes.

    vary: what has the width. "outputs" and "inputs": the other side has `other` channels; "depthwise": both sides, one
    filter a channel. Raises InputError, MissingDependencyError and RuntimeFailure.
    """
    if runtime not in TABLED or not widths or min(widths) < 1:
        raise InputError(
            f"runtime '{runtime}' ({' and '.join(TABLED)} work), widths {list(widths)}: at least one, from 1."
        )
    if vary not in get_args(Vary):
        raise InputError(f"vary is {vary!r}; there are {', '.join(get_args(Vary))}.")
    half, layers = kernel // 2, {}
    for width in sorted(set(widths)):
        inputs, outputs = {"outputs": (other, width), "inputs": (width, other), "depthwise": (width, width)}[vary]
        shape = ((1, *size), (kernel, kernel), (1, 1), (half, half), (1, 1))
        layers[width] = Layer("", inputs, outputs, *shape, groups=width if vary == "depthwise" else 1)
    with Runtime(runtime) as process, tempfile.TemporaryDirectory(prefix="prunekit-") as folder:
        found = measure_layers(process, layers.values(), Path(folder), repeats)
        where = f"{device_name()}, {runtime} {process.version}, 1 thread"
    return Staircase(tuple(layers), tuple(found[layer.key()] for layer in layers.values()), where, vary)
