"""Figures the lessons share. Each function returns a matplotlib Figure; nothing is shown or saved here.

Bars and lines use seaborn's colour-blind palette; class colours are the data set's own, with names beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunekit.core import PruningPlan
from prunekit.data.transforms import denormalize
from prunekit.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IGNORED = (255, 255, 255)


def colors(count: int) -> list[tuple[float, float, float]]:
    """`count` colours that stay apart for colour-blind readers."""
    import seaborn as sns

    return list(sns.color_palette("colorblind", count))


def paint(mask_HW: Tensor, palette: NDArray[np.uint8], *, ignore: int = 255) -> NDArray[np.uint8]:
    """A label map as an RGB picture (H, W, 3); ignored pixels are white. palette: (K, 3)."""
    labels = mask_HW.cpu().numpy()
    valid = labels != ignore
    if valid.any() and labels[valid].max() >= len(palette):
        raise InputError(f"label {labels[valid].max()} has no colour: the palette has {len(palette)}.")
    picture = np.full((*labels.shape, 3), IGNORED, np.uint8)
    picture[valid] = palette[labels[valid]]
    return picture


def mask_grid(
    images_BCHW: Tensor, masks: Mapping[str, Tensor], palette: NDArray[np.uint8], names: Sequence[str]
) -> Figure:
    """One row per image: the image, then each of `masks` (title -> (B, H, W) labels), with a legend of the classes.

    images: normalised, as the data sets give them.
    """
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    pictures_BHWC = denormalize(images_BCHW.cpu()).permute(0, 2, 3, 1).numpy()
    rows, columns = len(pictures_BHWC), 1 + len(masks)
    height, width = pictures_BHWC.shape[1:3]
    size = (2.9 * columns, 2.9 * rows * height / width + 0.9)
    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for row in range(rows):
        shown = {"image": pictures_BHWC[row], **{title: paint(m[row], palette) for title, m in masks.items()}}
        for ax, (title, picture) in zip(axes[row], shown.items()):
            ax.imshow(picture, interpolation="nearest")
            ax.set_axis_off()
            if row == 0:
                ax.set_title(title, fontsize=10)
    patches = [Patch(color=rgb / 255, label=name) for rgb, name in zip(palette, names)]
    fig.legend(handles=patches, loc="outside lower center", ncols=min(6, len(patches)), fontsize=8, frameon=False)
    return fig


def iou_bars(ious: Mapping[str, Sequence[float]], names: Sequence[str]) -> Figure:
    """IoU of every class, a bar per model (title -> (K,)), best class first; absent classes are left out."""
    from matplotlib import pyplot as plt

    first = torch.tensor(next(iter(ious.values())))
    order = [k for k in first.argsort(descending=True).tolist() if not torch.isnan(first[k])]
    fig, ax = plt.subplots(figsize=(7.5, 3.2), layout="constrained")
    step = 0.8 / len(ious)
    for i, ((title, values), color) in enumerate(zip(ious.items(), colors(len(ious)))):
        at = np.arange(len(order)) + (i - (len(ious) - 1) / 2) * step
        ax.bar(at, [values[k] for k in order], step, label=title, color=color)
    ax.set_xticks(range(len(order)), [str(names[k]) for k in order], rotation=40, ha="right")
    ax.set_ylabel("IoU")
    ax.set_ylim(0, 1)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, ncols=len(ious), loc="upper right")
    return fig


def plan_bars(plan: PruningPlan) -> Figure:
    """How many units each group keeps and loses, in the order of the network."""
    from matplotlib import pyplot as plt

    names = list(plan.keep)
    kept = np.array([len(plan.keep[n]) for n in names])
    gone = np.array([plan.sizes[n] for n in names]) - kept
    keep_color, gone_color = colors(2)
    fig, ax = plt.subplots(figsize=(7.5, 0.9 + 0.2 * len(names)), layout="constrained")
    ax.barh(range(len(names)), kept, color=keep_color, label="kept")
    ax.barh(range(len(names)), gone, left=kept, color=gone_color, alpha=0.45, label="removed", hatch="///")
    ax.set_yticks(range(len(names)), names, fontsize=7)
    ax.invert_yaxis()
    ax.set_xlabel("channels")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, ncols=2, loc="lower right")
    return fig
