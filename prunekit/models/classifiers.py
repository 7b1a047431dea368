"""Classifiers of the course, small enough to search: a ResNet of bottlenecks, a MobileNetV1, a DeiT.

`resnet_mini`, `mobilenet_mini`, `deit_mini`: images (B, 3, 32, 32) -> logits (B, K). Sources: He et al. (CVPR 2016),
Howard et al. (arXiv 1704.04861), Touvron et al. (ICML 2021). timm has the full ones: resnet50, mobilenetv1_100 and
deit_base_patch16_224.

Legend: B images, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class MobileNetV1(nn.Module):
    """A 3x3 convolution, then pairs of a depth-wise 3x3 and a 1x1, each with batch norm and ReLU.

    widths: output channels, the stem's first. strides: as many, of the stem and of each depth-wise convolution.
    """

    def __init__(self, widths: Sequence[int], strides: Sequence[int], classes: int) -> None:
        super().__init__()
        self.stem = _block(nn.Conv2d(3, widths[0], 3, strides[0], padding=1, bias=False))
        pairs = []
        for before, after, stride in zip(widths, widths[1:], strides[1:]):
            pairs.append(_block(nn.Conv2d(before, before, 3, stride, padding=1, groups=before, bias=False)))
            pairs.append(_block(nn.Conv2d(before, after, 1, bias=False)))
        self.body = nn.Sequential(*pairs)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x_BCHW)).mean((2, 3)))


def _block(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(inplace=True))


def mobilenet_mini(classes: int = 5) -> MobileNetV1:
    """13 pairs in the paper, 7 here."""
    return MobileNetV1((16, 32, 48, 48, 96, 96, 128, 128), (2, 1, 2, 1, 2, 1, 1, 1), classes)


def resnet_mini(classes: int = 5) -> nn.Module:
    """Eight bottlenecks, after a 3x3 stem of stride 2 without pooling."""
    from timm.models.resnet import Bottleneck, ResNet

    block: Any = Bottleneck
    model: Any = ResNet(block, (2, 2, 2, 2), num_classes=classes, channels=(8, 16, 24, 32))
    model.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def deit_mini(classes: int = 5) -> nn.Module:
    """Eight blocks of eight heads of eight channels, patches of 8 pixels: 17 tokens."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=8, num_heads=8, num_classes=classes)
