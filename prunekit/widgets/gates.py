"""Which neurons does an image use? Two images beside each other, and the gates of one layer.

A column is a neuron: orange where only the first image keeps it, blue where only the second does, dark where both do. A
gate below 0 is kept, computed and multiplied as any other; how many an image has of them stands in its title.
Legend: B images, U neurons, M gates, 0 = left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from prunekit.data.transforms import denormalize
from prunekit.errors import InputError
from prunekit.viz import colors
from prunekit.widgets.live import Control, View, explore, picked

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle

Color = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class GateStudy:
    """What `explore_gates` is about. images_BCHW: as the network saw them. masks: layer -> M, (B, U).

    Raises InputError when there are not two images, or a layer has gates of another number of images.
    """

    images_BCHW: Tensor
    masks: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        if self.images_BCHW.ndim != 4 or len(self.images_BCHW) < 2:
            raise InputError(f"the images are {tuple(self.images_BCHW.shape)}; give two or more, (B, 3, H, W).")
        if not self.masks:
            raise InputError("there is nothing to look at: give the gates of at least one layer.")
        for name, mask_BU in self.masks.items():
            if mask_BU.ndim != 2 or len(mask_BU) != len(self.images_BCHW):
                raise InputError(
                    f"'{name}' has gates {tuple(mask_BU.shape)}; give (B, U), a row for each of "
                    f"{len(self.images_BCHW)} images."
                )


def gates_view(study: GateStudy, layer: str, first: int, second: int) -> View:
    """Both images, and the layer's neurons below them. InputError for a layer or an image that is not there."""
    from matplotlib import pyplot as plt

    if layer not in study.masks:
        raise InputError(f"no gates of {layer!r}; there are: {', '.join(study.masks)}.")
    pictures = [picked(study.images_BCHW, image) for image in (first, second)]
    mask_2U = study.masks[layer][[first, second]].cpu()
    kept_2U, below = (mask_2U != 0).numpy(), (mask_2U < 0).sum(1).tolist()
    both, only = int(kept_2U.all(0).sum()), [int((kept_2U[i] & ~kept_2U[1 - i]).sum()) for i in range(2)]
    fig = plt.figure(figsize=(6, 4.4), layout="constrained")
    grid = fig.add_gridspec(2, 2, height_ratios=(1, 1.1))
    blue, orange = colors(2)
    for place, (number, picture, color) in enumerate(zip((first, second), pictures, (orange, blue), strict=True)):
        ax = fig.add_subplot(grid[0, place])
        ax.imshow(denormalize(picture.cpu()).permute(1, 2, 0).numpy())
        negative = f", {below[place]} below 0" if below[place] else ""
        ax.set_title(f"image {number}: {int(kept_2U[place].sum())} kept{negative}", fontsize=12, color=color)
        ax.set_axis_off()
    _strip(fig.add_subplot(grid[1, :]), kept_2U, (orange, blue))
    said = f"{layer}: {both} of {kept_2U.shape[1]} neurons are kept for both, {only[0]} only for image {first}, "
    said += f"{only[1]} only for image {second}"
    fig.suptitle(f"{both} shared, {only[0]} + {only[1]} their own", fontsize=12)
    return View(fig, f"{said}.")


def _strip(ax: Axes, kept_2U: NDArray[np.bool_], both_colors: tuple[Color, Color]) -> None:
    """One small bar a neuron, in rows of 64."""
    count = kept_2U.shape[1]
    for unit in range(count):
        row, column = divmod(unit, 64)
        a, b = kept_2U[:, unit]
        color = "0.25" if a and b else both_colors[0] if a else both_colors[1] if b else "0.9"
        ax.add_patch(_bar(column, row, color))
    ax.set(xlim=(-0.5, min(count, 64)), ylim=(-(-count // 64), -0.2), xticks=(), yticks=())
    ax.set_xlabel("neurons: dark = both, pale = neither", fontsize=12)
    ax.spines[:].set_visible(False)


def _bar(column: int, row: int, color: Color | str) -> Rectangle:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.4, row), 0.8, 0.85, color=color, lw=0)


def explore_gates(study: GateStudy, *, layer: str | None = None, first: int = 0, second: int = 1) -> None:
    """Choose a layer and two images. The arguments say where it starts (the first layer, the first two images)."""
    numbers = {str(i): i for i in range(len(study.images_BCHW))}
    controls = {
        "layer": Control({name: name for name in study.masks}, layer or next(iter(study.masks))),
        "first": Control(numbers, first),
        "second": Control(numbers, second),
    }
    explore(partial(gates_view, study), controls)
