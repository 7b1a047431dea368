"""BiSeNet (Yu et al., ECCV 2018, arXiv 1808.00897), the two-branch real-time network, over a timm ResNet.

A shallow spatial path of stride-2 convolutions keeps the borders; a context path, the ResNet, sees far. Attention
refinement modules weigh the channels of its two deepest maps, a global mean starts the way back up, and the feature
fusion module joins both paths. In eval mode `forward` returns logits (B, K, H, W) at the image's size. In training
mode, with auxiliary heads on the two refined maps, it returns {"out", "aux", "aux_deep"}: the paper's loss is the sum
of the cross-entropies of all three, that is `segmentation_loss` with aux_weight=1.

Published size: 12.89 M parameters and 104.27 G MACs at 2048 x 1024, for ResNet-18 and Cityscapes' 19 classes. That is
the authors' later code, whose last head is 64 wide (the auxiliary heads, 256 wide, are not counted): `bisenet(19,
aux=False)` has 12.89 M and 103.72 G, 0.5 % less; we count no norms, activations or resizing.
Differs: maps are resized with align_corners=False.

Legend: B = images, C = channels, K = classes, H W = image size, h w = size of the map at hand.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from prunekit.models.backbone import Backbone


def conv_bn_relu(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    """A convolution with half its kernel as padding, batch norm, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def resize(x_BChw: Tensor, size: torch.Size) -> Tensor:
    return interpolate(x_BChw, size, mode="bilinear", align_corners=False)


class AttentionRefinement(nn.Module):
    """A 3x3 convolution, then one factor in (0, 1) for each image and channel, from the map's mean."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = conv_bn_relu(inputs, outputs, 3)
        self.attention = nn.Sequential(nn.Conv2d(outputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x_BChw: Tensor) -> Tensor:
        x = self.conv(x_BChw)
        return x * self.attention(x.mean((2, 3), keepdim=True)).sigmoid()


class FeatureFusion(nn.Module):
    """Both paths side by side, mixed by a 1x1 convolution; x + x * factors, so that no channel is shut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mix = conv_bn_relu(inputs, outputs)
        squeeze, excite = nn.Conv2d(outputs, outputs, 1, bias=False), nn.Conv2d(outputs, outputs, 1, bias=False)
        self.attention = nn.Sequential(squeeze, nn.ReLU(inplace=True), excite, nn.Sigmoid())

    def forward(self, spatial_BChw: Tensor, context_BChw: Tensor) -> Tensor:
        x = self.mix(torch.cat([spatial_BChw, context_BChw], 1))
        return x + x * self.attention(x.mean((2, 3), keepdim=True))


class ContextPath(nn.Module):
    """backbone: its last two maps are refined from the deepest up. Returns (deeper, finer), each `width` wide."""

    def __init__(self, backbone: Backbone, width: int) -> None:
        super().__init__()
        finer, deeper = backbone.channels[-2:]
        self.backbone = backbone
        self.whole = conv_bn_relu(deeper, width)
        self.arm_deeper, self.arm_finer = AttentionRefinement(deeper, width), AttentionRefinement(finer, width)
        self.refine_deeper, self.refine_finer = conv_bn_relu(width, width, 3), conv_bn_relu(width, width, 3)

    def forward(self, x_BCHW: Tensor, size: torch.Size) -> tuple[Tensor, Tensor]:
        finer, deeper = self.backbone(x_BCHW)[-2:]
        deep = self.arm_deeper(deeper) + self.whole(deeper.mean((2, 3), keepdim=True))
        deep = self.refine_deeper(resize(deep, finer.shape[-2:]))
        return deep, self.refine_finer(resize(self.arm_finer(finer) + deep, size))


class BiSeNet(nn.Module):
    """backbone: the context path. spatial: width of the spatial path's `steps` stride-2 convolutions.

    width: of the refined maps; the fused map is twice as wide. head: width of the last head.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        *,
        spatial: int = 64,
        steps: int = 3,
        width: int = 128,
        head: int = 64,
        aux: bool = True,
    ) -> None:
        super().__init__()
        middle = [conv_bn_relu(spatial, spatial, 3, 2) for _ in range(steps - 1)]
        self.spatial = nn.Sequential(conv_bn_relu(3, spatial, 7, 2), *middle, conv_bn_relu(spatial, width))
        self.context = ContextPath(backbone, width)
        self.fusion = FeatureFusion(2 * width, 2 * width)
        self.classifier = _head(2 * width, head, classes)
        self.aux = _head(width, 2 * width, classes) if aux else None
        self.aux_deep = _head(width, 2 * width, classes) if aux else None

    def forward(self, x_BCHW: Tensor) -> Tensor | dict[str, Tensor]:
        size, spatial = x_BCHW.shape[-2:], self.spatial(x_BCHW)
        deeper, finer = self.context(x_BCHW, spatial.shape[-2:])
        out = resize(self.classifier(self.fusion(spatial, finer)), size)
        if self.aux is None or self.aux_deep is None or not self.training:
            return out
        return {"out": out, "aux": resize(self.aux(finer), size), "aux_deep": resize(self.aux_deep(deeper), size)}


def _head(inputs: int, width: int, classes: int) -> nn.Sequential:
    return nn.Sequential(conv_bn_relu(inputs, width, 3), nn.Conv2d(width, classes, 1))


def bisenet(classes: int, *, backbone: str = "resnet18", aux: bool = True, pretrained: bool = False) -> BiSeNet:
    """The paper's size: ResNet-18 to stride 32, spatial path to stride 8. Train with at least two images a step."""
    return BiSeNet(Backbone(backbone, (3, 4), 32, pretrained=pretrained), classes, aux=aux)


def bisenet_mini(classes: int = 12) -> BiSeNet:
    """The course's network for 64 x 128 scenes: 0.54 M parameters, paths of stride 4 and 16."""
    body = Backbone("resnet10t", (3, 4), 32, keep_stem=False, channels=(24, 32, 64, 96), stem_width=24)
    return BiSeNet(body, classes, spatial=32, steps=2, width=48, head=48)
