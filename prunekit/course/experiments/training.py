"""From a stretch and a data set to what `finetune` takes, and networks whose weights may have to be fetched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from prunekit.course.experiments.presets import Stretch
from prunekit.errors import DownloadError
from prunekit.progressive import Training
from prunekit.train import valid_labels
from prunekit.train.config import Precision


def training(
    stretch: Stretch,
    dataset: Dataset[Any],
    loss: Callable[..., Any],
    *,
    seed: int,
    precision: Precision = "no",
    workers: int = 0,
    count: Callable[[Any], int] = valid_labels,
) -> Training:
    """count: what a batch's loss is a mean over."""
    config = stretch.config(seed=seed, precision=precision)
    return Training(config, image_loader(dataset, stretch.batch, workers=workers), loss, count)


def image_loader(dataset: Dataset[Any], batch: int, *, workers: int = 0) -> DataLoader[Any]:
    """Shuffled. workers: processes that load pictures."""
    return DataLoader(dataset, batch, shuffle=True, num_workers=workers, pin_memory=torch.cuda.is_available())


def fetched(make: Callable[[], nn.Module]) -> nn.Module:
    """make(), which may ask timm's hub for weights. DownloadError when they cannot be had."""
    try:
        return make()
    except OSError as err:
        raise DownloadError(
            f"timm cannot fetch the backbone's ImageNet weights ({str(err).splitlines()[0]}). Run once with a network, "
            "they are kept; or pass --no-pretrained, which costs much accuracy."
        ) from err
