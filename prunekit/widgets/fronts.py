"""A search by generation: its candidates, the front that none beats, and the front of another search beside it.

A point is beaten (dominated) when another is no worse in cost and error, and better in one.
Points are (cost, error), both fractions; a generation is a sequence of them, e.g. `Found.points()` of eapruning.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from prunekit.errors import InputError
from prunekit.viz import colors
from prunekit.widgets.live import Control, View, explore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Point = tuple[float, float]
Points = Sequence[Sequence[Point]]


def unbeaten(points: Sequence[Point]) -> list[Point]:
    """Those that nobody beats, the cheapest first; of equals one."""
    best: list[Point] = []
    for cost, error in sorted(points):
        if not best or error < best[-1][1]:
            best.append((cost, error))
    return best


def fronts_view(points: Points, generation: int, *, rival: Points | None = None, cost: str = "MACs") -> View:
    """All candidates up to a generation (0 = the start), the new ones marked, and the front. rival: of another search,
    as many candidates. cost: what is counted. InputError for a generation that is none.
    """
    from matplotlib import pyplot as plt

    so_far = _upto(points, generation)
    best = unbeaten(so_far)
    fig, ax = plt.subplots(figsize=(6, 4.6), layout="constrained")
    _draw(ax, points, generation, rival, cost)
    ax.legend(loc="upper right", fontsize=10, frameon=False)
    half = [error for price, error in best if price <= 0.5]
    said = f"generation {generation}: {len(so_far)} candidates, {len(best)} on the front"
    more = f"least error at up to half of the cost {min(half):.3f}" if half else "none at up to half of the cost yet"
    fig.suptitle(f"{said}\n{more}", fontsize=11)
    return View(fig, f"{said}; {more}. Error against {cost}, new candidates marked, the front as a line.")


def front_strip(points: Points, *, rival: Points | None = None, frames: int = 4, cost: str = "MACs") -> Figure:
    """The same as a strip of frames, from the start to the last generation, two a row."""
    from matplotlib import pyplot as plt

    last = len(points) - 1
    shown = sorted({round(last * n / max(1, frames - 1)) for n in range(frames)})
    rows = -(-len(shown) // 2)
    fig, axes = plt.subplots(
        rows, 2, figsize=(6, 2.7 * rows), sharex=True, sharey=True, layout="constrained", squeeze=False
    )
    for ax in axes.flat[len(shown) :]:
        ax.set_visible(False)
    for ax, generation in zip(axes.flat, shown):
        _draw(ax, points, generation, rival, cost)
        ax.set_title("start" if generation == 0 else f"generation {generation}", fontsize=11)
    axes.flat[0].legend(fontsize=9, frameon=False, loc="upper right")
    return fig


def explore_fronts(points: Points, *, rival: Points | None = None, generation: int | None = None) -> None:
    """Move through the generations. generation: where it starts (the last one)."""
    last = len(points) - 1
    start = last if generation is None else generation
    _upto(points, start)
    numbers = {str(n): n for n in range(len(points))}
    explore(partial(fronts_view, points, rival=rival), {"generation": Control(numbers, start, slide=True)})


def _upto(points: Points, generation: int) -> list[Point]:
    if not 0 <= generation < len(points):
        raise InputError(f"there is no generation {generation}; they go from 0 to {len(points) - 1}.")
    return [point for one in points[: generation + 1] for point in one]


def _draw(ax: Any, points: Points, generation: int, rival: Points | None, cost: str) -> None:
    blue, orange = colors(2)
    so_far, new = _upto(points, generation), points[generation]
    ax.scatter(*zip(*so_far), s=8, color="0.75", label="earlier")
    ax.scatter(*zip(*new), s=14, color=blue, label="new")
    if rival is not None:
        other = unbeaten(_upto(rival, min(generation, len(rival) - 1)))
        ax.step(*zip(*other), where="post", color=orange, lw=1.5, ls="--", label="random's front")
    ax.step(*zip(*unbeaten(so_far)), where="post", color=blue, lw=1.8, label="front")
    most = max(price for one in (*points, *(rival or ())) for price, _ in one)  # a time may exceed the whole one's
    ax.set(xlim=(0, 1.02 * max(1, most)), ylim=(-0.02, 1.02))
    ax.set_xlabel(f"{cost}, of the whole network's", fontsize=10)
    ax.set_ylabel("error", fontsize=10)
    ax.label_outer()
    ax.spines[["top", "right"]].set_visible(False)
