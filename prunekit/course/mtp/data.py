"""The pictures of MTP's experiment: a segmentation set, and a classification set beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from prunekit.course.experiments import pictures
from prunekit.course.mtp.preset import Mtp
from prunekit.data.real import ImageNet, TinyImageNet
from prunekit.data.scenes import CLASSES, THINGS, SceneCrops, ScenePatches
from prunekit.data.transforms import classify_transform
from prunekit.errors import DataError, InputError

CLASSIFIED: dict[str, type[ImageNet]] = {"imagenet": ImageNet, "tinyimagenet": TinyImageNet}


@dataclass(frozen=True)
class Source:
    """One task's data. loss: of the segmentation; classification has its own."""

    train: Dataset[Any]
    test: Dataset[Any]
    classes: int
    loss: Callable[[Any, Tensor], Tensor]


def scenes(preset: Mtp, root: Path | None) -> Source:
    """The segmentation set. DataError when the folder is not what it should be."""
    task = pictures(preset.dataset, root, size=preset.size, resize=preset.resize, aux_weight=preset.aux_weight)
    return Source(task.train, task.test, len(task.classes), task.loss)


def objects(preset: Mtp, root: Path | None, loss: Callable[[Any, Tensor], Tensor]) -> Source:
    """The classification set: patches or crops of scenes, or ImageNet's layout at root. DataError as above, InputError
    for a folder where the set is drawn.
    """
    if root is not None and preset.objects not in CLASSIFIED:
        raise InputError(
            f"--objects {root} would not be read: here the pictures to classify are {preset.objects} of drawn scenes. "
            "Leave it out, or take --scale small or full."
        )
    if preset.objects == "patches":
        first, last = ScenePatches(500, seed=0, size=preset.side), ScenePatches(100, seed=1, size=preset.side)
        return Source(first, last, len(CLASSES), loss)
    if preset.objects == "crops":
        train, test = SceneCrops(500, seed=0, size=preset.side), SceneCrops(100, seed=1, size=preset.side)
        return Source(train, test, len(THINGS), loss)
    if root is None:
        raise DataError(f"where is {CLASSIFIED[preset.objects].NAME}? Give its folder: --objects PATH.")
    reader = CLASSIFIED[preset.objects]
    train = reader(root, "train", transform=classify_transform(preset.side, train=True))
    test = reader(root, "val", transform=classify_transform(preset.side, train=False))
    return Source(train, test, len(train.classes), loss)
