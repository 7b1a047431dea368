"""DeepLabV3 (Chen et al., arXiv 1706.05587) and DeepLabV3+ (Chen et al., ECCV 2018), over any timm backbone.

Atrous spatial pyramid pooling (ASPP) looks at the deepest map at several rates and at the whole image; V3+ adds one
shallow map for sharp borders. `deeplabv3` and `deeplabv3plus` build the paper's sizes, `deeplabv3_mini` the course's,
from the same classes. In eval mode `forward` returns logits (B, K, H, W) at the image's size; in training mode, with
an auxiliary head, it returns {"out": logits, "aux": logits}.

Legend: B = images, C = channels, K = classes, H W = image size, h w = size of the deepest map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from prunekit.models.backbone import Backbone


def conv_bn_relu(inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    """A same-size convolution, batch norm, ReLU."""
    pad = dilation * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, padding=pad, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def separable_bn_relu(inputs: int, outputs: int) -> nn.Sequential:
    """A 3x3 convolution in two steps, one for each channel and 1x1 over channels, then batch norm, ReLU."""
    depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
    pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
    return nn.Sequential(depthwise, pointwise, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class ImagePooling(nn.Module):
    """One vector for the whole image, spread over the map again."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.project = conv_bn_relu(inputs, outputs)

    def forward(self, x_BChw: Tensor) -> Tensor:
        pooled = self.project(x_BChw.mean((2, 3), keepdim=True))
        return interpolate(pooled, x_BChw.shape[-2:], mode="bilinear", align_corners=False)


class ASPP(nn.Module):
    """1x1, one 3x3 per rate, and the image's mean, side by side, then projected."""

    def __init__(self, inputs: int, width: int, rates: Sequence[int], dropout: float) -> None:
        super().__init__()
        atrous = [conv_bn_relu(inputs, width, 3, rate) for rate in rates]
        self.branches = nn.ModuleList([conv_bn_relu(inputs, width), *atrous, ImagePooling(inputs, width)])
        self.project = nn.Sequential(conv_bn_relu(width * (len(rates) + 2), width), nn.Dropout(dropout))

    def forward(self, x_BChw: Tensor) -> Tensor:
        return self.project(torch.cat([branch(x_BChw) for branch in self.branches], 1))


class _Segmenter(nn.Module):
    """What both versions share: an optional auxiliary head, and logits at the image's size."""

    backbone: Backbone
    aux: nn.Sequential | None

    def heads(self, features: list[Tensor]) -> Tensor:
        raise NotImplementedError

    def forward(self, x_BCHW: Tensor) -> Tensor | dict[str, Tensor]:
        features = self.backbone(x_BCHW)
        size = x_BCHW.shape[-2:]
        out = interpolate(self.heads(features), size, mode="bilinear", align_corners=False)
        if self.aux is None or not self.training:
            return out
        aux = interpolate(self.aux(features[-2]), size, mode="bilinear", align_corners=False)
        return {"out": out, "aux": aux}


def _aux_head(inputs: int, classes: int) -> nn.Sequential:
    width = inputs // 4
    return nn.Sequential(conv_bn_relu(inputs, width, 3), nn.Dropout(0.1), nn.Conv2d(width, classes, 1))


class DeepLabV3(_Segmenter):
    """backbone: its last map feeds ASPP; with aux=True the map before it feeds the auxiliary head.

    fuse: a 3x3 convolution between ASPP and classifier, as in torchvision. Without it ResNet-101 at output stride 16
    has the 58.04 M parameters that papers print.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        *,
        width: int = 256,
        rates: Sequence[int] = (12, 24, 36),
        dropout: float = 0.5,
        aux: bool = False,
        fuse: bool = True,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.aspp = ASPP(backbone.channels[-1], width, rates, dropout)
        self.fuse = conv_bn_relu(width, width, 3) if fuse else nn.Identity()
        self.classifier = nn.Conv2d(width, classes, 1)
        self.aux = _aux_head(backbone.channels[-2], classes) if aux else None

    def heads(self, features: list[Tensor]) -> Tensor:
        return self.classifier(self.fuse(self.aspp(features[-1])))


class DeepLabV3Plus(_Segmenter):
    """backbone: its first map gives the borders, its last one feeds ASPP.

    separable: the decoder's two 3x3 convolutions are depth-wise separable.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        *,
        width: int = 256,
        low: int = 48,
        rates: Sequence[int] = (12, 24, 36),
        dropout: float = 0.5,
        aux: bool = False,
        separable: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.aspp = ASPP(backbone.channels[-1], width, rates, dropout)
        self.low = conv_bn_relu(backbone.channels[0], low)
        self.fuse = nn.Sequential(
            separable_bn_relu(width + low, width) if separable else conv_bn_relu(width + low, width, 3),
            separable_bn_relu(width, width) if separable else conv_bn_relu(width, width, 3),
        )
        self.classifier = nn.Conv2d(width, classes, 1)
        self.aux = _aux_head(backbone.channels[-2], classes) if aux else None

    def heads(self, features: list[Tensor]) -> Tensor:
        low = self.low(features[0])
        deep = interpolate(self.aspp(features[-1]), low.shape[-2:], mode="bilinear", align_corners=False)
        return self.classifier(self.fuse(torch.cat([deep, low], 1)))


def deeplabv3(
    classes: int,
    *,
    backbone: str = "resnet50",
    output_stride: int = 8,
    aux: bool = True,
    fuse: bool = True,
    pretrained: bool = False,
) -> DeepLabV3:
    """The paper's size: ResNet-50 or -101, ASPP rates 12, 24, 36 at output stride 8 (half of them at 16)."""
    taps = (2, 4) if backbone.startswith("mobilenet") else (3, 4)
    body = Backbone(backbone, taps, output_stride, pretrained=pretrained)
    return DeepLabV3(body, classes, rates=_rates(output_stride), aux=aux, fuse=fuse)


def deeplabv3plus(
    classes: int,
    *,
    backbone: str = "resnet50",
    output_stride: int = 16,
    lite: bool = False,
    aux: bool = False,
    pretrained: bool = False,
) -> DeepLabV3Plus:
    """The paper's size; works with ResNet and MobileNetV2 (`mobilenetv2_100`) backbones alike.

    lite: the authors' choice for MobileNets, ASPP without its 3x3 branches and a separable decoder. On MobileNetV2 it
    has the 2.26 M parameters that papers print for 19 classes.
    """
    body = Backbone(backbone, (1, 3, 4), output_stride, pretrained=pretrained)
    rates = () if lite else _rates(output_stride)
    return DeepLabV3Plus(body, classes, rates=rates, aux=aux, separable=lite)


def _rates(output_stride: int) -> tuple[int, ...]:
    return tuple(rate * 8 // output_stride for rate in (12, 24, 36))


def deeplabv3_mini(classes: int = 12) -> DeepLabV3:
    """The course's network for 64 x 128 scenes: 0.6 M parameters, output stride 4, wide enough to have redundancy."""
    body = Backbone("resnet10t", (3, 4), 8, keep_stem=False, channels=(24, 48, 64, 96), stem_width=24)
    return DeepLabV3(body, classes, width=64, rates=(2, 4, 8), dropout=0.1, aux=True)


def deeplabv3plus_mini(classes: int = 12) -> DeepLabV3Plus:
    """The course's MobileNetV2 for 64 x 128 scenes: 0.5 M parameters, half the width, the light decoder.

    Its second stage does not halve the map, so that borders come from maps at 1/2 and the deepest one is at 1/8.
    """
    body = Backbone("mobilenetv2_050", (1, 3, 4), 16)
    body.body.blocks[1][0].conv_dw.stride = (1, 1)
    body.strides = tuple(stride // 2 for stride in body.strides)
    return DeepLabV3Plus(body, classes, width=64, low=24, rates=(), dropout=0.1, separable=True)
