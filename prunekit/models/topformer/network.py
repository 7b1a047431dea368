"""TopFormer's modules and sizes (Zhang et al., CVPR 2022, arXiv 2204.05525).

Inverted residuals make a pyramid of four scales. All four are averaged down to one coarse grid and concatenated; a
transformer of 1x1 convolutions with batch norm works on those few tokens; its output is split by scale again and
injected into the three coarser maps as a gate and an offset:
    out_s = local_s * up(h_sigmoid(gate_s)) + up(offset_s),      local, gate, offset: 1x1 convolution and batch norm
The sum over scales, at the finest of them, goes through one 1x1 layer (depth-wise in the tiny model) to the classes.
Queries and keys meet unscaled, as in the authors' code: their batch norms set the temperature.

Attention is plain matrix products and a softmax, so that its map is a tensor to observe and exports as standard ops.
Heads are read from `num_heads`, the widths of the scales from the maps themselves.

Legend: B = images, C = channels, N = tokens = h w, n = heads, d e = positions of a head in keys and in values,
K = classes, H W = image, h w = a map, k l = the coarse grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, relu6

from prunekit.errors import InputError


@dataclass(frozen=True)
class TopFormerSizes:
    """blocks: (kernel, expansion, channels, stride) each. taps: the blocks whose outputs are the four scales."""

    blocks: tuple[tuple[int, int, int, int], ...]
    taps: tuple[int, ...]
    heads: int
    width: int
    depth: int = 4
    key_dim: int = 16
    value_ratio: int = 2
    mlp_ratio: int = 2
    depthwise_head: bool = False


def _pyramid(c4: int, c8: int, c16: int, c32: int) -> tuple[tuple[int, int, int, int], ...]:
    """The paper's nine blocks for the widths at 1/4, 1/8, 1/16 and 1/32."""
    quarter, eighth = ((3, 4, c4, 2), (3, 3, c4, 1)), ((5, 3, c8, 2), (5, 3, c8, 1))
    sixteenth, last = ((3, 3, c16, 2), (3, 3, c16, 1)), ((5, 6, c32, 2), (5, 6, c32, 1))
    return ((3, 1, 16, 1), *quarter, *eighth, *sixteenth, *last)


VARIANTS = {
    "base": TopFormerSizes((*_pyramid(32, 64, 128, 160), (3, 6, 160, 1)), (2, 4, 6, 9), heads=8, width=256),
    "small": TopFormerSizes((*_pyramid(24, 48, 96, 128), (3, 6, 128, 1)), (2, 4, 6, 9), heads=6, width=192),
    "tiny": TopFormerSizes(_pyramid(16, 32, 64, 96), (2, 4, 6, 8), heads=4, width=128, depthwise_head=True),
}


def conv_bn(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution without bias and a batch norm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class InvertedResidual(nn.Module):
    """Expand, depth-wise, project; with a shortcut where nothing changes its size. expansion=1 has no first layer."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = nn.Sequential(conv_bn(inputs, hidden), nn.ReLU()) if expansion > 1 else nn.Identity()
        self.depthwise = nn.Sequential(conv_bn(hidden, hidden, kernel, stride, hidden), nn.ReLU())
        self.project = conv_bn(hidden, outputs)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x_BChw: Tensor) -> Tensor:
        y_BChw = self.project(self.depthwise(self.expand(x_BChw)))
        return x_BChw + y_BChw if self.shortcut else y_BChw


class Attention(nn.Module):
    """Self-attention on a map; keys have `key_dim` positions a head, values `value_ratio` times as many."""

    def __init__(self, width: int, num_heads: int, key_dim: int, value_ratio: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        keys, values = num_heads * key_dim, num_heads * key_dim * value_ratio
        self.query = conv_bn(width, keys)
        self.key = conv_bn(width, keys)
        self.value = conv_bn(width, values)
        self.act = nn.ReLU6()
        self.project = conv_bn(values, width)

    def forward(self, x_BChw: Tensor) -> Tensor:
        q_BndN, k_BndN = self.heads(self.query(x_BChw)), self.heads(self.key(x_BChw))
        map_BnNN = (q_BndN.transpose(-2, -1) @ k_BndN).softmax(-1)
        y_BneN = self.heads(self.value(x_BChw)) @ map_BnNN.transpose(-2, -1)
        return self.project(self.act(y_BneN.flatten(1, 2).unflatten(2, x_BChw.shape[-2:])))

    def heads(self, x_BChw: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, n, d, N)"""
        return x_BChw.flatten(2).unflatten(1, (self.num_heads, -1))


class FFN(nn.Module):
    """1x1, depth-wise 3x3, ReLU6, 1x1."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = conv_bn(width, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.act = nn.ReLU6()
        self.fc2 = conv_bn(hidden, width)

    def forward(self, x_BChw: Tensor) -> Tensor:
        return self.fc2(self.act(self.depthwise(self.fc1(x_BChw))))


class Block(nn.Module):
    """Attention and FFN, each beside a shortcut; norms are batch norms inside them."""

    def __init__(self, width: int, sizes: TopFormerSizes, drop_path: float) -> None:
        super().__init__()
        self.attention = Attention(width, sizes.heads, sizes.key_dim, sizes.value_ratio)
        self.mlp = FFN(width, width * sizes.mlp_ratio)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x_BChw: Tensor) -> Tensor:
        x_BChw = x_BChw + self.drop_path(self.attention(x_BChw))
        return x_BChw + self.drop_path(self.mlp(x_BChw))


class Injection(nn.Module):
    """Coarse semantics into a finer map: a gate that multiplies and an offset that is added."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.local = conv_bn(inputs, width)
        self.gate = conv_bn(inputs, width)
        self.offset = conv_bn(inputs, width)

    def forward(self, fine_BChw: Tensor, coarse_BCkl: Tensor) -> Tensor:
        size = fine_BChw.shape[-2:]
        gate = interpolate(relu6(self.gate(coarse_BCkl) + 3) / 6, size, mode="bilinear", align_corners=False)
        offset = interpolate(self.offset(coarse_BCkl), size, mode="bilinear", align_corners=False)
        return self.local(fine_BChw) * gate + offset


class TopFormer(nn.Module):
    """forward: (B, 3, H, W) -> logits (B, K, H, W); `logits(x)` gives them at the second scale's size (1/8)."""

    def __init__(self, sizes: TopFormerSizes, classes: int, *, drop_path: float = 0.1, dropout: float = 0.1) -> None:
        super().__init__()
        self.taps = sizes.taps
        self.stem = nn.Sequential(conv_bn(3, 16, 3, 2), nn.ReLU())
        widths = (16, *(block[2] for block in sizes.blocks))
        self.pyramid = nn.ModuleList(
            [InvertedResidual(widths[i], c, k, s, t) for i, (k, t, c, s) in enumerate(sizes.blocks)]
        )
        scales = [widths[tap + 1] for tap in sizes.taps]
        drops = [drop_path * i / max(sizes.depth - 1, 1) for i in range(sizes.depth)]
        self.transformer = nn.Sequential(*[Block(sum(scales), sizes, drop) for drop in drops])
        self.inject = nn.ModuleList([Injection(scale, sizes.width) for scale in scales[1:]])
        groups = sizes.width if sizes.depthwise_head else 1
        self.fuse = nn.Sequential(conv_bn(sizes.width, sizes.width, groups=groups), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(sizes.width, classes, 1)
        self.apply(_init)
        nn.init.normal_(self.classifier.weight, std=0.01)

    def scales(self, x_BCHW: Tensor) -> list[Tensor]:
        """The pyramid's four maps, fine to coarse."""
        x_BChw, maps = self.stem(x_BCHW), []
        for i, block in enumerate(self.pyramid):
            x_BChw = block(x_BChw)
            if i in self.taps:
                maps.append(x_BChw)
        return maps

    def logits(self, x_BCHW: Tensor) -> Tensor:
        maps = self.scales(x_BCHW)
        height, width = maps[-1].shape[-2:]
        grid = ((height + 1) // 2, (width + 1) // 2)
        tokens = self.transformer(torch.cat([adaptive_avg_pool2d(x, grid) for x in maps], 1))
        parts = tokens.split([x.shape[1] for x in maps], 1)
        injected = [inject(x, part) for inject, x, part in zip(self.inject, maps[1:], parts[1:], strict=True)]
        total = injected[0]
        for x_BChw in injected[1:]:
            total = total + interpolate(x_BChw, total.shape[-2:], mode="bilinear", align_corners=False)
        return self.classifier(self.dropout(self.fuse(total)))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return interpolate(self.logits(x_BCHW), x_BCHW.shape[-2:], mode="bilinear", align_corners=False)


def _init(module: nn.Module) -> None:
    """The authors' start: fan-out for convolutions; attention adds nothing at first, its last norm scales by 0."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, Attention):
        nn.init.zeros_(module.project[1].weight)  # type: ignore[arg-type]


def topformer(classes: int, *, variant: str = "base", drop_path: float = 0.1) -> TopFormer:
    """The paper's sizes: "base", "small" or "tiny"; fresh weights (see from_original for published ones)."""
    if variant not in VARIANTS:
        raise InputError(f"no TopFormer {variant!r}; there are: {', '.join(VARIANTS)}.")
    return TopFormer(VARIANTS[variant], classes, drop_path=drop_path)


def topformer_mini(classes: int = 12) -> TopFormer:
    """The course's network for 64 x 128 scenes: 0.7 M parameters. The second scale is as fine as the first, 1/2."""
    fine = ((3, 1, 16, 1), (3, 4, 24, 1), (3, 3, 24, 1), (5, 3, 40, 1))
    sizes = TopFormerSizes((*fine, *_pyramid(24, 40, 56, 72)[4:]), (2, 4, 6, 8), heads=4, width=64, depth=2)
    return TopFormer(sizes, classes, drop_path=0.0, dropout=0.0)
