"""The pictures of EAPruning's experiment: to train on, to test on, to rebuild weights on, and held for the error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from prunekit.course.eapruning.preset import MODELS, EaPruning
from prunekit.course.eapruning.recipe import Mixed, deit_transform, smoothed_loss
from prunekit.course.experiments import pictures, segmentation
from prunekit.data.real import ImageNet, TinyImageNet
from prunekit.data.scenes import THINGS, SceneCrops
from prunekit.data.transforms import classify_transform
from prunekit.errors import DataError
from prunekit.methods.eapruning import Error, Misclassified, MissedIoU
from prunekit.metrics import evaluating, logits_of, top1
from prunekit.observe import Batches
from prunekit.train import classification_loss

CLASSIFIED: dict[str, type[ImageNet]] = {"imagenet": ImageNet, "tinyimagenet": TinyImageNet}

CROPPED = (300, 150)  # scenes whose things are cropped, to train and to test on


@dataclass(frozen=True)
class Sources:
    """train, test: data sets of (image, target). plain: the training set without augmentation. score: "top1" or "miou",
    measure(model): that and more, for the ledger.
    """

    train: Dataset[Any]
    plain: Dataset[Any]
    classes: int
    loss: Callable[[Any, Tensor], Tensor]
    score: str
    measure: Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Doubt(Misclassified):
    """What the right class lacks to 1, on average: not 0 where nothing is wrong, unlike Misclassified."""

    def __call__(self, model: nn.Module) -> float:
        with evaluating(model):
            logits_BK = torch.cat([logits_of(model(x)) for x in self.images.split(self.batch)])
        right_B = logits_BK.double().softmax(1).gather(1, self.labels[:, None])
        return float((1 - right_B).mean().clamp(0, 1))

    def describe(self) -> str:
        """The same text for the same data."""
        return f"doubt, {super().describe()}"


def sources(preset: EaPruning, root: Path | None) -> Sources:
    """The preset's data. DataError when the folder is not what it should be."""
    if preset.dataset == "crops":
        side = preset.size[0]
        train, test = (_crops(count, seed, side) for seed, count in enumerate(CROPPED))
        return Sources(train, train, len(THINGS), classification_loss, "top1", partial(_top1, test=test))
    if not preset.classifies:
        task = pictures(preset.dataset, root, size=preset.size)
        measure = partial(segmentation, test=task.test, classes=len(task.classes))
        return Sources(task.train, task.train, len(task.classes), task.loss, "miou", measure)
    if root is None:
        raise DataError(f"where is {CLASSIFIED[preset.dataset].NAME}? Give its folder: --root PATH.")
    reader, side = CLASSIFIED[preset.dataset], preset.size[0]
    stats = normalisation(preset)
    view = partial(classify_transform, side, **stats)
    plain, test = (reader(root, part, transform=view(train=False)) for part in ("train", "val"))
    measure = partial(_top1, test=test)
    if preset.recipe == "deit":
        train = Mixed(reader(root, "train", transform=deit_transform(side, **stats)), len(plain.classes))
        return Sources(train, plain, len(plain.classes), smoothed_loss, "top1", measure)
    train = reader(root, "train", transform=view(train=True))
    return Sources(train, plain, len(train.classes), classification_loss, "top1", measure)


def normalisation(preset: EaPruning) -> dict[str, tuple[float, ...]]:
    """mean and std of the pictures that the pretrained network knows; nothing for one that is trained here."""
    timm_name = getattr(MODELS.get(preset.model), "args", ("",))[0]
    known = timm.get_pretrained_cfg(timm_name) if preset.pretrained and timm_name else None
    return {"mean": known.mean, "std": known.std} if known else {}


@lru_cache(maxsize=2)
def _crops(count: int, seed: int, side: int) -> SceneCrops:
    """Made once for all networks."""
    return SceneCrops(count, seed=seed, size=side)


def _top1(model: nn.Module, *, test: Dataset[Any], workers: int = 0) -> dict[str, Any]:
    return {"top1": top1(model, DataLoader(test, 250, num_workers=workers))}


def split(
    preset: EaPruning, source: Sources, device: torch.device, *, seed: int, workers: int = 0
) -> tuple[Batches, Error]:
    """(batches to rebuild weights on, the error on other images), both of the training set, drawn by the seed.

    The batches are read anew in each pass, by so many workers. The images of the error are held in memory (3 GB at full
    scale), since every candidate is measured on them. DataError when the set has too few images.
    """
    there: int = len(source.plain)  # type: ignore[arg-type]
    if there < preset.images + preset.held:
        raise DataError(
            f"{preset.dataset} has {there} training images; {preset.images} to rebuild on and {preset.held} for the "
            "error are too many. Give fewer."
        )
    order = torch.randperm(there, generator=torch.Generator().manual_seed(seed)).tolist()
    first, second = order[: preset.images], order[preset.images : preset.images + preset.held]
    batches = DataLoader(Subset(source.plain, first), 50, num_workers=workers)
    parts = zip(*DataLoader(Subset(source.plain, second), 50, num_workers=workers))
    images, targets = (torch.cat(each) for each in parts)
    images, targets = images.to(device), targets.to(device)
    if source.score == "miou":
        return batches, MissedIoU(images, targets, source.classes, batch=20)
    return batches, Misclassified(images, targets, batch=50)
