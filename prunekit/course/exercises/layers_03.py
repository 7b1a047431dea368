"""Lesson 03's last exercise: what one list of all layers does."""

from __future__ import annotations

import torch
from torch import Tensor

from prunekit.course.exercises import Exercise, Mistake


def lost_per_layer(scores, count):
    relative = [score / score.mean() for score in scores]
    limit = torch.cat(relative).sort().values[count]
    return [int((score < limit).sum()) for score in relative]


def _lost_cases() -> tuple[tuple[list[Tensor], int], ...]:
    thin, wide = torch.tensor([0.2, 1.0, 1.1, 1.3]), torch.tensor([2.0, 30.0, 34.0, 35.0, 36.0, 60.0, 61.0, 70.0])
    return ([thin, wide], 4), ([wide, thin + 5, torch.tensor([0.1, 0.5])], 3)


def _counted(relative: list[Tensor], count: int) -> list[int]:
    limit = torch.cat(relative).sort().values[count]
    return [int((score < limit).sum()) for score in relative]


LIST = Exercise(
    id="03.6",
    title="one list",
    reference=lost_per_layer,
    cases=_lost_cases,
    hints=(
        "Divide, put together, sort: where in the sorted list is the border between those that go and those that stay?",
        "Entry number `count` of the sorted list is the first that stays. All below it go.",
        "`limit = torch.cat(relative).sort().values[count]`, then count what is below it in each layer.",
    ),
    mistakes=(
        Mistake(
            "as they are", lambda s, n: _counted(s, n), "divide by each layer's mean first: look at the large layer"
        ),
        Mistake(
            "by the sum",
            lambda s, n: _counted([v / v.sum() for v in s], n),
            "dividing by the sum punishes wide layers: each of their channels is a smaller share. Take the mean",
        ),
        Mistake("the same for all", lambda s, n: [n // len(s)] * len(s), "that is layer-wise; here one list decides"),
        Mistake(
            "one too many",
            lambda s, n: [
                int((v / v.mean() <= torch.cat([u / u.mean() for u in s]).sort().values[n]).sum()) for v in s
            ],
            "one too many goes: the entry with the number `count` stays, since counting starts at 0",
        ),
        Mistake(
            "those that stay",
            lambda s, n: [len(v) - lost for v, lost in zip(s, lost_per_layer(s, n))],
            "that is how many stay",
        ),
    ),
    alternatives=(
        lambda scores, count: [
            sum(
                layer == i
                for _, layer in sorted((float(v), i) for i, s in enumerate(scores) for v in s / s.mean())[:count]
            )
            for i in range(len(scores))
        ],
    ),
    note="Every score is now relative to its layer. A layer in which all channels are alike loses little; one with a "
    "few that stand far below the rest loses those.",
)
