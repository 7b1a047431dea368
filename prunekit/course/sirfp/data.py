"""The pictures of SIRFP's experiment: random crops to pre-train on, class-balanced ones to fine-tune on, test ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from prunekit.course.experiments import READERS, pictures, whole_pictures
from prunekit.course.sirfp.preset import Sirfp
from prunekit.course.tasks import Task
from prunekit.data.crops import BalancedCrops
from prunekit.data.real import CamVid
from prunekit.data.transforms import train_transform


def sources(preset: Sirfp, root: Path | None) -> tuple[Task, Dataset[Any]]:
    """The preset's data, and class-balanced crops of the same pictures.

    Pictures are resized at random by 0.5 to 2, as in the released code of DCFP and SIRFP. DataError when the folder is
    not what it should be.
    """
    task = pictures(preset.dataset, root, size=preset.size, short_side=preset.short_side, aux_weight=preset.aux_weight)
    whole: Any = task.train
    if preset.dataset in READERS:
        whole = whole_pictures(preset.dataset, root, short_side=preset.short_side)
    elif isinstance(whole, CamVid):
        whole = CamVid(whole.root, "train", transform=train_transform(None))
    return task, BalancedCrops(whole, preset.size)
