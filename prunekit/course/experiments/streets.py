"""The pictures that the papers train segmentation on, by name: mini and small scale's own, and the published sets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from prunekit.course.tasks import Task, load_task
from prunekit.data.real import ADE20K, VOC2012, Cityscapes, COCOStuff10k, Pictures
from prunekit.data.transforms import eval_transform, train_transform
from prunekit.errors import DataError
from prunekit.train import segmentation_loss

READERS: dict[str, tuple[type[Pictures], str, str]] = {  # reader, split to train on, split to test on
    "cityscapes": (Cityscapes, "train", "val"),
    "ade20k": (ADE20K, "training", "validation"),
    "cocostuff10k": (COCOStuff10k, "train", "test"),
    "voc": (VOC2012, "trainaug", "val"),
}
SCALES = (0.5, 2.0)  # of random resizing while training


def pictures(
    dataset: str,
    root: Path | None,
    *,
    size: tuple[int, int],
    short_side: int | None = None,
    resize: tuple[float, float] = SCALES,
    aux_weight: float = 0.4,
    split: str | None = None,
) -> Task:
    """Random crops of size (height, width) to train on, whole pictures to test on; scenes and camvid as `load_task`.

    short_side: pictures are resized to it before anything else, label maps of the test are not. split: to train on,
    instead of the one in READERS. DataError when the folder is not what it should be.
    """
    if dataset not in READERS:
        task = load_task(dataset, size=size, root=root)
        weighted: Any = task.loss  # segmentation_loss with class weights
        return Task(
            task.name, task.train, task.test, task.classes, task.palette, partial(weighted, aux_weight=aux_weight)
        )
    root = given(dataset, root)
    reader, first, last = READERS[dataset]
    train = reader(root, split or first, transform=partial(_fit, short_side, train_transform(size, scale=resize)))
    test = reader(root, last, transform=partial(_fit_image, short_side))
    loss = partial(segmentation_loss, aux_weight=aux_weight)
    return Task(dataset, train, test, reader.CLASSES, reader.PALETTE, loss)


def whole_pictures(
    dataset: str, root: Path | None, *, short_side: int | None = None, resize: tuple[float, float] = SCALES
) -> Pictures:
    """The training pictures of a published set, resized at random but not cropped. DataError as above."""
    reader, first, _ = READERS[dataset]
    return reader(given(dataset, root), first, transform=partial(_fit, short_side, train_transform(None, scale=resize)))


def given(dataset: str, root: Path | None) -> Path:
    """The folder again. DataError without one."""
    if root is None:
        raise DataError(f"where is {dataset}? Give its folder: --root PATH.")
    return root


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
