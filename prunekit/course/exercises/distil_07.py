"""Lesson 07: what the teacher adds to the loss. B images, K classes."""

from __future__ import annotations

import torch
from torch import Tensor

from prunekit.course.exercises import Exercise, Mistake


def _random(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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
