"""The pictures of SIRFP's experiment: random crops to pre-train on, class-balanced ones to fine-tune on, test ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from prunekit.course.sirfp.preset import Sirfp
from prunekit.course.tasks import load_task
from prunekit.data.crops import BalancedCrops
from prunekit.data.real import ADE20K, CamVid, Cityscapes, COCOStuff10k, Pictures
from prunekit.data.transforms import eval_transform, train_transform
from prunekit.errors import DataError
from prunekit.train import segmentation_loss

READERS: dict[str, type[Pictures]] = {"cityscapes": Cityscapes, "ade20k": ADE20K, "cocostuff10k": COCOStuff10k}
SCALES = (0.5, 2.0)  # of random resizing, as in the released code of DCFP and SIRFP


@dataclass(frozen=True)
class Sources:
    """train: crops with masks. balanced: class-balanced crops. test: whole pictures. loss: of the pre-training."""

    train: Dataset[Any]
    balanced: Dataset[Any]
    test: Dataset[Any]
    classes: int
    loss: Callable[[Any, Tensor], Tensor]


def sources(preset: Sirfp, root: Path | None) -> Sources:
    """The preset's data. DataError when the folder is not what it should be."""
    if preset.dataset not in READERS:
        task = load_task(preset.dataset, size=preset.size, root=root)
        whole = task.train
        if isinstance(whole, CamVid):
            whole = CamVid(whole.root, "train", transform=train_transform(None))
        return Sources(task.train, BalancedCrops(whole, preset.size), task.test, len(task.classes), task.loss)
    if root is None:
        raise DataError(f"where is {preset.dataset}? Give its folder: --root PATH.")
    reader = READERS[preset.dataset]
    first, last = reader.SPLITS[0], reader.SPLITS[1]
    train = reader(root, first, transform=partial(_fit, preset.short_side, train_transform(preset.size, scale=SCALES)))
    whole = reader(root, first, transform=partial(_fit, preset.short_side, train_transform(None, scale=SCALES)))
    test = reader(root, last, transform=partial(_fit_image, preset.short_side))
    loss = partial(segmentation_loss, aux_weight=preset.aux_weight)
    return Sources(train, BalancedCrops(whole, preset.size), test, len(reader.CLASSES), loss)


def _fit(short_side: int | None, then: Callable[..., Any], image: Any, mask: Any) -> Any:
    """Resize both, then augment."""
    if short_side is None:
        return then(image, mask)
    from torchvision.transforms import v2

    return then(*v2.Resize(short_side, antialias=True)(image, mask))


def _fit_image(short_side: int | None, image: Any, mask: Any) -> Any:
    """Resize the image alone: predictions are brought back to the label map's own size, as a benchmark wants."""
    from torchvision.transforms import v2

    if short_side is not None:
        image = v2.Resize(short_side, antialias=True)(image)
    return eval_transform()(image, mask)
