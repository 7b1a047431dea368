"""SegFormer's decoder and sizes (Xie et al., arXiv 2105.15203). The decoder projects the encoder's four maps to one
width, brings them to the finest size and fuses them:

    fuse="concat"                      the paper: concatenate, 1x1, batch norm, ReLU
    fuse="sum", fuse_layer=True        add instead of concatenate (DynaSegFormer, arXiv 2111.09499), same layers after
    fuse="sum", fuse_layer=False       add, ReLU: the reading that gives DynaSegFormer's MACs

Legend: B = images, C D = channels, N = tokens, K = classes, H W = image, h w = a map.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from prunekit.errors import InputError
from prunekit.models.segformer.encoder import MiT, MixTransformer, to_map, to_tokens

_WIDE = (64, 128, 320, 512)
VARIANTS: dict[str, tuple[MiT, int]] = {  # name -> encoder, width of the decoder
    "b0": (MiT(), 256),
    "b1": (MiT(_WIDE, (2, 2, 2, 2)), 256),
    "b2": (MiT(_WIDE, (3, 4, 6, 3)), 768),
    "b3": (MiT(_WIDE, (3, 4, 18, 3)), 768),
    "b4": (MiT(_WIDE, (3, 8, 27, 3)), 768),
    "b5": (MiT(_WIDE, (3, 6, 40, 3)), 768),
}


class MLPDecoder(nn.Module):
    """The four maps -> logits at the finest map's size. See the module's docstring for `fuse` and `fuse_layer`."""

    def __init__(
        self, channels: tuple[int, ...], width: int, classes: int, fuse: str, fuse_layer: bool, dropout: float
    ) -> None:
        super().__init__()
        if fuse not in ("concat", "sum") or (fuse == "concat" and not fuse_layer):
            raise InputError(
                f"fuse={fuse!r}, fuse_layer={fuse_layer}: choose 'concat' (always with its layer) or 'sum'."
            )
        self.concatenate = fuse == "concat"
        inputs = width * len(channels) if self.concatenate else width
        self.project = nn.ModuleList([nn.Linear(c, width) for c in channels])
        self.fuse = nn.Conv2d(inputs, width, 1, bias=False) if fuse_layer else nn.Identity()
        self.norm = nn.BatchNorm2d(width) if fuse_layer else nn.Identity()
        self.act = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        size = maps[0].shape[-2:]
        same = []
        for project, x_BChw in zip(self.project, maps, strict=True):
            y_BDhw = to_map(project(to_tokens(x_BChw)), x_BChw.shape[-2:])
            same.append(interpolate(y_BDhw, size, mode="bilinear", align_corners=False))
        # coarse to fine, the order the published fuse weights expect
        x_BDhw = torch.cat(same[::-1], 1) if self.concatenate else sum(same[1:], same[0])
        return self.classifier(self.dropout(self.act(self.norm(self.fuse(x_BDhw)))))


class SegFormer(nn.Module):
    """encoder: gives four maps. width: of the decoder. In training and in eval mode the output is logits (B, K, H, W).

    `encoder(x)` gives the stage maps alone (what distillation compares), `logits(x)` the logits at the finest map's
    size, a quarter of the image for the published models.
    """

    def __init__(
        self,
        encoder: MixTransformer,
        classes: int,
        *,
        width: int = 256,
        fuse: Literal["concat", "sum"] = "concat",
        fuse_layer: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = MLPDecoder(encoder.channels, width, classes, fuse, fuse_layer, dropout)
        self.apply(_init)

    def logits(self, x_BCHW: Tensor) -> Tensor:
        return self.decoder(self.encoder(x_BCHW))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return interpolate(self.logits(x_BCHW), x_BCHW.shape[-2:], mode="bilinear", align_corners=False)


def _init(module: nn.Module) -> None:
    """The authors' start: narrow normals for linear layers, fan-out for convolutions, no biases."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
        nn.init.zeros_(module.bias)


def segformer(
    classes: int,
    *,
    variant: str = "b0",
    fuse: Literal["concat", "sum"] = "concat",
    fuse_layer: bool = True,
    drop_path: float = 0.1,
) -> SegFormer:
    """The paper's sizes, variant "b0" to "b5"; fresh weights (see from_transformers for published ones)."""
    if variant not in VARIANTS:
        raise InputError(f"no SegFormer {variant!r}; there are: {', '.join(VARIANTS)}.")
    sizes, width = VARIANTS[variant]
    encoder = MixTransformer(sizes, drop_path=drop_path)
    return SegFormer(encoder, classes, width=width, fuse=fuse, fuse_layer=fuse_layer)


def segformer_mini(
    classes: int = 12, *, fuse: Literal["concat", "sum"] = "concat", fuse_layer: bool = True
) -> SegFormer:
    """The course's network for 64 x 128 scenes: 0.7 M parameters, first embedding at stride 2 so that poles survive."""
    sizes = MiT((32, 48, 64, 88), heads=(2, 2, 4, 4), strides=(2, 2, 2, 2))
    encoder = MixTransformer(sizes, drop_path=0.0)
    return SegFormer(encoder, classes, width=64, fuse=fuse, fuse_layer=fuse_layer, dropout=0.0)
