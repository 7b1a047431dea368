"""What a lesson trains on and measures: data, classes, colours and loss in one value, for each data set.

task = load_task("scenes")                          # rendered here, no download
task = load_task("camvid", size=(240, 320), root="data/CamVid")
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from prunekit.course import site
from prunekit.data.real import CamVid
from prunekit.data.scenes import CLASSES, PALETTE, SceneDataset
from prunekit.data.transforms import train_transform
from prunekit.errors import InputError
from prunekit.train import class_weights, segmentation_loss

Pairs = Dataset[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Task:
    """train, test: data sets of (image (3, H, W), mask (H, W)). palette: (K, 3). loss(output, target): weighted by
    class, because poles and signs have one pixel in a hundred.
    """

    name: str
    train: Pairs
    test: Pairs
    classes: tuple[str, ...]
    palette: NDArray[np.uint8]
    loss: Callable[[Any, Tensor], Tensor]

    def train_loader(self, batch: int) -> DataLoader[Any]:
        """Shuffled, full batches."""
        return DataLoader(self.train, batch, shuffle=True, drop_last=True)

    def test_loader(self, batch: int = 25) -> DataLoader[Any]:
        """In order."""
        return DataLoader(self.test, batch)

    def examples(self, count: int) -> tuple[Tensor, Tensor]:
        """The first test images (N, 3, H, W) and masks (N, H, W), to look at."""
        images, masks = zip(*(self.test[i] for i in range(count)))
        return torch.stack(images), torch.stack(masks)


def load_task(
    dataset: str,
    *,
    size: tuple[int, int] = (64, 128),
    root: str | os.PathLike[str] | None = None,
    train_count: int = 1000,
    test_count: int = 200,
) -> Task:
    """scenes: rendered on the spot, `train_count` and `test_count` images of `size`. camvid: the real set in `root`
    (None: CamVid in PRUNEKIT_DATA or the clone's data/), trained on random crops of at most `size`, tested whole on
    "test".

    Raises InputError for an unknown name, DataError when the folder is not what it should be.
    """
    if dataset == "scenes":
        train, test = SceneDataset(train_count, seed=0, size=size), SceneDataset(test_count, seed=1, size=size)
        return Task("scenes", train, test, CLASSES, PALETTE, weighted_loss(train, len(CLASSES)))
    if dataset == "camvid":
        folder = Path(root) if root is not None else site.data_folder() / "CamVid"
        plain, test = CamVid(folder, "train"), CamVid(folder, "test")
        height, width = plain[0][1].shape
        crop = (min(size[0], height), min(size[1], width))
        train = CamVid(folder, "train", transform=train_transform(crop))
        return Task("camvid", train, test, CamVid.CLASSES, CamVid.PALETTE, weighted_loss(plain, len(CamVid.CLASSES)))
    raise InputError(f"no data set {dataset!r} here; choose scenes (nothing to download) or camvid.")


def weighted_loss(train: Pairs, classes: int) -> Callable[[Any, Tensor], Tensor]:
    """segmentation_loss with class weights from the pixel counts of a training set."""
    pixels_K = torch.zeros(classes, dtype=torch.long)
    for i in range(len(train)):  # type: ignore[arg-type]
        mask = train[i][1]
        pixels_K += torch.bincount(mask[mask != 255].flatten(), minlength=classes)
    return partial(segmentation_loss, class_weight=class_weights(pixels_K))
