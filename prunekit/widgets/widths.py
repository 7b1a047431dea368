"""Width and time: what a layer costs at a width, and which width nearby is the better bargain.

Measured staircases (`prunekit.latency.staircase`), one for each kind of layer; a width is chosen on one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from prunekit.errors import InputError
from prunekit.latency import Staircase
from prunekit.latency.plots import AXES
from prunekit.viz import colors
from prunekit.widgets.live import Control, View, explore


def at_width(steps: Staircase, width: int) -> float:
    """Milliseconds at a width. InputError for one that was not measured."""
    if width not in steps.widths:
        raise InputError(f"width {width} was not measured; there are {steps.widths[0]} to {steps.widths[-1]}.")
    return steps.times_ms[steps.widths.index(width)]


def widest_for(steps: Staircase, width: int) -> int:
    """The most channels that take no more time than `width` does."""
    limit = at_width(steps, width)
    return max(w for w, ms in zip(steps.widths, steps.times_ms) if ms <= limit)


def widths_view(stairs: Mapping[str, Staircase], layer: str, width: int) -> View:
    """The staircase of `layer` with the width marked, and the widest layer that takes no more time.

    Raises InputError for an unknown layer or width.
    """
    from matplotlib import pyplot as plt

    if layer not in stairs:
        raise InputError(f"no layer {layer!r}; there are: {', '.join(stairs)}.")
    steps = stairs[layer]
    ms, wide = at_width(steps, width), widest_for(steps, width)
    said = f"{layer}: {width} channels take {ms:.3f} ms"
    more = f"{wide} take no more" if wide > width else "no wider layer is as fast"
    blue, orange = colors(2)
    fig, ax = plt.subplots(figsize=(6, 4.2), layout="constrained")
    ax.plot([0, steps.widths[-1]], [0, steps.times_ms[-1]], "--", color="0.6", lw=1)
    ax.step(steps.widths, steps.times_ms, where="mid", color=blue, lw=1.5)
    ax.axhline(ms, color="0.85", lw=1, zorder=0)
    ax.plot(wide, at_width(steps, wide), "o", color=blue, markersize=9)
    ax.plot(width, ms, "o", color=orange, markersize=9)
    ax.set_xlabel(AXES[steps.vary], fontsize=12)
    ax.set_ylabel("milliseconds", fontsize=12)
    ax.set(ylim=(0, 1.08 * max(steps.times_ms)), xlim=(0, steps.widths[-1] + 1))
    ax.spines[["top", "right"]].set_visible(False)
    fig.suptitle(f"{said}\n{more}", fontsize=11)
    return View(fig, f"{said}; {more}. Time against width from {steps.widths[0]} to {steps.widths[-1]} channels.")


def explore_widths(stairs: Mapping[str, Staircase], *, layer: str | None = None, width: int | None = None) -> None:
    """Choose a layer and a width. layer, width: where it starts (the first layer, its middle width).

    stairs: shown text -> staircase, all with the same widths. Raises InputError for anything else.
    """
    widths = {steps.widths for steps in stairs.values()}
    if len(widths) != 1:
        raise InputError(f"{len(stairs)} staircases with {len(widths)} sets of widths: give one or more, equally wide.")
    (shared,) = widths
    controls = {
        "layer": Control({name: name for name in stairs}, next(iter(stairs)) if layer is None else layer),
        "width": Control({str(w): w for w in shared}, shared[len(shared) // 2] if width is None else width, slide=True),
    }
    explore(partial(widths_view, stairs), controls)
