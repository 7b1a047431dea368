"""The pictures of MTP's experiment: a segmentation set, and a classification set beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from prunekit.course.mtp.preset import Mtp
from prunekit.course.tasks import load_task
from prunekit.data.real import ADE20K, VOC2012, Cityscapes, ImageNet, Pictures, TinyImageNet
from prunekit.data.scenes import THINGS, SceneCrops
from prunekit.data.transforms import classify_transform, eval_transform, train_transform
from prunekit.errors import DataError
from prunekit.train import segmentation_loss

READERS: dict[str, tuple[type[Pictures], str, str]] = {
    "voc": (VOC2012, "trainaug", "val"),
    "cityscapes": (Cityscapes, "train", "val"),
    "ade20k": (ADE20K, "training", "validation"),
}
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
    if preset.dataset not in READERS:
        task = load_task(preset.dataset, size=preset.size, root=root)
        weighted: Any = task.loss
        loss = partial(weighted, aux_weight=preset.aux_weight)  # it is segmentation_loss with class weights
        return Source(task.train, task.test, len(task.classes), loss)
    if root is None:
        raise DataError(f"where is {preset.dataset}? Give its folder: --root PATH.")
    reader, first, last = READERS[preset.dataset]
    train = reader(root, first, transform=train_transform(preset.size, scale=preset.resize))
    test = reader(root, last, transform=eval_transform())
    return Source(train, test, len(reader.CLASSES), partial(segmentation_loss, aux_weight=preset.aux_weight))


def objects(preset: Mtp, root: Path | None, loss: Callable[[Any, Tensor], Tensor]) -> Source:
    """The classification set: crops of scenes, or ImageNet's layout at root. DataError as above."""
    if preset.objects == "crops":
        train, test = SceneCrops(500, seed=0, size=preset.side), SceneCrops(100, seed=1, size=preset.side)
        return Source(train, test, len(THINGS), loss)
    if root is None:
        raise DataError(f"where is {CLASSIFIED[preset.objects].NAME}? Give its folder: --objects PATH.")
    reader = CLASSIFIED[preset.objects]
    train = reader(root, "train", transform=classify_transform(preset.side, train=True))
    test = reader(root, "val", transform=classify_transform(preset.side, train=False))
    return Source(train, test, len(train.classes), loss)
