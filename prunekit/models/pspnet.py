"""PSPNet (Zhao et al., CVPR 2017, arXiv 1612.01105), over any timm backbone.

The deepest map is averaged over grids of 1x1, 2x2, 3x3 and 6x6 bins, each projected to a quarter of its channels,
resized back and put beside the map itself, so that every pixel sees the whole scene at four scales. In eval mode
`forward` returns logits (B, K, H, W) at the image's size; in training mode, with an auxiliary head on the map before,
it returns {"out": logits, "aux": logits}.

Published size: 46.71 M parameters and 190.43 G MACs at 513 x 513, for ResNet-50 and 21 classes. That is the authors'
variant: output stride 8, a stem of three 3x3 convolutions (64, 64, 128; timm's `resnet50s`), no auxiliary head.
`pspnet(21, aux=False)` has 46.72 M and 189.71 G, 0.4 % less; we count no norms, activations or resizing. The plain stem
(`resnet50`) gives 46.59 M and 182.57 G; the auxiliary head adds 2.37 M.

Legend: B = images, C = channels, K = classes, H W = image size, h w = size of the deepest map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from prunekit.models.backbone import Backbone


def conv_bn_relu(inputs: int, outputs: int, kernel: int = 1) -> nn.Sequential:
    """A same-size convolution, batch norm, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class PyramidPooling(nn.Module):
    """The map, and its means over bins x bins areas, side by side: C channels in, C + len(bins) * width out."""

    def __init__(self, inputs: int, width: int, bins: Sequence[int], *, align_corners: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [nn.Sequential(nn.AdaptiveAvgPool2d(side), conv_bn_relu(inputs, width)) for side in bins]
        )
        self.align_corners = align_corners

    def forward(self, x_BChw: Tensor) -> Tensor:
        size = x_BChw.shape[-2:]
        pooled = [branch(x_BChw) for branch in self.branches]
        spread = [interpolate(p, size, mode="bilinear", align_corners=self.align_corners) for p in pooled]
        return torch.cat([x_BChw, *spread], 1)


class PSPNet(nn.Module):
    """backbone: its last map feeds the pyramid; with aux=True the map before it feeds the auxiliary head.

    align_corners: how maps are resized. The authors' code says True, and cuts images to 8 n + 1 pixels for it.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        *,
        width: int = 512,
        bins: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
        aux: bool = False,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        deepest = backbone.channels[-1]
        branch = deepest // len(bins)
        self.backbone = backbone
        self.pyramid = PyramidPooling(deepest, branch, bins, align_corners=align_corners)
        self.fuse = nn.Sequential(conv_bn_relu(deepest + branch * len(bins), width, 3), nn.Dropout2d(dropout))
        self.classifier = nn.Conv2d(width, classes, 1)
        self.aux = _aux_head(backbone.channels[-2], classes) if aux else None
        self.align_corners = align_corners

    def forward(self, x_BCHW: Tensor) -> Tensor | dict[str, Tensor]:
        features = self.backbone(x_BCHW)
        size = x_BCHW.shape[-2:]
        out = self.classifier(self.fuse(self.pyramid(features[-1])))
        out = interpolate(out, size, mode="bilinear", align_corners=self.align_corners)
        if self.aux is None or not self.training:
            return out
        aux = interpolate(self.aux(features[-2]), size, mode="bilinear", align_corners=self.align_corners)
        return {"out": out, "aux": aux}


def _aux_head(inputs: int, classes: int) -> nn.Sequential:
    width = inputs // 4
    return nn.Sequential(conv_bn_relu(inputs, width, 3), nn.Dropout2d(0.1), nn.Conv2d(width, classes, 1))


def pspnet(
    classes: int, *, backbone: str = "resnet50s", output_stride: int = 8, aux: bool = True, pretrained: bool = False
) -> PSPNet:
    """The paper's size: ResNet-50 with the authors' stem, output stride 8, auxiliary head on stage 3.

    backbone: any timm ResNet, or a network with stages 0 .. 4 such as `mobilenetv2_100`. Train with at least two
    images a step: the 1x1 bin has one value per image and channel, too few for a batch norm's statistics.
    """
    taps = (2, 4) if backbone.startswith("mobilenet") else (3, 4)
    return PSPNet(Backbone(backbone, taps, output_stride, pretrained=pretrained), classes, aux=aux)


def pspnet_mini(classes: int = 12) -> PSPNet:
    """The course's network for 64 x 128 scenes: 0.5 M parameters, output stride 4."""
    body = Backbone("resnet10t", (3, 4), 8, keep_stem=False, channels=(24, 48, 64, 96), stem_width=24)
    return PSPNet(body, classes, width=96, dropout=0.1, aux=True)
