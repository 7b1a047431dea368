"""What is minimised for segmentation, and how many labels a batch holds.

    L = CE(out) + aux_weight * sum of CE(a) over all other outputs a
    CE = sum over labelled pixels of -log p[label] / number of labelled pixels

One auxiliary head and its weight 0.4 are PSPNet's (Zhao et al., CVPR 2017); BiSeNet has two heads of weight 1 (Yu et
al., ECCV 2018). Legend: B images, K classes, H x W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prunekit.errors import DataError, InputError
from prunekit.metrics import check_labels, logits_of


def segmentation_loss(
    output: Any,
    target: Tensor,
    *,
    ignore: int | None = 255,
    aux_weight: float = 0.4,
    class_weight: Tensor | None = None,
) -> Tensor:
    """Cross-entropy over labelled pixels, a scalar.

    output: logits (B,K,h,w), or {"out": logits, "aux": logits, ...}, where everything beside "out" counts aux_weight;
    maps whose h,w differ from the target's are upsampled bilinearly. target: integers (B,H,W). class_weight: (K,)
    factors on each pixel's loss by its class, see `class_weights`; the sum is still divided by the number of labelled
    pixels. A batch in which all pixels are ignored gives 0 and zero gradients.
    Raises DataError for labels outside 0 .. K-1 that are not `ignore`, and for shapes that do not fit.
    """
    logits_BKHW = logits_of(output)
    if target.ndim != 3 or target.is_floating_point():
        raise DataError(f"mask is {target.dtype} {tuple(target.shape)}; class numbers (B, H, W) are needed.")
    if logits_BKHW.ndim != 4 or len(logits_BKHW) != len(target):
        raise DataError(f"logits {tuple(logits_BKHW.shape)} do not fit a mask (B, H, W) = {tuple(target.shape)}.")
    if class_weight is not None and class_weight.shape != logits_BKHW.shape[1:2]:
        raise InputError(f"class_weight is {tuple(class_weight.shape)}; one factor for each of the logits' classes.")
    valid_BHW = torch.ones_like(target, dtype=torch.bool) if ignore is None else target != ignore
    check_labels(target[valid_BHW], logits_BKHW.shape[1], "target", ignore)
    truth_BHW = target.long().masked_fill(~valid_BHW, -100)  # the value that cross_entropy leaves out
    pixels = valid_BHW.sum().clamp(min=1)
    loss = _sum_of_pixels(logits_BKHW, truth_BHW, class_weight) / pixels
    for aux_BKHW in _others(output, logits_BKHW) if aux_weight else ():
        loss = loss + aux_weight * _sum_of_pixels(aux_BKHW, truth_BHW, class_weight) / pixels
    return loss


def _others(output: Any, logits_BKHW: Tensor) -> list[Tensor]:
    """The auxiliary logits of an output, in order."""
    others = [(name, aux) for name, aux in output.items() if name != "out"] if isinstance(output, dict) else []
    for name, aux in others:
        if not isinstance(aux, Tensor) or aux.ndim != 4 or aux.shape[:2] != logits_BKHW.shape[:2]:
            what = tuple(aux.shape) if isinstance(aux, Tensor) else type(aux).__name__
            raise DataError(
                f"output {name!r} is {what}; beside 'out' {tuple(logits_BKHW.shape)} only logits of the same images "
                "and classes are summed: return no other, or pass your own loss_fn."
            )
    return [aux for _, aux in others]


def classification_loss(logits_BK: Tensor, target_B: Tensor) -> Tensor:
    """Cross-entropy of class numbers (B,), their mean. Raises DataError for labels that the logits do not have."""
    check_labels(target_B, logits_BK.shape[1], "target", None)
    return F.cross_entropy(logits_BK, target_B)


def class_weights(pixels_K: Tensor) -> Tensor:
    """Weights (K,) ~ 1 / sqrt(frequency), so that thin things are not drowned by roads and walls.

    pixels_K: how many pixels each class has in the training set, (K,). Scaled so that the mean weight of a pixel is 1;
    a class without pixels gets 0.
    """
    share_K = pixels_K.double() / pixels_K.sum()
    weight_K = torch.where(share_K > 0, share_K.clamp_min(1e-12).rsqrt(), 0.0)
    return (weight_K / (weight_K * share_K).sum()).float()


def valid_labels(target: Any) -> int:
    """How many labels of `target` a mean loss is a mean over; what weighs the parts of a step.

    Maps (B, ...): elements that are neither 255 nor negative. Class numbers (B,): those that are not negative.
    Anything else with a length: that length.
    """
    if isinstance(target, Tensor) and not target.is_floating_point() and target.ndim > 0:
        counted = (target >= 0) & (target != 255) if target.ndim > 1 else target >= 0
        return int(counted.sum())
    if isinstance(target, (Tensor, list, tuple)):
        return len(target)
    raise InputError(
        f"cannot count the labels of a {type(target).__name__}; pass count=, a function from a target to the number "
        "of labels its loss is the mean of."
    )


def _sum_of_pixels(logits_BKHW: Tensor, truth_BHW: Tensor, class_weight: Tensor | None) -> Tensor:
    if logits_BKHW.dtype in (torch.float16, torch.bfloat16):
        logits_BKHW = logits_BKHW.float()  # a sum over 10^6 pixels overflows in half precision
    if logits_BKHW.shape[2:] != truth_BHW.shape[1:]:
        logits_BKHW = F.interpolate(logits_BKHW, truth_BHW.shape[1:], mode="bilinear", align_corners=False)
    weight_K = class_weight.to(logits_BKHW) if class_weight is not None else None
    return F.cross_entropy(logits_BKHW, truth_BHW, weight_K, reduction="sum")
