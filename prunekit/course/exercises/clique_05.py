"""Lesson 05's exercises about the clique: the greedy search, and one score a channel. a: edge weights."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from prunekit.course.exercises import Exercise, Mistake


def clique(a, size):
    left = list(range(len(a)))
    while len(left) > size:
        s = a[left][:, left].sum(1)
        left.pop(int(s.argmin()))
    return left


def _graph(count: int, twins: tuple[int, int] | None = None, seed: int = 0) -> Tensor:
    a = torch.rand(count, count, generator=torch.Generator().manual_seed(seed))
    a = (0.4 + 0.3 * (a + a.T)).fill_diagonal_(0)
    if twins:
        i, j = twins
        a[i], a[:, i] = a[j], a[j]
        a[i, j] = a[j, i] = 0.3
        a[i, i] = 0
    return a


CLIQUE = Exercise(
    id="05.4",
    title="the greedy clique",
    reference=clique,
    cases=lambda: (
        (_graph(7, twins=(1, 5)) + 0.2 * _twin_pull(7), 4),
        (_graph(8, seed=3), 3),
        (_graph(5, seed=4), 4),
        (_graph(6, seed=19), 4),  # greedy misses the best set
    ),
    hints=(
        "Keep a list of those that are left. In each round one goes: which?",
        "`a[left][:, left].sum(1)` holds, for each that is left, the sum of its edges to the others that are left.",
        "The smallest goes: `left.pop(int(s.argmin()))`, until `size` are left.",
    ),
    mistakes=(
        Mistake(
            "as printed",
            lambda a, size: _greedy(a, size, largest=True),
            "the channel with the LARGEST sum goes in yours, as in the printed algorithm: the smallest must go",
        ),
        Mistake(
            "all at once",
            lambda a, size: sorted(a.sum(1).topk(size).indices.tolist()),
            "you took all sums once, at the start: who is gone must not count any more, so add up anew in each round",
        ),
        Mistake(
            "those that go",
            lambda a, size: [i for i in range(len(a)) if i not in clique(a, size)],
            "those are the channels that go; the ones that stay are wanted",
        ),
        Mistake(
            "the best set",
            lambda a, size: list(
                max(combinations(range(len(a)), size), key=lambda kept: float(a[list(kept)][:, list(kept)].sum()))
            ),
            "that is the best of all sets; the greedy search is wanted, which may miss it",
        ),
        Mistake("one too few", lambda a, size: clique(a, size - 1), "one channel too many goes: stop at `size`"),
        Mistake(
            "places",
            lambda a, size: list(range(size)),
            "those are places in the list of the rest: return the channels' own numbers",
        ),
    ),
    alternatives=(
        lambda a, size: _greedy(a, size, largest=False),
        lambda a, size: _by_update(a, size),
    ),
    note="Removing one is exact; removing many, one by one, is a good guess. Rather than adding up anew, take away the "
    "row of the one who went: the search then costs no more than reading the table once.",
)


def _twin_pull(count: int) -> Tensor:
    """Makes all but the pair (1, 5) a little further apart, so that both twins have the smallest sums at first."""
    pull = torch.ones(count, count) - torch.eye(count)
    pull[[1, 5]] = 0
    pull[:, [1, 5]] = 0
    return pull


def _greedy(a: Tensor, size: int, *, largest: bool) -> list[int]:
    left = set(range(len(a)))
    while len(left) > size:
        sums = {i: sum(float(a[i, j]) for j in left) for i in left}
        left.remove((max if largest else min)(sums, key=lambda i: sums[i]))
    return sorted(left)


def _by_update(a: Tensor, size: int) -> list[int]:
    s = a.sum(1)
    for _ in range(len(a) - size):
        gone = int(s.argmin())
        s = s - a[gone]
        s[gone] = float("inf")
    return (s < float("inf")).nonzero().flatten().tolist()


def scores(order, s):
    others = len(order) - 1 - torch.arange(len(order))
    score = torch.empty(len(order))
    score[order] = s - others
    return score


def _removals(count: int, seed: int) -> tuple[list[int], Tensor]:
    """Order and sums of a greedy search, the first to go first."""
    a, left = _graph(count, seed=seed), list(range(count))
    order, sums = [], []
    while left:
        s = a[left][:, left].sum(1)
        sums.append(float(s.min()))
        order.append(left.pop(int(s.argmin())))
    return order, torch.tensor(sums)


SCORES = Exercise(
    id="05.5",
    title="one number for each channel",
    reference=scores,
    cases=lambda: (_removals(5, 1), _removals(7, 2)),
    hints=(
        "The first to go had `len(order) - 1` others beside it, the next one less, the last none.",
        "Each edge is 1 - r. So s is the number of others minus the sum of its r; the score is minus that sum.",
        "`score[order] = s - others` puts each value where its channel is.",
    ),
    mistakes=(
        Mistake(
            "s itself",
            lambda order, s: _put(order, s),
            "s falls as channels go, so the LAST survivors would go first: compare it with the number of others",
        ),
        Mistake(
            "s by channel",
            lambda order, s: s - torch.tensor([len(order) - 1.0 - order.index(i) for i in range(len(order))]),
            "`s` stands in the order of removal: `s[0]` belongs to channel `order[0]`, not to channel 0",
        ),
        Mistake(
            "by turn",
            lambda order, s: s - (len(order) - 1 - torch.arange(len(order))),
            "your values stand in the order of removal: put each at its channel's place, `score[order] = ...`",
        ),
        Mistake(
            "sign",
            lambda order, s: -scores(order, s),
            "that is the redundancy; higher must mean keep, so the score is minus that",
        ),
        Mistake(
            "turn only",
            lambda order, s: _put(order, torch.arange(len(order)).float()),
            "the turn alone says nothing across layers: one layer's first may be less redundant than another's tenth",
        ),
        Mistake(
            "counts itself",
            lambda order, s: scores(order, s) - 1,
            "the number of others leaves the channel itself out: the last one has 0",
        ),
    ),
    alternatives=(
        lambda order, s: torch.tensor(
            [float(s[order.index(i)]) - (len(order) - 1 - order.index(i)) for i in range(len(s))]
        ),
        lambda order, s: (s - torch.arange(len(order)).flip(0))[torch.tensor(order).argsort()],
    ),
    note="Minus what it repeated of those still there, when it went. That is a unit which all layers share, so one "
    "threshold can serve the whole network.",
)


def _put(order: list[int], values: Tensor) -> Tensor:
    score = torch.empty(len(order))
    score[order] = values
    return score
