"""The staircase: milliseconds of one layer at every width. A runtime works on blocks of channels, so widths inside a
block cost the same, and an odd width can cost more than the next round one."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prunekit.errors import InputError
from prunekit.latency.layers import Layer
from prunekit.latency.table import TABLED, device_name, measure_layers
from prunekit.runtimes import Runtime


@dataclass(frozen=True)
class Staircase:
    """times_ms of a convolution with each of `widths` output channels, and where it was measured."""

    widths: tuple[int, ...]
    times_ms: tuple[float, ...]
    where: str


def staircase(
    widths: Sequence[int],
    *,
    inputs: int = 64,
    size: tuple[int, int] = (28, 28),
    kernel: int = 3,
    runtime: str = "ort",
    repeats: int = 20,
) -> Staircase:
    """Time a convolution (inputs -> width channels, kernel x kernel, on size pixels) at each width, on one thread.

    Raises InputError, MissingDependencyError and RuntimeFailure.
    """
    if runtime not in TABLED or not widths or min(widths) < 1:
        raise InputError(
            f"runtime '{runtime}' ({' and '.join(TABLED)} work), widths {list(widths)}: at least one, from 1."
        )
    half = kernel // 2
    layers = {
        width: Layer("", inputs, width, (1, *size), (kernel, kernel), (1, 1), (half, half), (1, 1))
        for width in sorted(set(widths))
    }
    with Runtime(runtime) as process, tempfile.TemporaryDirectory(prefix="prunekit-") as folder:
        found = measure_layers(process, layers.values(), Path(folder), repeats)
        where = f"{device_name()}, {runtime} {process.version}, 1 thread"
    return Staircase(tuple(layers), tuple(found[layer.key()] for layer in layers.values()), where)
