"""Multi-scale testing: what a network says of a picture at several sizes, and mirrored, averaged.

    p = mean over sizes s and mirrors m of  m^-1 resize(softmax(model(m(resize(x, s)))))

Papers report it beside the plain score: at the scales 0.5, 0.75 ... 1.75 with mirrors it costs about 20 times as much.

    evaluate(MultiScale(model), loader, classes)
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate

from prunekit.errors import InputError
from prunekit.metrics import logits_of

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


class MultiScale(nn.Module):
    """A segmenter that looks several times: images (B, 3, H, W) -> class probabilities (B, K, H, W).

    model: gives logits, or {"out": logits}; it is held, not copied. scales: factors of H and W, each rounded to pixels.
    flip: look at the mirrored picture too. Sizes are changed bilinearly. Raises InputError for no or impossible scales.
    """

    def __init__(self, model: nn.Module, scales: Sequence[float] = SCALES, *, flip: bool = True) -> None:
        super().__init__()
        if not scales or min(scales) <= 0:
            raise InputError(f"scales is {scales!r}; give at least one factor, all above 0, e.g. (0.5, 1.0, 1.5).")
        self.model, self.scales, self.flip = model, tuple(scales), flip

    def forward(self, x_BCHW: Tensor) -> Tensor:
        height, width = x_BCHW.shape[-2:]
        looks = []
        for scale in self.scales:
            size = (max(1, round(height * scale)), max(1, round(width * scale)))
            small = interpolate(x_BCHW, size, mode="bilinear", align_corners=False) if scale != 1 else x_BCHW
            looks.append(self._look(small, (height, width)))
            if self.flip:
                looks.append(self._look(small.flip(-1), (height, width)).flip(-1))
        return sum(looks[1:], looks[0]) / len(looks)

    def _look(self, x_BChw: Tensor, size: tuple[int, int]) -> Tensor:
        probability = logits_of(self.model(x_BChw)).softmax(1)
        return interpolate(probability, size, mode="bilinear", align_corners=False)
