"""Figures of speed: measured speed-up against the hope, and the staircase. Each returns a matplotlib Figure."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from prunekit.latency.bench import Row
from prunekit.latency.steps import Staircase
from prunekit.viz import colors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = "osD^vPX"
AXES = MappingProxyType(
    {"outputs": "output channels", "inputs": "input channels", "depthwise": "channels, one filter each"}
)


def plot_bench(rows: Sequence[Row]) -> Figure:
    """Speed-up against the ratio of MACs, one colour and marker a runtime; on the dashed line MACs keep their word."""
    from matplotlib import pyplot as plt

    fig, ax = plt.subplots(figsize=(6, 5), layout="constrained")
    names = list(dict.fromkeys(row.runtime for row in rows))
    for name, color, marker in zip(names, colors(len(names)), MARKERS):
        points = sorted((row.macs_ratio, row.speedup) for row in rows if row.runtime == name)
        ax.plot(*zip(*points), marker=marker, color=color, lw=1, label=name)
    most = max(max(row.macs_ratio, row.speedup) for row in rows) * 1.05
    ax.plot([1, most], [1, most], "--", color="0.5", lw=1, zorder=1, label="ideal")
    ax.set(xlabel="MACs of the first network / MACs of this one", ylabel="times as fast as the first network")
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return fig


def plot_staircase(steps: Staircase) -> Figure:
    """Milliseconds against width, and what a cost in proportion to the width would be."""
    from matplotlib import pyplot as plt

    fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    blue, orange = colors(2)
    ax.plot([0, steps.widths[-1]], [0, steps.times_ms[-1]], "--", color="0.5", lw=1, label="in proportion to width")
    ax.step(steps.widths, steps.times_ms, where="mid", color=blue, lw=1)
    eights = [(w, t) for w, t in zip(steps.widths, steps.times_ms) if w % 8 == 0]
    if eights:
        ax.plot(*zip(*eights), "o", color=orange, label="multiples of 8")
    ax.set(xlabel=AXES[steps.vary], ylabel="milliseconds", ylim=(0, None), xlim=(0, None))
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return fig
