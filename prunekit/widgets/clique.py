"""A layer as a graph: which channels does a solver keep, and how much do those that stay differ from one another?

The channels' maps stand on a circle. A line is an edge between two kept channels, the stronger the more they differ;
what a solver looks for is the set with the largest sum of them (SIRFP, Wu et al., AAAI 2025, Eq. 2).
Legend: C channels, a_CC edge weights, symmetric; their diagonal is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from prunekit.errors import InputError
from prunekit.viz import colors
from prunekit.widgets.live import Control, View, explore

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 16  # channels on the circle: more maps could not be told apart
Solver = Callable[[Tensor, int], Sequence[int]]


@dataclass(frozen=True, eq=False)
class CliqueStudy:
    """What `explore_clique` is about. solvers: name -> function (a_CC, size) that gives the channels to keep.

    a_CC: 2 to 16 channels. maps_CHW: one map for each. Raises InputError for anything else.
    """

    a_CC: Tensor
    maps_CHW: Tensor
    solvers: Mapping[str, Solver]

    def __post_init__(self) -> None:
        count = len(self.a_CC)
        if tuple(self.a_CC.shape) != (count, count) or not 2 <= count <= MOST:
            raise InputError(
                f"the edge weights are {tuple(self.a_CC.shape)}; give a square of 2 to {MOST} channels, a[:8, :8]."
            )
        if self.maps_CHW.ndim != 3 or len(self.maps_CHW) != count:
            raise InputError(
                f"the maps are {tuple(self.maps_CHW.shape)}; give one (H, W) for each of {count} channels."
            )
        if not self.solvers:
            raise InputError("there is nothing to choose from: give at least one solver.")


def kept_by(study: CliqueStudy, size: int, method: str) -> tuple[int, ...]:
    """The channels that a solver keeps, ascending. InputError for another name or size, or a solver's wrong answer."""
    count = len(study.a_CC)
    if method not in study.solvers:
        raise InputError(f"no solver {method!r}; there are: {', '.join(study.solvers)}.")
    if not 1 <= size <= count:
        raise InputError(f"size is {size}; there are 1 to {count} channels to keep.")
    kept = sorted(int(i) for i in study.solvers[method](study.a_CC, size))
    if len(set(kept)) != size or kept[0] < 0 or kept[-1] >= count:
        raise InputError(f"'{method}' kept {kept}; wanted are {size} different channels from 0 to {count - 1}.")
    return tuple(kept)


def weight_inside(a_CC: Tensor, kept: Sequence[int]) -> float:
    """Sum of the edges between the kept channels, each edge once."""
    inside = a_CC.double()[list(kept)][:, list(kept)]
    return float(inside.triu(1).sum())


def clique_view(study: CliqueStudy, size: int, method: str) -> View:
    """The circle of maps, kept ones framed and joined; above it what the edges weigh, by every solver."""
    from matplotlib import pyplot as plt

    sums = {name: weight_inside(study.a_CC, kept_by(study, size, name)) for name in study.solvers}
    kept, count = kept_by(study, size, method), len(study.a_CC)
    fig, ax = plt.subplots(figsize=(6, 6.4), layout="constrained")
    angle_C = np.pi / 2 - 2 * np.pi * np.arange(count) / count
    places_C2 = np.stack([np.cos(angle_C), np.sin(angle_C)], 1)
    _edges(ax, study.a_CC, kept, places_C2)
    _maps(ax, study.maps_CHW, kept, places_C2)
    ax.set(xlim=(-1.32, 1.32), ylim=(-1.28, 1.28), aspect="equal")
    ax.set_axis_off()
    said = f"{method} keeps {size} of {count} channels, edges weigh {sums[method]:.3f}"
    others = ", ".join(f"{name} {value:.3f}" for name, value in sums.items() if name != method)
    fig.suptitle(said + (f"\n{others}" if others else ""), fontsize=11)
    who = ", ".join(map(str, kept))
    return View(fig, f"{said}: {who}." + (f" With other solvers: {others}." if others else ""))


def _edges(ax: Axes, a_CC: Tensor, kept: Sequence[int], places_C2: np.ndarray) -> None:
    """Lines between kept channels, on one scale for the whole graph, so that sizes and solvers can be compared."""
    off = [float(a_CC[i, j]) for i in range(len(a_CC)) for j in range(i)]
    low, span = min(off), max(max(off) - min(off), 1e-9)
    for n, i in enumerate(kept):
        for j in kept[n + 1 :]:
            strength = (float(a_CC[i, j]) - low) / span
            ends = places_C2[[i, j]]
            ax.plot(*ends.T, color=colors(1)[0], lw=0.4 + 5 * strength**2, alpha=0.25 + 0.6 * strength, zorder=1)


def _maps(ax: Axes, maps_CHW: Tensor, kept: Sequence[int], places_C2: np.ndarray) -> None:
    """Each channel's map at its place, on a scale of its own; those that go are pale."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    orange, width = colors(2)[1], 58 if len(maps_CHW) > 10 else 70  # points
    for i, (map_HW, place) in enumerate(zip(maps_CHW.detach().cpu().float(), places_C2, strict=True)):
        stays = i in kept
        picture = OffsetImage(
            map_HW.numpy(), zoom=width / map_HW.shape[1], cmap="cividis", alpha=1.0 if stays else 0.25
        )
        frame = {"edgecolor": orange if stays else "0.85", "linewidth": 2.5 if stays else 1}
        ax.add_artist(AnnotationBbox(picture, place, pad=0.1, bboxprops=frame, zorder=2))
        number = ax.text(place[0], place[1] + 0.165, str(i), ha="center", fontsize=11, zorder=3)
        number.set(color="black" if stays else "0.5", fontweight="bold" if stays else "normal")
        number.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})  # a line may pass here


def explore_clique(study: CliqueStudy, *, size: int | None = None, method: str | None = None) -> None:
    """Choose how many channels stay, and who decides. The arguments say where it starts (half, the first solver)."""
    count = len(study.a_CC)
    controls = {
        "size": Control({str(n): n for n in range(1, count + 1)}, count // 2 if size is None else size, slide=True),
        "method": Control({name: name for name in study.solvers}, method or next(iter(study.solvers))),
    }
    explore(partial(clique_view, study), controls)
