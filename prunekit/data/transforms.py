"""Normalisation, and the transforms for training and scoring.

They are compositions of torchvision.transforms.v2 on tv_tensors: what moves pixels moves the image and the mask
alike, what changes colours touches the image only. torchvision is imported when a transform is built, not before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prunekit.errors import InputError

if TYPE_CHECKING:
    from torchvision.transforms import v2

MEAN = (0.485, 0.456, 0.406)  # ImageNet, RGB: what timm's backbones were trained with
STD = (0.229, 0.224, 0.225)
IGNORE = 255


def _stat(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(3, 1, 1)


def normalize(image: Tensor) -> Tensor:
    """uint8 (..., 3, H, W) or float in [0, 1] -> float, zero mean and unit variance over ImageNet."""
    _check(image, "normalize")
    x = image.float() / 255 if image.dtype == torch.uint8 else image
    return (x - _stat(MEAN, x)) / _stat(STD, x)


def denormalize(image: Tensor) -> Tensor:
    """Undo `normalize`: float (..., 3, H, W) -> float in [0, 1], clipped, for figures."""
    _check(image, "denormalize")
    return (image * _stat(STD, image) + _stat(MEAN, image)).clamp(0, 1)


def _check(image: Tensor, who: str) -> None:
    if image.ndim < 3 or image.shape[-3] != 3:
        raise InputError(f"{who} wants (..., 3, H, W), got {tuple(image.shape)}: permute a (H, W, 3) array first.")


def train_transform(
    crop: tuple[int, int] | None, *, scale: tuple[float, float] = (0.75, 1.5), flip: float = 0.5, jitter: float = 0.2
) -> v2.Compose:
    """Random scale, crop of (H, W) pixels (None: none), left-right flip, light colour jitter, normalisation.

    Where the scaled picture is smaller than the crop, the image is filled with ImageNet's mean colour and the mask
    with 255 = ignore. flip: its probability. jitter: strength of brightness, contrast and saturation changes, 0 = off.
    The result is called with (tv_tensors.Image, tv_tensors.Mask), as the data sets here do, and gives
    (float32 (3, *crop), int64 (*crop)), without a crop of the scaled size. Random numbers come from torch's generator.

    Raises InputError for a crop below 1 pixel, a scale range that is empty or not positive, flip or jitter outside
    [0, 1].
    """
    if crop is not None and (len(crop) != 2 or min(crop) < 1):
        raise InputError(f"crop is {crop}; give (height, width) in pixels.")
    if not 0 < scale[0] <= scale[1]:
        raise InputError(f"scale range is {scale}; give (low, high) with 0 < low <= high.")
    if not (0 <= flip <= 1 and 0 <= jitter <= 1):
        raise InputError(f"flip is {flip} and jitter is {jitter}; both must be from 0 to 1.")
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    from prunekit.data.scaling import RandomScale

    fill = {tv_tensors.Image: tuple(round(255 * m) for m in MEAN), tv_tensors.Mask: IGNORE}
    return v2.Compose(
        [
            RandomScale(*scale),
            *([v2.RandomCrop(crop, pad_if_needed=True, fill=fill)] if crop is not None else []),
            v2.RandomHorizontalFlip(flip),
            v2.ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter),
            *_to_model(),
        ]
    )


def eval_transform() -> v2.Compose:
    """Only the normalisation, in the same form as `train_transform`."""
    from torchvision.transforms import v2

    return v2.Compose(_to_model())


def classify_transform(
    size: int, *, train: bool, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> v2.Compose:
    """Views of one picture for classification, (3, size, size): ImageNet's usual (Szegedy et al., CVPR 2015; timm).

    train: a random part of 8 to 100 % of its area, left-right flip. Else: the short side at 8/7 size, the middle.
    mean, std: what the network was trained with, timm's `model.pretrained_cfg` tells. Called with a tv_tensors.Image,
    uint8. Raises InputError for a size below 1.
    """
    if size < 1:
        raise InputError(f"size is {size} pixels; give at least 1.")
    from torchvision.transforms import v2

    if train:
        views = [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
    else:
        views = [v2.Resize(round(size * 8 / 7), antialias=True), v2.CenterCrop(size)]
    return v2.Compose([*views, *_to_model(mean, std)])


def _to_model(mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> list[v2.Transform]:
    """uint8 image -> normalised float32; mask -> int64."""
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    kinds = {tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}
    return [v2.ToDtype(kinds, scale=True), v2.Normalize(list(mean), list(std))]
