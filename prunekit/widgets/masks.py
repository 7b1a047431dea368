"""Labels before and after a cut: image, dense labels, labels with the lowest scores gone, and what changed.

Nothing is trained in between. Removed units are masked, as in `sensitivity`.
Legend: B images, K classes, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from prunekit.core import Groups, PruningPlan, Scores
from prunekit.data.transforms import denormalize
from prunekit.errors import InputError, ScoreError
from prunekit.metrics import confusion_matrix, evaluating, iou_per_class, logits_of, place
from prunekit.plan import plan_macs, uniform_plan
from prunekit.surgery import mask
from prunekit.viz import CHANGES, changes, paint
from prunekit.widgets.live import Control, View, explore, percents, picked


@dataclass(frozen=True, eq=False)
class MaskStudy:
    """What `explore_masks` is about.

    scores: method's name -> its Scores. images: normalised (B, 3, H, W), truth (B, H, W), palette (K, 3), classes: K
    names. ratios: to choose from. make: (groups, scores, ratio) -> plan, e.g. global_plan.
    """

    model: nn.Module
    groups: Groups
    scores: Mapping[str, Scores]
    images_BCHW: Tensor
    truth_BHW: Tensor
    palette: NDArray[np.uint8]
    classes: Sequence[str]
    ratios: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75)
    make: Callable[[Groups, Scores, float], PruningPlan] = uniform_plan


@dataclass(frozen=True, eq=False)
class Look:
    """One image, dense and pruned: labels (H, W), IoU of each class in this image (K,), nan where it is absent.

    macs_left: fraction of the network's MACs."""

    dense_HW: Tensor
    pruned_HW: Tensor
    dense_iou_K: Tensor
    pruned_iou_K: Tensor
    macs_left: float


def look(study: MaskStudy, image: int, method: str, ratio: float) -> Look:
    """Label one image with the dense and with the masked network.

    Raises InputError for an image that is not there and for a ratio outside [0, 1), ScoreError for a method without
    scores and as `uniform_plan` does.
    """
    image_CHW, groups = picked(study.images_BCHW, image), study.groups
    if method not in study.scores:
        raise ScoreError(f"no scores of '{method}'; there are scores of: {', '.join(study.scores) or 'nothing'}.")
    plan = study.make(groups, study.scores[method], ratio)
    whole = PruningPlan(plan.sizes, {name: tuple(range(size)) for name, size in plan.sizes.items()})
    truth_HW = study.truth_BHW[image].cpu()
    labels = [_labels(net, image_CHW, truth_HW) for net in (study.model, mask(study.model, groups, plan))]
    ious = [iou_per_class(confusion_matrix(each, truth_HW, len(study.classes))) for each in labels]
    return Look(labels[0], labels[1], ious[0], ious[1], plan_macs(groups, plan) / plan_macs(groups, whole))


def _labels(model: nn.Module, image_CHW: Tensor, truth_HW: Tensor) -> Tensor:
    with evaluating(model):
        logits_BKHW = logits_of(model(image_CHW[None].to(place(model, None)[1])))
    size = tuple(truth_HW.shape)
    return F.interpolate(logits_BKHW, size, mode="bilinear", align_corners=False)[0].argmax(0).cpu()


def masks_view(study: MaskStudy, image: int, method: str, ratio: float) -> View:
    """Four pictures: the image, both label maps, and the pixels whose label became wrong or right. Raises as `look`."""
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    seen, image_CHW, truth_HW = look(study, image, method, ratio), study.images_BCHW[image], study.truth_BHW[image]
    pictures = {
        f"image {image}": denormalize(image_CHW.cpu()).permute(1, 2, 0).numpy(),
        f"dense, mIoU {seen.dense_iou_K.nanmean():.2f}": paint(seen.dense_HW, study.palette),
        f"{method}, {100 * ratio:g} % of units gone, mIoU {seen.pruned_iou_K.nanmean():.2f}": paint(
            seen.pruned_HW, study.palette
        ),
        "what changed": changes(image_CHW, truth_HW, seen.dense_HW, seen.pruned_HW),
    }
    height, width = truth_HW.shape
    fig, axes = plt.subplots(2, 2, figsize=(7, 7 * height / width + 1.3), layout="constrained")
    for ax, (title, picture) in zip(axes.flat, pictures.items()):
        ax.imshow(picture, interpolation="nearest")
        ax.set_title(title, fontsize=9)
        ax.set_axis_off()
    kinds = [Patch(color=(r / 255, g / 255, b / 255), label=kind) for kind, (r, g, b) in CHANGES.items()]
    axes[1, 1].legend(handles=kinds, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3, fontsize=7, frameon=False)
    patches = [Patch(color=rgb / 255, label=name) for rgb, name in zip(study.palette, study.classes)]
    fig.legend(handles=patches, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    return View(fig, _sentence(study, seen, image, method, ratio))


def _sentence(study: MaskStudy, seen: Look, image: int, method: str, ratio: float) -> str:
    lost_K = (seen.dense_iou_K - seen.pruned_iou_K).nan_to_num(nan=-torch.inf)
    worst = int(lost_K.argmax())
    text = (
        f"Image {image} with {100 * ratio:g} % of all units gone by {method}, {seen.macs_left:.0%} of the MACs left: "
        f"mIoU {seen.dense_iou_K.nanmean():.2f} to {seen.pruned_iou_K.nanmean():.2f}"
    )
    if lost_K[worst] <= 0:
        return text + ", no class lost."
    was, now = seen.dense_iou_K[worst], seen.pruned_iou_K[worst]
    return text + f"; {study.classes[worst]} lost most, {was:.2f} to {now:.2f}."


def explore_masks(study: MaskStudy, *, image: int = 0, method: str | None = None, ratio: float | None = None) -> None:
    """Choose an image, a method and a ratio. The arguments say where it starts (the first method, the middle ratio)."""
    if not study.scores or not study.ratios:
        raise InputError("there is nothing to choose from: give at least one method's scores and one ratio.")
    method = next(iter(study.scores)) if method is None else method
    ratio = study.ratios[len(study.ratios) // 2] if ratio is None else ratio
    controls = {
        "image": Control({str(number): number for number in range(len(study.images_BCHW))}, image, slide=True),
        "method": Control({name: name for name in study.scores}, method),
        "ratio": Control(percents(study.ratios), ratio, slide=True),
    }
    explore(partial(masks_view, study), controls)
