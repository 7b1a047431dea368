"""Feature maps of a group in the order of their scores: what do the channels that would go look at?

A map is what the layer that reads the group gets to see, after norm and activation (`observe`). A head's map is the
mean over its channels.
Legend: U = units of a group, h x w = the map's pixels, H x W the image's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from prunekit.core import Groups, Scores
from prunekit.data.transforms import denormalize
from prunekit.errors import InputError
from prunekit.observe import see_maps
from prunekit.widgets.live import Control, View, explore, picked, scores_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORDERS = ("highest first", "lowest first")
SHOWN = 8  # maps; with the image, three rows of three


def feature_maps(model: nn.Module, groups: Groups, group: str, image_CHW: Tensor) -> Tensor:
    """The group's activations on one image, (U, h, w), on the CPU.

    Tokens are laid out as the image is. Raises GroupError for an unknown group, ScoreError where nothing can be seen
    (see observe.watch), InputError where what is seen is no picture.
    """
    seen: list[Tensor] = []
    batches = [(image_CHW[None], None)]
    see_maps(model, groups.only([group]), batches, lambda _, x_BUK: seen.append(x_BUK), method="the channel browser")
    x_UK = seen[0].detach().float().cpu()
    if len(x_UK) == 1:
        maps = x_UK[0].mean(1)  # over the positions of a unit
        if maps.ndim == 2:
            maps = _laid_out(maps, image_CHW.shape[1] / image_CHW.shape[2])
        if maps.ndim == 3:
            return maps
    shape = tuple(seen[0].shape)
    raise InputError(
        f"the activations of '{group}' are {shape}, which is no picture of the image; choose another group."
    )


def _laid_out(tokens_UN: Tensor, aspect: float) -> Tensor:
    """(U, N) -> (U, h, w) when N pixels can have the image's aspect, height / width; else as it was."""
    count = tokens_UN.shape[1]
    height = max(1, round((count * aspect) ** 0.5))
    width = count // height
    fits = count > 1 and height * width == count and abs(width - height / aspect) < 1
    return tokens_UN.unflatten(1, (height, width)) if fits else tokens_UN


def channels_view(
    model: nn.Module, groups: Groups, scores: Scores, images_BCHW: Tensor, *, group: str, image: int, order: str
) -> View:
    """The image and up to eight maps with their units' numbers and scores, all maps on one scale of colours.

    Raises InputError for an image that is not there and for another order, ScoreError for scores that are missing or
    wrong, and what `feature_maps` raises.
    """
    if order not in ORDERS:
        raise InputError(f"order is one of {', '.join(map(repr, ORDERS))}, got {order!r}.")
    score_U, image_CHW = scores_of(groups, scores, group), picked(images_BCHW, image)
    units = score_U.argsort(descending=order == ORDERS[0], stable=True)[:SHOWN].tolist()
    titles = {unit: f"unit {unit}, score {score_U[unit]:.3g}" for unit in units}
    fig = _grid(image_CHW, feature_maps(model, groups, group, image_CHW), titles)
    fig.suptitle(f"{group}: {len(units)} of {len(score_U)} units, {order}", fontsize=10)
    alt = (
        f"Image {image} and {len(units)} of the {len(score_U)} feature maps of {group}, {order}: "
        f"from {titles[units[0]]} to {titles[units[-1]]}."
    )
    return View(fig, alt)


def _grid(image_CHW: Tensor, maps_UHW: Tensor, titles: Mapping[int, str]) -> Figure:
    """The image, then the units in `titles`, on one scale that ends where one pixel in 200 of all units lies above."""
    from matplotlib import pyplot as plt
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    rows, (height, width) = -(-(1 + len(titles)) // 3), image_CHW.shape[1:]
    size = (7, 2 * rows * height / width + 0.3 * rows + 0.4)
    fig, axes = plt.subplots(rows, 3, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.set_axis_off()
    axes[0, 0].imshow(denormalize(image_CHW.cpu()).permute(1, 2, 0).numpy())
    axes[0, 0].set_title("image", fontsize=9)
    low, high = np.quantile(maps_UHW.numpy(), (0, 0.995))
    scale = Normalize(low, max(high, low + 1e-6))
    for ax, (unit, title) in zip(list(axes.flat)[1:], titles.items()):
        ax.imshow(maps_UHW[unit].numpy(), cmap="cividis", norm=scale)
        ax.set_title(title, fontsize=9)
    fig.colorbar(ScalarMappable(scale, "cividis"), ax=axes, label="activation", fraction=0.03)
    return fig


def explore_channels(
    model: nn.Module,
    groups: Groups,
    scores: Scores,
    images_BCHW: Tensor,
    *,
    group: str | None = None,
    image: int = 0,
    order: str = ORDERS[0],
) -> None:
    """Choose a group, an image and whether the best or the worst units come first; the rest says where it starts.

    scores: group -> (U,), those of any criterion. images: normalised (B, 3, H, W).
    """
    group = next(iter(groups)) if group is None else group
    controls = {
        "group": Control({name: name for name in groups}, group),
        "image": Control({str(number): number for number in range(len(images_BCHW))}, image, slide=True),
        "order": Control({name: name for name in ORDERS}, order),
    }
    explore(partial(channels_view, model, groups, scores, images_BCHW), controls)
