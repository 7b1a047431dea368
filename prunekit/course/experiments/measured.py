"""What every experiment measures in the end, as the ledger wants it."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from prunekit.core import Groups, PruningPlan
from prunekit.course.experiments.streets import READERS
from prunekit.metrics import evaluate
from prunekit.plan import plan_macs, plan_params

MANY_SIZES = tuple(reader for reader, *_ in READERS.values())


def segmentation(
    model: nn.Module, test: Dataset[Any], classes: int, *, workers: int = 0, device: str | None = None
) -> dict[str, Any]:
    """mIoU, pixel accuracy and each class's IoU (None: the class does not occur) on test pictures. device None: the
    model's own.
    """
    batch = 1 if isinstance(test, MANY_SIZES) else 25
    found = evaluate(model, DataLoader(test, batch, num_workers=workers), classes, device=device)
    iou = [None if value != value else value for value in found.iou]
    return {"miou": found.miou, "pixel_accuracy": found.pixel_accuracy, "iou": iou}


def costs(groups: Groups, plan: PruningPlan) -> dict[str, float]:
    """MACs and parameters that a plan leaves, and the fractions of the dense ones that it removes."""
    dense = PruningPlan({}, {})
    macs, params = plan_macs(groups, plan), plan_params(groups, plan)
    return {
        "macs": macs,
        "params": params,
        "macs_removed": 1 - macs / plan_macs(groups, dense),
        "params_removed": 1 - params / plan_params(groups, dense),
    }


def own_device() -> torch.device:
    """This process's GPU, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def first_process() -> bool:
    """Is this the one that reports? accelerate launch and torchrun set RANK."""
    return int(os.environ.get("RANK", "0")) == 0
