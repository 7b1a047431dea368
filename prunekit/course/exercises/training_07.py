"""Lesson 07: how the gates close, and what the teacher adds to the loss. B images, K classes."""

from __future__ import annotations

import torch
from torch import Tensor

from prunekit.course.exercises import Exercise, Mistake


def _random(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def annealed(step, total, sparsity, neurons):
    now = sparsity * min(1, step / total)
    return round(neurons * (1 - now))


ANNEALED = Exercise(
    id="07.3",
    title="how many stay at step t",
    reference=annealed,
    cases=lambda: (
        (25, 100, 0.5, 64),
        (300, 100, 0.75, 32),
        (0, 10, 0.5, 8),
        (1, 3, 0.5, 10),
        (2, 3, 0.5, 10),
    ),
    hints=(
        "The sparsity rises on a straight line and stops at its end: `min(1, step / total)`.",
        "What stays is the rest: the share `1 - now` of all neurons.",
        "`round(...)`, because half a neuron cannot be kept.",
    ),
    mistakes=(
        Mistake(
            "what goes",
            lambda step, total, sparsity, neurons: round(neurons * sparsity * min(1, step / total)),
            "that is how many go; asked is how many stay",
        ),
        Mistake(
            "without an end",
            lambda step, total, sparsity, neurons: round(neurons * (1 - sparsity * step / total)),
            "after `total` steps the sparsity stays where it is: `min(1, step / total)`",
        ),
        Mistake(
            "at once",
            lambda step, total, sparsity, neurons: round(neurons * (1 - sparsity)),
            "that is the end; at step 0 all stay, and then it falls slowly",
        ),
        Mistake(
            "backwards",
            lambda step, total, sparsity, neurons: round(neurons * (1 - sparsity * max(0, 1 - step / total))),
            "that starts with the full sparsity and takes it back",
        ),
        Mistake(
            "half again",
            lambda step, total, sparsity, neurons: annealed(step, total / 2, sparsity, neurons),
            "`total` is T, the steps over which the gates close; it is half of the training already",
        ),
        Mistake(
            "kept share",
            lambda step, total, sparsity, neurons: annealed(step, total, 1 - sparsity, neurons),
            "`sparsity` is the fraction that goes in the end, not the one that stays",
        ),
        Mistake(
            "cut off",
            lambda step, total, sparsity, neurons: int(neurons * (1 - sparsity * min(1, step / total))),
            "to the nearest whole number: `int` and `//` cut off what is behind the point",
        ),
        Mistake(
            "not rounded",
            lambda step, total, sparsity, neurons: neurons * (1 - sparsity * min(1, step / total)),
            "part of a neuron cannot be kept: `round(...)`",
        ),
    ),
    alternatives=(
        lambda step, total, sparsity, neurons: int(neurons - neurons * sparsity * min(step, total) / total + 0.5),
    ),
    note="In the paper the first half of the training anneals, and the second lives with the result.",
)


def soft_cross_entropy(student, teacher):
    wanted = teacher.softmax(1)
    return -(wanted * student.log_softmax(1)).sum(1).mean()


SOFT = Exercise(
    id="07.4",
    title="soft cross-entropy",
    reference=soft_cross_entropy,
    cases=lambda: ((_random(3, 4), _random(3, 4, seed=1)), (_random(2, 5, seed=2), _random(2, 5, seed=3))),
    hints=(
        "Plain cross-entropy: minus the log probability of one class. Here every class counts, by the teacher's share.",
        "The teacher's shares are `teacher.softmax(1)`, the student's log probabilities `student.log_softmax(1)`.",
        "Multiply, add up over the classes, take the mean over the images, and mind the sign.",
    ),
    mistakes=(
        Mistake(
            "exchanged",
            lambda student, teacher: soft_cross_entropy(teacher, student),
            "the teacher's is the logarithm here: it should give the shares, and the student the logarithms",
        ),
        Mistake(
            "hard",
            lambda student, teacher: torch.nn.functional.cross_entropy(student, teacher.argmax(1)),
            "that keeps the teacher's first choice only; how sure it was of the others is what it can teach",
        ),
        Mistake(
            "sign",
            lambda student, teacher: -soft_cross_entropy(student, teacher),
            "logarithms of probabilities are negative: a minus makes it a loss",
        ),
        Mistake(
            "over images",
            lambda student, teacher: -(teacher.softmax(0) * student.log_softmax(0)).sum(1).mean(),
            "the classes are dim 1: each image's shares add up to 1",
        ),
        Mistake(
            "mean over classes",
            lambda student, teacher: -(teacher.softmax(1) * student.log_softmax(1)).mean(),
            "add up over the classes; the mean is over the images alone",
        ),
        Mistake(
            "sum over images",
            lambda student, teacher: -(teacher.softmax(1) * student.log_softmax(1)).sum(),
            "you added up the images, too: twice the batch would be twice the loss. Take the mean over them",
        ),
        Mistake(
            "divergence",
            lambda student, teacher: torch.nn.functional.kl_div(
                student.log_softmax(1), teacher.softmax(1), reduction="batchmean"
            ),
            "that is the KL divergence: the cross-entropy less the teacher's entropy. Same slope, but not this number",
        ),
        Mistake(
            "logits",
            lambda student, teacher: -(teacher * student.log_softmax(1)).sum(1).mean(),
            "logits are no shares: `teacher.softmax(1)`",
        ),
    ),
    alternatives=(
        lambda student, teacher: torch.nn.functional.cross_entropy(student, teacher.softmax(1)),
        lambda student, teacher: (
            (teacher.softmax(1) * (student.logsumexp(1, keepdim=True) - student)).sum() / len(student)
        ),
    ),
    note="It is smallest where the student answers as the teacher does, and then it is the teacher's entropy, not 0.",
)
