"""Normalisation, and the transforms for training and scoring, on torchvision.transforms.v2 (imported when used)."""

from __future__ import annotations

import torch
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)  # ImageNet, RGB: what timm's backbones were trained with
STD = (0.229, 0.224, 0.225)


def _stat(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(3, 1, 1)


def normalize(image: Tensor) -> Tensor:
    """uint8 (..., 3, H, W) or float in [0, 1] -> float32, zero mean and unit variance over ImageNet."""
    x = image.float() / 255 if image.dtype == torch.uint8 else image
    return (x - _stat(MEAN, x)) / _stat(STD, x)


def denormalize(image: Tensor) -> Tensor:
    """Undo `normalize`: float (..., 3, H, W) -> float in [0, 1], clipped, for figures."""
    return (image * _stat(STD, image) + _stat(MEAN, image)).clamp(0, 1)
