"""How good a label map is: confusion matrix, intersection over union, pixel accuracy. How good boxes are: AP.

    IoU_k = TP_k / (TP_k + FP_k + FN_k)      mIoU = the mean over the classes that occur

Counts are added over the whole data set before anything is divided (Everingham et al., IJCV 2015, section 4.3); the
mean of per-image IoUs is another number. Legend: B images, K classes, H x W pixels. Every matrix is (K, K) with the
truth in rows and the prediction in columns.

Average precision of boxes is COCO's (Lin et al., ECCV 2014): precision, made monotonic, at 101 levels of recall.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunekit.errors import DataError, InputError

if TYPE_CHECKING:
    from prunekit.models.ssd import Detections


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured. iou: one number a class, nan where the class is neither present nor predicted."""

    miou: float
    iou: tuple[float, ...]
    pixel_accuracy: float
    confusion: Tensor = field(repr=False, compare=False)  # (K, K) int64


def confusion_matrix(prediction: Tensor, target: Tensor, classes: int, *, ignore: int | None = 255) -> Tensor:
    """Count pixels by (true class, predicted class).

    prediction: logits (B, K, ...) or class numbers of the same shape as target. target: integers (B, ...); pixels
    equal to `ignore` count nowhere. Returns (K, K) int64 on target's device.
    Raises DataError for labels outside 0 .. K-1, for nan logits and for shapes that do not fit.
    """
    _check_classes(classes)
    _check_integers(target, "target")
    labels = _to_labels(prediction, target, classes)
    valid = torch.ones_like(target, dtype=torch.bool) if ignore is None else target != ignore
    true_N, guess_N = target[valid].long(), labels[valid].long()
    check_labels(true_N, classes, "target", ignore)
    check_labels(guess_N, classes, "prediction", ignore)
    return torch.bincount(true_N * classes + guess_N, minlength=classes * classes).view(classes, classes)


def iou_per_class(confusion: Tensor) -> Tensor:
    """(K, K) counts -> (K,) float64 in [0, 1]; nan for a class that is neither in the truth nor predicted."""
    hit_K = confusion.diagonal().double()
    union_K = confusion.sum(0) + confusion.sum(1) - hit_K
    return hit_K / union_K  # 0 / 0 = nan


def miou(confusion: Tensor) -> float:
    """Mean IoU over the classes that occur; nan when none does."""
    return iou_per_class(confusion).nanmean().item()


def pixel_accuracy(confusion: Tensor) -> float:
    """Fraction of labelled pixels that are right; nan when there are none."""
    return (confusion.diagonal().sum().double() / confusion.sum()).item()


def evaluate(
    model: nn.Module,
    loader: Iterable[Any],
    classes: int,
    *,
    ignore: int | None = 255,
    device: str | torch.device | None = None,
) -> Evaluation:
    """Score a segmentation model on (image (B,3,H,W), mask (B,H,W)) batches.

    The model runs in eval mode without gradients and is left as it was, training flags included. Its output may be
    logits or {"out": logits}; logits at a lower resolution than the mask are upsampled bilinearly, as in training.
    device: where to run; None = where the model is (elsewhere, a copy of the model runs).
    Raises DataError when the loader is empty or holds no labelled pixel, or a label is out of range.
    """
    _check_classes(classes)
    runner, where = place(model, device)
    total_KK = torch.zeros(classes, classes, dtype=torch.long, device=where)
    batches = 0
    with evaluating(runner):
        for image_BCHW, mask_BHW in loader:
            logits_BKHW = logits_of(runner(image_BCHW.to(where, non_blocking=True)))
            mask_BHW = mask_BHW.to(where, non_blocking=True)
            if logits_BKHW.shape[2:] != mask_BHW.shape[1:] and logits_BKHW.ndim == 4 and mask_BHW.ndim == 3:
                logits_BKHW = F.interpolate(logits_BKHW, mask_BHW.shape[1:], mode="bilinear", align_corners=False)
            total_KK += confusion_matrix(logits_BKHW, mask_BHW, classes, ignore=ignore)
            batches += 1
    if batches == 0:
        raise DataError("the loader gave no batch: is the data set empty, or drop_last=True with too few images?")
    if total_KK.sum() == 0:
        raise DataError(f"all pixels of the {batches} batches have the ignore label {ignore}; nothing can be measured.")
    total_KK = total_KK.cpu()
    return Evaluation(miou(total_KK), tuple(iou_per_class(total_KK).tolist()), pixel_accuracy(total_KK), total_KK)


def top1(model: nn.Module, loader: Iterable[Any], *, device: str | torch.device | None = None) -> float:
    """Fraction of images (B,3,H,W) whose largest logit (B,K) is that of their class number (B,); else as `evaluate`."""
    runner, where = place(model, device)
    right = seen = 0
    with evaluating(runner):
        for image_BCHW, label_B in loader:
            guess_B = logits_of(runner(image_BCHW.to(where, non_blocking=True))).argmax(1)
            right += int((guess_B == label_B.to(where)).sum())
            seen += len(label_B)
    if seen == 0:
        raise DataError("the loader gave no image: is the data set empty, or drop_last=True with too few images?")
    return right / seen


def average_precision(
    found: Sequence[Detections], truth: Sequence[tuple[Tensor, Tensor]], classes: int, *, overlap: float = 0.5
) -> tuple[float, ...]:
    """AP of each class in 0 .. 1, nan for one that no image holds; COCO's AP50 is the mean over the others.

    found: for each image what was detected. truth: for each image (boxes (M, 4) in pixels, labels (M,)). A detection
    is right when it overlaps an object of its class by at least `overlap` (intersection over union) that no better
    scored one has taken.
    """
    hits = [_hits(ours, boxes, labels, overlap) for ours, (boxes, labels) in zip(found, truth, strict=True)]
    score_N = torch.cat([ours.scores for ours in found])
    order_N = score_N.argsort(descending=True, stable=True)
    label_N, hit_N = torch.cat([ours.labels for ours in found])[order_N], torch.cat(hits)[order_N]
    objects_K = torch.bincount(torch.cat([labels for _, labels in truth]), minlength=classes)
    return tuple(_precision(hit_N[label_N == k], int(objects_K[k])) for k in range(classes))


def _hits(found: Detections, boxes: Tensor, labels: Tensor, overlap: float) -> Tensor:
    """Which detections of one image are right, bool (D,)."""
    from torchvision.ops import box_iou

    hit_D = torch.zeros(len(found.scores), dtype=torch.bool)
    iou_DM = box_iou(found.boxes, boxes) * (found.labels[:, None] == labels)
    for i in found.scores.argsort(descending=True, stable=True).tolist() if len(boxes) else ():
        best = int(iou_DM[i].argmax())
        if iou_DM[i, best] >= overlap:
            hit_D[i] = True
            iou_DM[:, best] = 0  # taken
    return hit_D


def _precision(hit_N: Tensor, objects: int) -> float:
    """Area under the precision-recall curve of detections in the order of their scores."""
    if not objects:
        return float("nan")
    right_N = hit_N.cumsum(0)
    best_N = (right_N / torch.arange(1, len(hit_N) + 1)).flip(0).cummax(0).values.flip(0)
    place = torch.searchsorted(100 * right_N, objects * torch.arange(101))  # in whole numbers: no level is rounded away
    return float(torch.cat([best_N, torch.zeros(1)])[place].mean())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients inside the block; afterwards every submodule has its own training flag back."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, flag in flags:
            module.training = flag  # not .train(flag), which would overwrite the flags of children


def place(model: nn.Module, device: str | torch.device | None) -> tuple[nn.Module, torch.device]:
    """The model itself, or a copy of it on `device` if that is elsewhere, and where it now is."""
    first = next((t for tensors in (model.parameters(), model.buffers()) for t in tensors), None)
    here = first.device if first is not None else torch.device("cpu")
    if device is None:
        return model, here
    try:
        there = torch.empty(0, device=device).device  # "cuda" -> cuda:0
    except (RuntimeError, AssertionError) as err:
        raise InputError(f"device {str(device)!r} cannot be used here ({str(err).splitlines()[0]}).") from err
    if there == here:
        return model, here
    return deepcopy(model).to(there), there


def logits_of(output: Any) -> Tensor:
    """The main logits of a model's output: a Tensor, or the entry "out" of a dict."""
    if isinstance(output, dict) and "out" in output:
        output = output["out"]
    if not isinstance(output, Tensor):
        raise InputError(f"the model returned {type(output).__name__}; a Tensor or {{'out': Tensor}} is needed.")
    return output


def check_labels(labels: Tensor, classes: int, what: str, ignore: int | None) -> None:
    """Raise DataError naming the first offending value unless all labels are in 0 .. classes - 1."""
    bad = labels[(labels < 0) | (labels >= classes)]
    if bad.numel():
        value = int(bad[0])
        kept = "nothing is ignored" if ignore is None else f"{ignore} is ignored"
        escape = f", or pass ignore={value} if it means 'not labelled'" if what == "target" else ""
        raise DataError(
            f"{what} holds the label {value} ({bad.numel()} times), outside 0..{classes - 1} ({kept}). "
            f"Map it to a class{escape}."
        )


def _to_labels(prediction: Tensor, target: Tensor, classes: int) -> Tensor:
    """Logits (B, K, ...) or labels (B, ...) -> labels shaped like target."""
    if prediction.shape == target.shape:
        _check_integers(prediction, "prediction")
        return prediction
    if prediction.ndim != target.ndim + 1 or prediction.shape[:1] + prediction.shape[2:] != target.shape:
        raise DataError(
            f"prediction {tuple(prediction.shape)} does not fit target {tuple(target.shape)}: expected logits "
            "(B, K, H, W) or labels (B, H, W) for labels (B, H, W). Resize the logits to the target first?"
        )
    if prediction.shape[1] != classes:
        raise DataError(f"logits have {prediction.shape[1]} channels for {classes} classes; pass the model's number.")
    if prediction.isnan().any():
        raise DataError("logits hold nan, so no class can be chosen: the model has diverged or its input holds nan.")
    return prediction.argmax(1)


def _check_integers(labels: Tensor, what: str) -> None:
    if labels.is_floating_point() or labels.is_complex():
        raise DataError(f"{what} has dtype {labels.dtype}; class numbers must be integers: .long() them.")


def _check_classes(classes: int) -> None:
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 1:
        raise InputError(f"classes is {classes!r}; pass how many there are, such as len(CLASSES).")
