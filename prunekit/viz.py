"""Figures the lessons share. Most functions return a matplotlib Figure; nothing is shown or saved here.

Bars and lines use seaborn's colour-blind palette; class colours are the data set's own, with names beside them.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunekit.core import PruningPlan
from prunekit.data.transforms import denormalize
from prunekit.errors import InputError
from prunekit.metrics import confusion_matrix, iou_per_class

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IGNORED = (255, 255, 255)
SHORTEST_ALT = 20  # letters; "a figure" tells nobody anything
# What became of one class's pixels; they differ in brightness too, for readers who see no colours.
OVERLAP = MappingProxyType({"right": (86, 180, 233), "missed": (236, 225, 51), "false": (213, 94, 0)})
# What a cut did to the pixels, in the same three colours; those that were right and still are stay grey.
CHANGES = MappingProxyType(
    {"newly wrong": (213, 94, 0), "wrong before too": (236, 225, 51), "now right": (86, 180, 233)}
)


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
    fig, ax = plt.subplots(figsize=(5, 0.9 + len(order) * (0.1 + 0.12 * len(ious))), layout="constrained")
    step = 0.8 / len(ious)
    for i, ((title, values), color) in enumerate(zip(ious.items(), colors(len(ious)))):
        at = np.arange(len(order)) + (i - (len(ious) - 1) / 2) * step
        ax.barh(at, [values[k] for k in order], step, label=title, color=color)
    ax.set_yticks(range(len(order)), [str(names[k]) for k in order])
    ax.invert_yaxis()
    ax.margins(y=0.02)
    ax.set_xlabel("IoU")
    ax.set_xlim(0, 1)
    ax.spines[["top", "right"]].set_visible(False)
    fig.legend(loc="outside upper center", ncols=len(ious), frameon=False)
    return fig


def plan_bars(plan: PruningPlan) -> Figure:
    """How many units each group keeps and loses, in the order of the network."""
    from matplotlib import pyplot as plt

    names = list(plan.keep)
    kept = np.array([len(plan.keep[n]) for n in names])
    gone = np.array([plan.sizes[n] for n in names]) - kept
    keep_color, gone_color = colors(2)
    fig, ax = plt.subplots(figsize=(5, 0.9 + 0.2 * len(names)), layout="constrained")
    ax.barh(range(len(names)), kept, color=keep_color, label="kept")
    ax.barh(range(len(names)), gone, left=kept, color=gone_color, alpha=0.45, label="removed", hatch="///")
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.invert_yaxis()
    ax.set_xlabel("channels")
    ax.spines[["top", "right"]].set_visible(False)
    fig.legend(loc="outside upper center", ncols=2, frameon=False)
    return fig


def bars(
    series: Mapping[str, Sequence[float]], names: Sequence[str], *, label: str, log: bool = False, digits: int = 1
) -> Figure:
    """Horizontal bars with their values: one row per name, in it one bar per series (title -> one value per name).

    label: the axis, with its unit. log: for values that differ by powers of ten. digits: of the written values.
    """
    from matplotlib import pyplot as plt

    if any(len(values) != len(names) for values in series.values()):
        lengths = ", ".join(f"'{title}' has {len(values)}" for title, values in series.items())
        raise InputError(f"there are {len(names)} names, but {lengths} values; give one value per name.")
    fig, ax = plt.subplots(figsize=(6, 0.9 + len(names) * (0.12 + 0.2 * len(series))), layout="constrained")
    step = 0.84 / len(series)
    for i, ((title, values), color) in enumerate(zip(series.items(), colors(len(series)))):
        at = np.arange(len(names)) + (i - (len(series) - 1) / 2) * step
        drawn = ax.barh(at, values, step * 0.92, label=title, color=color)
        ax.bar_label(drawn, [f"{value:.{digits}f}" for value in values], padding=3, fontsize=9)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xscale("log" if log else "linear")
    ax.margins(x=0.12)
    ax.set_xlabel(label)
    ax.spines[["top", "right"]].set_visible(False)
    if len(series) > 1:
        fig.legend(loc="outside upper center", ncols=len(series), frameon=False)
    return fig


def dimmed(image_CHW: Tensor) -> NDArray[np.uint8]:
    """A normalised image in dull greys (H, W, 3), to put colours on."""
    grey_HW = denormalize(image_CHW.cpu()).mean(0).numpy()
    return np.repeat((70 + 110 * grey_HW).astype(np.uint8)[..., None], 3, axis=2)


def overlap(
    image_CHW: Tensor, truth_HW: Tensor, guess_HW: Tensor, label: int, *, ignore: int = 255
) -> NDArray[np.uint8]:
    """What became of one class, as a picture (H, W, 3): its pixels in the colours of OVERLAP over the dimmed image.

    image: normalised. Pixels that truth ignores stay image, whatever was guessed.
    """
    picture = dimmed(image_CHW)
    truth, guess = truth_HW.cpu().numpy(), guess_HW.cpu().numpy()
    is_HW, said_HW = truth == label, (guess == label) & (truth != ignore)
    for kind, where in (("right", is_HW & said_HW), ("missed", is_HW & ~said_HW), ("false", said_HW & ~is_HW)):
        picture[where] = OVERLAP[kind]
    return picture


def changes(
    image_CHW: Tensor, truth_HW: Tensor, before_HW: Tensor, after_HW: Tensor, *, ignore: int = 255
) -> NDArray[np.uint8]:
    """Which labels became wrong or right, as a picture (H, W, 3) in the colours of CHANGES over the dimmed image.

    image: normalised. Pixels that truth ignores stay image.
    """
    picture = dimmed(image_CHW)
    truth, before, after = truth_HW.cpu().numpy(), before_HW.cpu().numpy(), after_HW.cpu().numpy()
    counts_HW, was_HW, is_HW = truth != ignore, before == truth, after == truth
    picture[counts_HW & was_HW & ~is_HW] = CHANGES["newly wrong"]
    picture[counts_HW & ~was_HW & ~is_HW] = CHANGES["wrong before too"]
    picture[counts_HW & ~was_HW & is_HW] = CHANGES["now right"]
    return picture


def overlap_grid(
    images_BCHW: Tensor, truth_BHW: Tensor, guess_BHW: Tensor, label: int, *, classes: int, columns: int = 2
) -> Figure:
    """`overlap` of every image, with the class's IoU in that image above it ("-" where it neither is nor was said)."""
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    rows = -(-len(images_BCHW) // columns)
    height, width = images_BCHW.shape[-2:]
    size = (3.2 * columns, (3.2 * height / width + 0.3) * rows + 0.4)
    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, image, truth, guess in zip(axes.flat, images_BCHW, truth_BHW, guess_BHW):
        iou = iou_per_class(confusion_matrix(guess, truth, classes))[label].item()
        ax.imshow(overlap(image, truth, guess, label), interpolation="nearest")
        ax.set_title("-" if np.isnan(iou) else f"IoU {iou:.2f}", fontsize=11)
    patches = [Patch(color=(r / 255, g / 255, b / 255), label=kind) for kind, (r, g, b) in OVERLAP.items()]
    fig.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)
    return fig


def as_output(fig: Figure, alt: str, *, dpi: int = 120) -> tuple[dict[str, str], dict[str, Any]]:
    """A figure as a notebook stores it, (data, metadata) for IPython's display(raw=True): PNG and alt text. Closes it.

    The PNG has 256 colours, a third of the bytes for those who read on a phone, and carries no date and no version,
    so the same figure gives the same bytes. Raises InputError for alt text that says nothing.
    """
    from matplotlib import pyplot as plt

    if len(alt.strip()) < SHORTEST_ALT:
        raise InputError(f"alt text {alt!r} is too short: say in a sentence what the figure shows.")
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", metadata={"Software": None})
    plt.close(fig)
    picture = base64.b64encode(_few_colours(buffer)).decode()
    return {"image/png": picture, "text/plain": f"[figure] {alt}"}, {"image/png": {"alt": alt}}


def _few_colours(png: io.BytesIO) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    with Image.open(png) as full:
        full.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(out, format="png", optimize=True)
    return out.getvalue()
