"""SSD (Liu et al., ECCV 2016, arXiv 1512.02325), one-shot detection, with the common ResNet-50 in place of VGG.

The network proper takes images and returns raw numbers for a fixed set of default boxes: offsets (B, N, 4) and class
logits (B, N, 1 + classes), 0 = background. It has no data-dependent step, so it can be exported and pruned; what needs
such steps stands beside it: `detect` (decoding, non-maximum suppression, from torchvision) and `ssd_loss` (matching,
hard negative mining). `default_boxes(model, size)` gives the N boxes both need.

`ssd300_resnet50` is the variant of NVIDIA's and torchvision's examples: ResNet-50 up to conv4 with stride 1 and no
dilation there, five extra stages with batch norms, maps of 38, 19, 10, 5, 3, 1 pixels at 300 x 300, N = 8732.
With COCO's 80 classes: 22.89 M parameters and 20.15 G MACs at 300 x 300.

Legend: B = images, C = channels, N = default boxes, A = default boxes per pixel, boxes = x0 y0 x1 y1 in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, smooth_l1_loss

from prunekit.errors import InputError
from prunekit.models.backbone import Backbone

CODE = (10.0, 10.0, 5.0, 5.0)  # offsets of centre and size are scaled by these before the loss
Target = tuple[Tensor, Tensor]  # boxes (M, 4), labels (M,) from 0; both may be empty
Output = tuple[Tensor, Tensor]  # offsets (B, N, 4), logits (B, N, 1 + classes)


def conv_bn_relu(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, padding: int = 0) -> nn.Sequential:
    """A convolution, batch norm, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class SSD(nn.Module):
    """backbone: its last map is the finest one. extras: (middle, outputs, stride) of each further stage.

    A stage of stride 2 halves the map; one of stride 1 has no padding and takes two pixels off. ratios: for each map,
    the aspect ratios of its default boxes beside 1 (each stands for itself and its inverse; 1 comes in two sizes).
    scales: box sizes, one for each map and one more, as fractions of the image's shorter side.
    Raises InputError when extras, ratios and scales do not match.
    """

    def __init__(
        self,
        backbone: Backbone,
        extras: Sequence[tuple[int, int, int]],
        classes: int,
        *,
        ratios: Sequence[Sequence[float]],
        scales: Sequence[float],
    ) -> None:
        super().__init__()
        widths = [backbone.channels[-1], *(outputs for _, outputs, _ in extras)]
        if not len(widths) == len(ratios) == len(scales) - 1:
            raise InputError(
                f"{len(widths)} maps need as many lists of ratios and one more scale, got {len(ratios)}, {len(scales)}."
            )
        if any(stride not in (1, 2) for _, _, stride in extras):
            raise InputError(f"a further stage has stride 1 or 2, got {[stride for _, _, stride in extras]}.")
        self.ratios, self.scales, self.labels = tuple(map(tuple, ratios)), tuple(scales), 1 + classes
        self.strides = tuple(stride for _, _, stride in extras)
        self.backbone = backbone
        stages = [_stage(inputs, *spec) for inputs, spec in zip(widths, extras)]
        boxes = [2 + 2 * len(r) for r in self.ratios]  # A of each map
        self.extras = nn.ModuleList(stages)
        self.offsets = nn.ModuleList([nn.Conv2d(w, a * 4, 3, padding=1) for w, a in zip(widths, boxes)])
        self.logits = nn.ModuleList([nn.Conv2d(w, a * self.labels, 3, padding=1) for w, a in zip(widths, boxes)])
        for layer in (self.extras, self.offsets, self.logits):
            layer.apply(_xavier)

    def maps(self, x_BCHW: Tensor) -> list[Tensor]:
        """The feature maps that predict, finest first."""
        maps = [self.backbone(x_BCHW)[-1]]
        for stage in self.extras:
            maps.append(stage(maps[-1]))
        return maps

    def forward(self, x_BCHW: Tensor) -> Output:
        maps = self.maps(x_BCHW)
        offsets = [_per_box(head(m), 4) for head, m in zip(self.offsets, maps)]
        logits = [_per_box(head(m), self.labels) for head, m in zip(self.logits, maps)]
        return torch.cat(offsets, 1), torch.cat(logits, 1)


def _stage(inputs: int, middle: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(conv_bn_relu(inputs, middle), conv_bn_relu(middle, outputs, 3, stride, padding=stride - 1))


def _xavier(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d):
        nn.init.xavier_uniform_(layer.weight)


def _per_box(x_BChw: Tensor, values: int) -> Tensor:
    """(B, A * values, h, w) -> (B, h * w * A, values)"""
    return x_BChw.permute(0, 2, 3, 1).reshape(x_BChw.shape[0], -1, values)


def default_boxes(model: SSD, size: tuple[int, int]) -> Tensor:
    """The default boxes (N, 4) of a model for images of (H, W) = size, in the order of its outputs, on its device.

    On square images these are torchvision's DefaultBoxGenerator's; on others that one stretches the boxes, this does
    not. Sizes beyond the image's are cut to it.
    """
    boxes = []
    for k, (rows, cols) in enumerate(_grids(model, size)):
        y, x = (torch.arange(rows) + 0.5) * size[0] / rows, (torch.arange(cols) + 0.5) * size[1] / cols
        centre = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[:, :, None]  # (h, w, 1, 2)
        half = torch.tensor(_sizes(model, k, size)) / 2  # (A, 2)
        boxes.append(torch.cat([centre - half, centre + half], -1).reshape(-1, 4))
    return torch.cat(boxes).to(next(model.parameters()))


def _grids(model: SSD, size: tuple[int, int]) -> list[list[int]]:
    """(rows, columns) of each map, by the arithmetic of padded stride-2 and unpadded stride-1 convolutions."""
    grids = [[ceil(side / model.backbone.strides[-1]) for side in size]]
    for stride in model.strides:
        grids.append([ceil(side / 2) if stride == 2 else side - 2 for side in grids[-1]])
    return grids


def _sizes(model: SSD, k: int, size: tuple[int, int]) -> list[tuple[float, float]]:
    """(width, height) in pixels of the default boxes of map k."""
    this, following = model.scales[k : k + 2]
    pairs = [(this, this), (sqrt(this * following),) * 2]
    for ratio in map(sqrt, model.ratios[k]):
        pairs += [(this * ratio, this / ratio), (this / ratio, this * ratio)]
    return [(min(w * min(size), size[1]), min(h * min(size), size[0])) for w, h in pairs]


@dataclass(frozen=True)
class Detections:
    """What was found in one image, best first: boxes (M, 4) in pixels, labels (M,) from 0, scores (M,) in 0 .. 1."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor


@torch.no_grad()
def detect(
    output: Output,
    defaults_N4: Tensor,
    size: tuple[int, int],
    *,
    score: float = 0.01,
    overlap: float = 0.45,
    candidates: int = 400,
    limit: int = 200,
) -> list[Detections]:
    """Boxes for each image, from the model's raw output.

    size: (H, W) of the images. score: the lowest that counts. overlap: of two boxes of a class with more
    intersection over union than this, the better one stays. candidates: the best of each class that enter that
    contest; limit: how many boxes an image keeps.
    """
    from torchvision.models.detection._utils import BoxCoder
    from torchvision.ops import batched_nms, clip_boxes_to_image

    found = []
    for offsets_N4, logits_NK in zip(*output):
        boxes = clip_boxes_to_image(BoxCoder(CODE).decode_single(offsets_N4, defaults_N4), size)
        scores, index = logits_NK.softmax(-1)[:, 1:].topk(min(candidates, len(boxes)), dim=0)
        labels = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
        good = scores > score
        boxes, scores, labels = boxes[index[good]], scores[good], labels[good]
        keep = batched_nms(boxes, scores, labels, overlap)[:limit]
        found.append(Detections(boxes[keep], labels[keep], scores[keep]))
    return found


def ssd_loss(
    output: Output, targets: Sequence[Target], defaults_N4: Tensor, *, overlap: float = 0.5, negatives: int = 3
) -> Tensor:
    """Smooth L1 of the matched boxes' offsets plus cross-entropy, a scalar: the sum over matched boxes / their number.

    targets: for each image (boxes (M, 4) in pixels, labels (M,) from 0). A default box matches the object it overlaps
    most, if by at least `overlap`; every object gets its best default box besides. Of the unmatched ones only the
    worst count as background, `negatives` for each matched one. Raises InputError for an empty box, or a label that
    the model does not have.
    """
    offsets_BN4, logits_BNK = output
    label_BN = torch.zeros(logits_BNK.shape[:2], dtype=torch.long, device=logits_BNK.device)
    box_loss = offsets_BN4.new_zeros(())
    for i, (boxes, labels) in enumerate(targets):
        _check_target(i, boxes, labels, logits_BNK.shape[-1] - 1)
        if len(boxes):
            match_N = _match(boxes.to(defaults_N4), defaults_N4, overlap)
            found = match_N >= 0
            wanted = _encode(boxes.to(defaults_N4)[match_N[found]], defaults_N4[found])
            box_loss = box_loss + smooth_l1_loss(offsets_BN4[i, found], wanted, reduction="sum")
            label_BN[i, found] = labels.to(label_BN)[match_N[found]] + 1
    class_BN = cross_entropy(logits_BNK.flatten(0, 1), label_BN.flatten(), reduction="none").view_as(label_BN)
    matched = label_BN > 0
    # the rank of each unmatched box by loss, worst first
    rank = class_BN.detach().masked_fill(matched, -1).argsort(1, descending=True).argsort(1)
    counted = matched | (rank < negatives * matched.sum(1, keepdim=True))
    return (box_loss + class_BN[counted].sum()) / matched.sum().clamp(min=1)


def _check_target(image: int, boxes: Tensor, labels: Tensor, classes: int) -> None:
    if len(boxes) != len(labels):
        raise InputError(f"image {image} has {len(boxes)} boxes and {len(labels)} labels.")
    if len(boxes) and not (boxes[:, 2:] > boxes[:, :2]).all():
        raise InputError(f"image {image} has a box without area; boxes are x0, y0, x1, y1 with x0 < x1, y0 < y1.")
    if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise InputError(f"image {image} has a label outside 0 .. {classes - 1}, the model's classes.")


def _match(boxes_M4: Tensor, defaults_N4: Tensor, overlap: float) -> Tensor:
    """(N,) the object of each default box, negative where there is none."""
    from torchvision.models.detection._utils import SSDMatcher
    from torchvision.ops import box_iou

    return SSDMatcher(overlap)(box_iou(boxes_M4, defaults_N4))


def _encode(boxes_N4: Tensor, defaults_N4: Tensor) -> Tensor:
    from torchvision.models.detection._utils import BoxCoder

    return BoxCoder(CODE).encode_single(boxes_N4, defaults_N4)


def ssd300_resnet50(classes: int, *, pretrained: bool = False) -> SSD:
    """The usual size, for images of 300 x 300; `pretrained` fetches the backbone's weights."""
    body = Backbone("resnet50", (3,), 8, pretrained=pretrained)
    for layer in body.modules():
        if isinstance(layer, nn.Conv2d) and layer.dilation != (1, 1):  # timm keeps the stride's reach by dilation
            layer.dilation, layer.padding = (1, 1), (1, 1)
    extras = [(256, 512, 2), (256, 512, 2), (128, 256, 2), (128, 256, 1), (128, 256, 1)]
    ratios = [(2,), (2, 3), (2, 3), (2, 3), (2,), (2,)]
    return SSD(body, extras, classes, ratios=ratios, scales=(0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05))


def ssd_mini(classes: int = 12) -> SSD:
    """The course's network for 64 x 128 scenes: 0.55 M parameters, maps of strides 4, 8, 16 and 32."""
    body = Backbone("resnet10t", (3,), 8, keep_stem=False, channels=(24, 48, 80, 80), stem_width=24)
    extras = [(40, 80, 2), (40, 80, 2), (40, 80, 2)]
    return SSD(body, extras, classes, ratios=[(2, 3)] * 4, scales=(0.09, 0.18, 0.36, 0.6, 0.9))
