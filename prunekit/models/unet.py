"""UNet (Ronneberger et al., MICCAI 2015, arXiv 1505.04597) with a timm network as its encoder.

From the deepest map up: resize to the size of the next shallower map, put that one beside it (the skip connection),
two 3x3 convolutions. A last block without a skip reaches the image's size, so thin objects stay thin. `forward`
returns logits (B, K, H, W) at the image's size, in training mode too: there is no auxiliary head.

The structure, and with the same weights the numbers, are those of `Unet` in segmentation_models_pytorch, the version
that users have: 14.33 M parameters with ResNet-18, 24.44 M with ResNet-34, 32.52 M with ResNet-50, for 21 classes.
Differs from the paper: padded convolutions, batch norms, resizing in place of transposed convolutions.

Legend: B = images, C = channels, K = classes, H W = image size, h w = size of the map at hand.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from prunekit.errors import InputError
from prunekit.models.backbone import Backbone

RESIZE = ("nearest", "bilinear")


def conv_bn_relu(inputs: int, outputs: int) -> nn.Sequential:
    """A same-size 3x3 convolution, batch norm, ReLU."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class UpBlock(nn.Module):
    """Resize to `size`, put the skip beside it if there is one, two convolutions."""

    def __init__(self, inputs: int, skip: int, outputs: int, resize: str) -> None:
        super().__init__()
        self.conv1 = conv_bn_relu(inputs + skip, outputs)
        self.conv2 = conv_bn_relu(outputs, outputs)
        self.resize = resize

    def forward(self, x_BChw: Tensor, skip_BCHW: Tensor | None, size: torch.Size) -> Tensor:
        x = interpolate(x_BChw, size, mode=self.resize)  # bilinear: align_corners=False
        return self.conv2(self.conv1(x if skip_BCHW is None else torch.cat([x, skip_BCHW], 1)))


class UNet(nn.Module):
    """backbone: all its maps are used. widths: channels of the decoder from the deepest block up, one for each map.

    Raises InputError when widths and maps do not match, or for an unknown way of resizing.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        *,
        widths: Sequence[int] = (256, 128, 64, 32, 16),
        resize: str = "nearest",
    ) -> None:
        super().__init__()
        if len(widths) != len(backbone.channels):
            raise InputError(f"the backbone returns {len(backbone.channels)} maps: give as many widths, not {widths}.")
        if resize not in RESIZE:
            raise InputError(f"resize is one of {', '.join(RESIZE)}, not {resize!r}.")
        skips = [*backbone.channels[-2::-1], 0]
        inputs = [backbone.channels[-1], *widths[:-1]]
        self.backbone = backbone
        self.blocks = nn.ModuleList([UpBlock(i, s, o, resize) for i, s, o in zip(inputs, skips, widths)])
        self.classifier = nn.Conv2d(widths[-1], classes, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        features = self.backbone(x_BCHW)
        skips, x = features[-2::-1], features[-1]
        for block, skip in zip(self.blocks, skips):
            x = block(x, skip, skip.shape[-2:])
        return self.classifier(self.blocks[-1](x, None, x_BCHW.shape[-2:]))


def unet(
    classes: int,
    *,
    backbone: str = "resnet34",
    taps: Sequence[int] = (0, 1, 2, 3, 4),
    resize: str = "nearest",
    pretrained: bool = False,
) -> UNet:
    """The usual size: decoder widths 256, 128, 64, 32, 16.

    backbone: any timm network with feature maps. taps: which of them; ResNets and MobileNets have five, of strides
    2 .. 32; ConvNeXt and Swin have four, (0, 1, 2, 3), of strides 4 .. 32, and then the last block enlarges four times.
    """
    body = Backbone(backbone, taps, 32, pretrained=pretrained)
    return UNet(body, classes, widths=(256, 128, 64, 32, 16)[: len(taps)], resize=resize)


def unet_mini(classes: int = 12) -> UNet:
    """The course's network for 64 x 128 scenes: 0.59 M parameters, maps of strides 2, 4, 8 and 16."""
    body = Backbone("resnet10t", (0, 1, 2, 3), 32, channels=(32, 64, 96, 96), stem_width=24)
    return UNet(body, classes, widths=(96, 48, 32, 24), resize="bilinear")
