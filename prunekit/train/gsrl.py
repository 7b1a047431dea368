"""GSRL, the geometric-semantic re-balanced loss (Wang et al., DCFP, TCSVT 2024; used by SIRFP too).

    loss = mean over images of  sum_p w_p CE_p / (sum_p w_p + 1e-8)
    w_p  = maxpool_kxk(class weight)_p * (1 + 9 (1 - (p1 - p2)))          0 for ignored pixels, no gradient
    class weight of class j in a crop drawn for class c:  (1 - b^n_c) / (1 - b^n_j), clipped to [0, 1],  b = 0.9999

Geometric: the max-pooling spreads a rare class's weight to what is around it, so borders count. Semantic: p1, p2 = the
main head's two largest probabilities of a pixel, so doubtful pixels count up to ten times. n_j = pixels of class j.
Legend: B images, K classes, H x W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prunekit.errors import DataError, InputError
from prunekit.metrics import check_labels, logits_of

BETA = 0.9999
DOUBT = 9.0


def gsrl_loss(output: Any, target: Any, *, window: int = 9, ignore: int = 255, aux_weight: float = 0.4) -> Tensor:
    """The loss above, a scalar; with an auxiliary head aux_weight times the same for its logits, same pixel weights.

    output: logits (B,K,h,w), or {"out": logits, "aux": logits}, upsampled to the target's size. target: {"mask":
    integers (B,H,W), "drawn": the class each crop was drawn for (B,)}, as `data.crops.BalancedCrops` gives. window: k,
    odd; 9 fits crops of 769 pixels, use 3 for the small scenes. For `finetune` with several processes or accumulate > 1
    pass count=lambda target: len(target["mask"]), since this is a mean over images.
    An image without labels gives 0. Raises DataError for targets of another form and labels out of range.
    """
    if not isinstance(target, dict) or not {"mask", "drawn"} <= target.keys():
        raise DataError(
            'gsrl_loss needs targets {"mask": ..., "drawn": ...}: make the loader from data.crops.BalancedCrops.'
        )
    if window < 1 or window % 2 == 0:
        raise InputError(f"window is {window}; it must be odd, so that it has a middle pixel.")
    mask_BHW, logits_BKHW = target["mask"].long(), _sized(logits_of(output), target["mask"])
    check_labels(mask_BHW[mask_BHW != ignore], logits_BKHW.shape[1], "target", ignore)
    with torch.no_grad():
        class_BHW = class_weights_of_crops(mask_BHW, target["drawn"], logits_BKHW.shape[1], ignore=ignore)
        spread_BHW = F.max_pool2d(class_BHW[:, None], window, stride=1, padding=window // 2)[:, 0]
        best_B2HW = logits_BKHW.softmax(1).topk(2, dim=1).values
        doubt_BHW = 1 - (best_B2HW[:, 0] - best_B2HW[:, 1])
        weight_BHW = (spread_BHW * (1 + DOUBT * doubt_BHW)).masked_fill(mask_BHW == ignore, 0.0)
    loss = _weighted(logits_BKHW, mask_BHW, weight_BHW, ignore)
    aux = output.get("aux") if isinstance(output, dict) else None
    if aux is not None and aux_weight:
        loss = loss + aux_weight * _weighted(_sized(aux, mask_BHW), mask_BHW, weight_BHW, ignore)
    return loss


def class_weights_of_crops(mask_BHW: Tensor, drawn_B: Tensor, classes: int, *, ignore: int = 255) -> Tensor:
    """(B,H,W) float: each pixel's class weight, relative to the class its crop was drawn for; 0 where ignored."""
    labels_BP = mask_BHW.flatten(1).masked_fill(mask_BHW.flatten(1) == ignore, classes)  # ignored: one class more
    first_B1 = torch.arange(len(labels_BP), device=labels_BP.device)[:, None] * (classes + 1)
    count_BK = torch.bincount((labels_BP + first_B1).flatten(), minlength=len(labels_BP) * (classes + 1))
    mass_BK = 1 - BETA ** count_BK.view(len(labels_BP), classes + 1).double()
    drawn_B1 = mass_BK.gather(1, drawn_B.to(labels_BP)[:, None])
    weight_BK = (drawn_B1 / mass_BK.clamp_min(1e-8)).clamp(0, 1).float()
    weight_BK[:, classes] = 0.0
    return weight_BK.gather(1, labels_BP).view(mask_BHW.shape)


def _weighted(logits_BKHW: Tensor, mask_BHW: Tensor, weight_BHW: Tensor, ignore: int) -> Tensor:
    loss_BHW = F.cross_entropy(logits_BKHW, mask_BHW, ignore_index=ignore, reduction="none")
    return ((loss_BHW * weight_BHW).sum((1, 2)) / (weight_BHW.sum((1, 2)) + 1e-8)).mean()


def _sized(logits_BKhw: Tensor, mask_BHW: Tensor) -> Tensor:
    if logits_BKhw.dtype in (torch.float16, torch.bfloat16):
        logits_BKhw = logits_BKhw.float()
    if logits_BKhw.shape[2:] == mask_BHW.shape[1:]:
        return logits_BKhw
    return F.interpolate(logits_BKhw, mask_BHW.shape[1:], mode="bilinear", align_corners=False)
