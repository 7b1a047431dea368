"""Feature extractors from timm, with the strides a segmenter wants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
from torch import Tensor, nn

from prunekit.errors import InputError


class Backbone(nn.Module):
    """A timm network that returns several feature maps, from shallow to deep.

    name: any timm model with features (`resnet50`, `mobilenetv2_100`, ...). taps: timm's `out_indices`. output_stride:
    image pixels per pixel of the deepest map; 8 and 16 turn late strides into dilations. keep_stem: False drops the
    max-pooling after a ResNet's stem, so that every map is twice as fine and thin objects survive; then output_stride
    means twice what comes out. Further keywords go to timm (`pretrained=True`, `channels=(...)`).
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __init__(
        self, name: str, taps: Sequence[int], output_stride: int = 16, *, keep_stem: bool = True, **timm_options: object
    ) -> None:
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise InputError(f"output_stride is 8, 16 or 32, got {output_stride}.")
        self.body: Any = timm.create_model(
            name,
            features_only=True,
            out_indices=tuple(taps),
            output_stride=output_stride,
            **timm_options,  # type: ignore[arg-type]
        )
        info = self.body.feature_info
        self.channels = tuple(info.channels())
        self.strides = tuple(info.reduction())
        if not keep_stem:
            if not hasattr(self.body, "maxpool"):
                raise InputError(f"'{name}' has no stem max-pooling to leave out; use keep_stem=True.")
            self.body.maxpool = nn.Identity()
            self.strides = tuple(stride // 2 for stride in self.strides)

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        return self.body(x_BCHW)
