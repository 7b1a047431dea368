"""Lesson 01: recall, per-image mIoU, what halving the channels saves, the separable trade. Legend: K classes."""

from __future__ import annotations

import torch
from torch import Tensor

from prunekit import metrics
from prunekit.course.exercises import Exercise, Mistake
from prunekit.course.exercises.quiz_01 import QUIZ

__all__ = ["EXERCISES", "QUIZ"]


def recall(counts_KK):
    return counts_KK.diagonal() / counts_KK.sum(1)  # truth is in the rows


def _recall_cases() -> tuple[tuple[Tensor], ...]:
    first = torch.tensor([[8, 2, 0], [1, 4, 5], [0, 1, 3]])
    second = torch.tensor([[5, 0, 1, 0], [2, 9, 0, 1], [0, 0, 3, 4], [1, 2, 0, 2]])
    return (first,), (second,)


def _recall_by_loop(counts_KK):
    return torch.tensor([(row[i] / row.sum()).item() for i, row in enumerate(counts_KK)])


RECALL = Exercise(
    id="01.1",
    title="recall",
    reference=recall,
    cases=_recall_cases,
    hints=(
        "The pixels whose true class is i: do they stand in a row or in a column of the matrix?",
        "Hits are on the diagonal. All pixels of class i are the sum of row i.",
        "`counts_KK.diagonal()` divided by `counts_KK.sum(...)`: which dimension disappears when you sum a row?",
    ),
    mistakes=(
        Mistake(
            "precision",
            lambda counts_KK: counts_KK.diagonal() / counts_KK.sum(0),
            "that is precision: you summed over the wrong axis; dim=0 adds up the columns, and truth is in the rows",
        ),
        Mistake("IoU", metrics.iou_per_class, "that is IoU: recall leaves the false alarms out"),
        Mistake(
            "missed",
            lambda counts_KK: 1 - recall(counts_KK),
            "that is the part that was missed: recall is the part that was found",
        ),
        Mistake(
            "pixel accuracy",
            lambda counts_KK: counts_KK.diagonal().sum() / counts_KK.sum(),
            "that is pixel accuracy, one number for all classes: divide row by row",
        ),
        Mistake(
            "all pixels",
            lambda counts_KK: counts_KK.diagonal() / counts_KK.sum(),
            "you divided by all pixels: divide each class's hits by the pixels of that class",
        ),
        Mistake(
            "mean",
            lambda counts_KK: recall(counts_KK).mean(),
            "that is the mean over the classes: one number for each class is wanted",
        ),
        Mistake(
            "keepdim",
            lambda counts_KK: counts_KK.diagonal() / counts_KK.sum(1, keepdim=True),
            "the shapes spread out to (K, K): leave `keepdim` away, hits (K,) over rows (K,)",
        ),
    ),
    alternatives=(_recall_by_loop, lambda counts_KK: torch.einsum("ii,i->i", counts_KK.double(), 1 / counts_KK.sum(1))),
    note="Recall can be bought: call everything a pole and its recall is perfect. IoU counts the false alarms too.",
)


def per_image_miou(guesses, truths, classes):
    each = [metrics.confusion_matrix(g, t, classes) for g, t in zip(guesses, truths)]
    return sum(metrics.miou(counts) for counts in each) / len(each)


def _two_images() -> tuple[tuple[Tensor, Tensor, int], ...]:
    truths = torch.tensor([[[0, 0, 2, 0], [0, 0, 2, 0], [1, 1, 2, 1]], [[0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 255]]])
    guesses = torch.tensor([[[0, 0, 0, 2], [0, 0, 2, 0], [1, 1, 2, 0]], [[0, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]])
    return ((guesses, truths, 3),)


def _each(guesses, truths, classes) -> list[float]:
    return [metrics.miou(metrics.confusion_matrix(g, t, classes)) for g, t in zip(guesses, truths)]


def _per_class_N(guesses, truths, classes) -> Tensor:
    each = [metrics.iou_per_class(metrics.confusion_matrix(g, t, classes)) for g, t in zip(guesses, truths)]
    return torch.stack(each)  # (images, K), nan where a class is absent


def _by_mask(guesses, truths, classes):
    found = []
    for guess, truth in zip(guesses, truths):
        ious = []
        for k in range(classes):
            a, b = (guess == k) & (truth != 255), truth == k
            if (a | b).any():
                ious.append((a & b).sum() / (a | b).sum())
        found.append(torch.stack(ious).mean())
    return torch.stack(found).mean()


PER_IMAGE = Exercise(
    id="01.2",
    title="the mean of what?",
    reference=per_image_miou,
    cases=_two_images,
    hints=(
        "How many confusion matrices do you need for two images?",
        "One matrix for each image, `metrics.miou` of each, then the mean of those numbers.",
        "`zip(guesses, truths)` gives you the pairs; `metrics.confusion_matrix(g, t, classes)` counts one of them.",
    ),
    mistakes=(
        Mistake(
            "data set",
            lambda guesses, truths, classes: metrics.miou(metrics.confusion_matrix(guesses, truths, classes)),
            "that is the data set's mIoU: divide within each image first, then take the mean",
        ),
        Mistake(
            "zeros",
            lambda guesses, truths, classes: _per_class_N(guesses, truths, classes).nan_to_num(0).mean().item(),
            "a class that an image does not have counts as 0 in yours: leave it out, as `metrics.miou` does",
        ),
        Mistake(
            "classes last",
            lambda guesses, truths, classes: _per_class_N(guesses, truths, classes).nanmean(0).mean().item(),
            "you took the mean over images first, then over classes: first within an image",
        ),
        Mistake(
            "one by one",
            lambda guesses, truths, classes: _per_class_N(guesses, truths, classes).nanmean().item(),
            "all IoUs of all images are in one mean: an image with many classes then weighs more",
        ),
        Mistake(
            "list",
            _each,
            "those are the mIoUs of the images: now take their mean",
        ),
        Mistake(
            "not divided",
            lambda guesses, truths, classes: per_image_miou(guesses, truths, classes) * len(guesses),
            "you added the images' mIoUs up: divide by the number of images",
        ),
    ),
    alternatives=(
        _by_mask,
        lambda guesses, truths, classes: _per_class_N(guesses, truths, classes).nanmean(1).mean(),
    ),
    note="It is another number than the data set's mIoU, which papers report: a tiny object can move one image's mean "
    "a lot. Compare like with like.",
)


def remains(r):
    return (1 - r) ** 2, (1 - r) ** 2, 1 - r  # MACs, params, values written


REMAINS = Exercise(
    id="01.3",
    title="what will pruning save?",
    reference=remains,
    cases=lambda: ((0.5,), (0.25,)),
    hints=(
        "Which of the two channel counts, in and out, stand in each of the three formulas?",
        "A layer in the middle loses outputs because it is pruned, and inputs because its neighbour is.",
        "MACs and parameters contain c_in · c_out; values written are H · W · c_out. Put in (1 - r) for each c.",
    ),
    mistakes=(
        Mistake(
            "linear",
            lambda r: (1 - r, 1 - r, 1 - r),
            "the outputs shrink by that much, yes, but its inputs shrink too",
        ),
        Mistake(
            "all squared",
            lambda r: ((1 - r) ** 2,) * 3,
            "MACs and params are right; values written are H x W x c_out, with one channel count",
        ),
        Mistake(
            "params linear",
            lambda r: ((1 - r) ** 2, 1 - r, 1 - r),
            "params have both channel counts in their formula as well",
        ),
        Mistake(
            "MACs linear",
            lambda r: (1 - r, (1 - r) ** 2, 1 - r),
            "MACs have both channel counts in their formula as well",
        ),
        Mistake("what goes", lambda r: (1 - (1 - r) ** 2, 1 - (1 - r) ** 2, r), "that is what goes; what remains?"),
        Mistake(
            "r stays",
            lambda r: (r**2, r**2, r),
            "you took r for the part that stays; `ratio` is always the part that is removed",
        ),
    ),
    alternatives=(lambda r: [1 - 2 * r + r * r, 1 - 2 * r + r * r, 1 - r],),
    note="The arithmetic shrinks faster than the traffic. Keep that in mind for section 10.",
)


def separable_ratio(c, k):
    return (c * k**2 + c**2) / (c**2 * k**2)  # = 1 / c + 1 / k**2


SEPARABLE = Exercise(
    id="01.4",
    title="the separable trade",
    reference=separable_ratio,
    cases=lambda: ((16, 3), (64, 3), (64, 5)),
    hints=(
        "Write down the MACs of one output position: first for the dense layer, then for the two that replace it.",
        "Dense: c inputs, c outputs, k x k weights. Depth-wise: the same with one input each. 1x1: no k.",
        "Dense needs c² k², depth-wise c k², the 1x1 c². Add the last two and divide by the first.",
    ),
    mistakes=(
        Mistake("no 1x1", lambda c, k: 1 / c, "you left out the 1x1, which mixes channels"),
        Mistake("no depth-wise", lambda c, k: 1 / k**2, "you left out the depth-wise part"),
        Mistake("upside down", lambda c, k: 1 / separable_ratio(c, k), "turn it over: separable / dense"),
        Mistake("k once", lambda c, k: 1 / c + 1 / k, "a k x k kernel has k² weights, not k"),
        Mistake("saved", lambda c, k: 1 - separable_ratio(c, k), "that is the part that is saved: separable / dense"),
    ),
    alternatives=(lambda c, k: 1 / c + 1 / (k * k),),
    note="On paper that is nearly a ninth for a 3x3 layer. You have just seen how much of it the clock delivers.",
)

EXERCISES = (RECALL, PER_IMAGE, REMAINS, SEPARABLE)
