"""A classifier over a segmenter's backbone: the mean of the deepest map, one linear layer (He et al., CVPR 2016).

    logits = A mean_hw(backbone(x)[-1]) + b

What a backbone is pre-trained as. Legend: B = images, C = channels, K = classes, H W = image size, h w = map size.
"""

from __future__ import annotations

from torch import Tensor, nn

from prunekit.models.backbone import Backbone


class Classifier(nn.Module):
    """backbone: its last map is what counts. forward: images (B, 3, H, W) -> logits (B, K)."""

    def __init__(self, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.channels[-1], classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        deepest_BChw = self.backbone(x_BCHW)[-1]
        return self.head(deepest_BChw.mean((2, 3)))
