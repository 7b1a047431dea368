"""A latency table: how long each layer of one network takes at several widths, measured on the runtime that counts.

Each kind of layer is measured alone at some shares of its input and output channels, and read in between by bilinear
interpolation. What is no layer (resizing, sums, copies) costs in proportion to the channels it works on, where the
runtime tells (onnxruntime, see `nodes`). The rest of the whole network's time is taken as unchanged: a plan is never
promised too much.

Times are the smallest of some passes: what a layer costs when nothing else runs.
"""

from __future__ import annotations

import json
import math
import os
import platform
import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from prunekit.core import Groups, PruningPlan, Scores
from prunekit.errors import InputError
from prunekit.export.onnx import ready, write
from prunekit.export.package import Job
from prunekit.latency.knapsack import knapsack_plan
from prunekit.latency.layers import Layer, layers_of, write_onnx
from prunekit.latency.nodes import NOBODY, followers, layer_steps
from prunekit.plan import Limits, plan_shapes
from prunekit.runtimes import Runtime, Timing

SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)  # of each layer's channels
TABLED = ("ort", "openvino")


@dataclass(frozen=True)
class LatencyTable:
    """Times of a network's layers on one runtime. Call it with a plan for the predicted milliseconds, or give it to
    `budget_plan(groups, scores, latency_ratio=0.4, latency=table)`.

    layers: of the dense network. times_ms: layer key -> ms. rest_ms: of the whole network that no width changes.
    where: device, runtime, version and threads. followers_ms: weight -> ms that shrink with its output channels.
    """

    groups: Groups = field(repr=False)
    layers: tuple[Layer, ...] = field(repr=False)
    times_ms: Mapping[str, float] = field(repr=False)
    rest_ms: float
    where: str
    followers_ms: Mapping[str, float] = field(default_factory=dict, repr=False)

    def __call__(self, plan: PruningPlan) -> float:
        """Predicted milliseconds of the network after the plan."""
        return self.total_ms(plan_shapes(self.groups, plan))

    def total_ms(self, shapes: Mapping[str, Sequence[int]]) -> float:
        """Predicted milliseconds with these weight shapes."""
        layers = sum(self.layer_ms(layer, shapes[layer.tensor]) for layer in self.layers)
        dense = self.groups.shapes
        return self.rest_ms + layers + sum(ms * shapes[t][0] / dense[t][0] for t, ms in self.followers_ms.items())

    def layer_ms(self, layer: Layer, shape: Sequence[int]) -> float:
        """Milliseconds of a layer of the dense network with a weight of this shape, between the measured widths."""
        grid = self._grids[layer]
        outputs, inputs = shape[0], shape[1]
        if layer.groups > 1:  # depth-wise, or nearly: one width
            return _between(outputs, grid[0][1])
        return _between(inputs, [(width, _between(outputs, row)) for width, row in grid])

    @cached_property
    def _grids(self) -> dict[Layer, list[tuple[int, list[tuple[int, float]]]]]:
        """Layer -> [(inputs, [(outputs, ms), ...]), ...]; of grouped layers one row, by outputs."""
        grids: dict[Layer, list[tuple[int, list[tuple[int, float]]]]] = {}
        for layer in set(self.layers):
            rows: dict[int, list[tuple[int, float]]] = {}
            for variant in _variants(layer):
                row = rows.setdefault(layer.inputs if layer.groups > 1 else variant.inputs, [])
                row.append((variant.outputs, self.times_ms[variant.key()]))
            grids[layer] = list(rows.items())
        return grids

    def plan(self, groups: Groups, scores: Scores, ratio: float, limits: Limits | None = None) -> PruningPlan:
        """See `knapsack_plan`; widths are multiples of 8 unless `limits` says otherwise."""
        return knapsack_plan(self, groups, scores, ratio, limits or Limits(round_to=8))


def latency_table(
    model: nn.Module,
    groups: Groups,
    x: Tensor,
    *,
    runtime: str = "ort",
    threads: int = 1,
    cache: str | os.PathLike[str] | None = None,
    repeats: int = 10,
) -> LatencyTable:
    """Measure every kind of layer of `model` at several widths on a runtime ("ort" or "openvino").

    cache: a JSON file that keeps what was measured under device, runtime, its version and threads; another device or
    version finds nothing there and measures anew. Delete the file to measure again. repeats: passes of each layer.
    Raises InputError, MissingDependencyError and RuntimeFailure. Takes some tens of milliseconds for each measurement.
    """
    if runtime not in TABLED:
        raise InputError(f"no table for runtime '{runtime}'; there is {' and '.join(TABLED)}.")
    job = ready(model, x, None, False, False)
    layers = layers_of(job.model, job.x)
    with Runtime(runtime, threads=threads) as process, tempfile.TemporaryDirectory(prefix="prunekit-") as folder:
        where = f"{device_name()}, {runtime} {process.version}, {threads} thread{'s' if threads > 1 else ', by steps'}"
        known = _read(cache).get(where, {})
        wanted = {v.key(): v for layer in layers for v in _variants(layer) if v.key() not in known}
        steps = runtime == "ort" and threads == 1
        measure = layer_steps if steps else measure_layers
        known |= measure(process, wanted.values(), Path(folder), repeats)
        whole_ms, after = _whole(process, job, layers, Path(folder), repeats, steps)
    if cache is not None:
        _write(Path(cache), {**_read(cache), where: known})
    times = {v.key(): known[v.key()] for layer in layers for v in _variants(layer)}
    fixed = after.pop(NOBODY, 0.0)
    rest = max(fixed, whole_ms - sum(times[layer.key()] for layer in layers) - sum(after.values()))
    return LatencyTable(groups, tuple(layers), times, rest, where, after)


def _whole(
    process: Runtime, job: Job, layers: Sequence[Layer], folder: Path, repeats: int, steps: bool
) -> tuple[float, dict[str, float]]:
    """(milliseconds of the network, `followers`)"""
    file = folder / "whole.onnx"
    write(job, file)
    if steps:
        nodes = process.nodes(file, job.x.numpy(), repeats=repeats)
        return sum(node.ms for node in nodes), followers(nodes, layers)
    process.load("whole", file)
    return least_ms(process, process.time({"whole": job.x.numpy()}, repeats=repeats)["whole"]), {}


def measure_layers(process: Runtime, layers: Iterable[Layer], folder: Path, repeats: int) -> dict[str, float]:
    """Layer key -> milliseconds, the smallest of `repeats` passes; a handful at a time takes turns."""
    layers, found = list(layers), {}
    for start in range(0, len(layers), 16):
        some = {layer.key(): layer for layer in layers[start : start + 16]}
        for key, layer in some.items():
            write_onnx(layer, os.fspath(folder / "layer.onnx"))
            process.load(key, folder / "layer.onnx")
        inputs = {key: np.ones(layer.input_shape(), np.float32) for key, layer in some.items()}
        timed = process.time(inputs, repeats=repeats, warmup=2)
        found |= {key: least_ms(process, timing) for key, timing in timed.items()}
        process.drop()
    return found


def least_ms(process: Runtime, timing: Timing) -> float:
    """Of the fastest pass. On one thread it is CPU time: on a busy machine no pass of a network is left alone, and by
    wall time it would seem to consist of waiting. On several threads CPU times would add up."""
    return min(timing.cpu_ms if process.threads == 1 else timing.wall_ms)


def device_name() -> str:
    """This machine's processor, as its system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor()
    return f"{platform.machine()} {name}".strip()


def _variants(layer: Layer) -> list[Layer]:
    """The layer at every width that is measured; the dense one is among them."""
    outputs = _widths(layer.outputs)
    if layer.groups > 1:
        inner = layer.inputs // layer.groups
        step = layer.outputs // layer.groups
        counts = _widths(layer.groups)
        return [layer.with_weight((count * step, inner)) for count in counts]
    return [layer.with_weight((o, i)) for i in _widths(layer.inputs) for o in outputs]


def _widths(width: int) -> list[int]:
    """Shares of a width as multiples of 8; of a narrow one as they come."""
    unit = 8 if width % 8 == 0 and width >= 16 else 1
    return sorted({max(unit, math.ceil(width * share / unit) * unit) for share in SHARES})


def _between(x: float, points: Sequence[tuple[float, float]]) -> float:
    """Linear between the points, straight on at the ends, never below a tenth of the first."""
    if len(points) == 1:
        return points[0][1]
    points = sorted(points)
    i = min(max(bisect_right([p for p, _ in points], x), 1), len(points) - 1)
    (x0, y0), (x1, y1) = points[i - 1], points[i]
    return max(y0 + (y1 - y0) * (x - x0) / (x1 - x0), 0.1 * points[0][1])


def _read(cache: str | os.PathLike[str] | None) -> dict[str, dict[str, float]]:
    if cache is None or not Path(cache).exists():
        return {}
    try:
        found = json.loads(Path(cache).read_text())
        return {str(where): {str(k): float(v) for k, v in times.items()} for where, times in found.items()}
    except (OSError, ValueError, AttributeError) as err:
        raise InputError(f"{cache} is no latency table ({err}); delete it, or name another file.") from err


def _write(cache: Path, found: Mapping[str, Mapping[str, float]]) -> None:
    part = cache.with_name(f"{cache.name}.part")
    try:
        part.write_text(json.dumps(found, indent=1))
        part.replace(cache)
    except OSError as err:
        raise InputError(f"cannot write {cache} ({err.strerror}); create its folder, or choose another.") from err
