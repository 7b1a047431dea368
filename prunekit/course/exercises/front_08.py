"""Lesson 08: the front of (cost, error) pairs, and the area it leaves behind."""

from __future__ import annotations

from itertools import pairwise

from prunekit.course.exercises import Exercise, Mistake

_POINTS = (
    [(0.5, 0.3), (0.2, 0.6), (0.6, 0.4), (0.9, 0.1), (0.3, 0.6), (0.7, 0.2)],
    [(0.4, 0.4), (0.8, 0.1), (0.1, 0.9)],
)
_FRONTS = ([(0.2, 0.6), (0.5, 0.3), (0.9, 0.1)], [(0.4, 0.5)], [(0.1, 0.8), (0.3, 0.2)])


def front(points):
    best = []
    for cost, error in sorted(points):
        if not best or error < best[-1][1]:
            best.append((cost, error))
    return best


FRONT = Exercise(
    id="08.4",
    title="who is not beaten",
    reference=front,
    cases=lambda: tuple(([*points],) for points in _POINTS),
    hints=(
        "One candidate beats another when it costs no more and errs no more, and they are not equal.",
        "Sort by cost. Going from the cheapest on, who can still be beaten by somebody who came before?",
        "Only one whose error is not smaller than the smallest so far. Keep the others.",
    ),
    mistakes=(
        Mistake(
            "sorted only",
            lambda points: sorted(points),
            "these are all candidates: leave out those that another one beats in both",
        ),
        Mistake(
            "smaller in both",
            lambda points: sorted(p for p in points if not any(q[0] < p[0] and q[1] < p[1] for q in points)),
            "a candidate with the same error that costs more is beaten too: of two equals in one, the other decides",
        ),
        Mistake(
            "best product",
            lambda points: [min(points, key=lambda p: p[0] * p[1])],
            "one compromise is one point: a front holds the best for every size of network",
        ),
    ),
    alternatives=(
        lambda points: sorted(p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)),
        lambda points: [p for n, p in enumerate(sorted(points)) if all(q[1] > p[1] for q in sorted(points)[:n])],
    ),
    note="Nothing on a front is better than its neighbour: it is cheaper, or more exact.",
)


def area(front):
    total = 0.0
    for place, (cost, error) in enumerate(front):
        right = front[place + 1][0] if place + 1 < len(front) else 1.0
        total += (right - cost) * (1 - error)
    return total


AREA = Exercise(
    id="08.5",
    title="the area behind the front",
    reference=area,
    cases=lambda: tuple(([*points],) for points in _FRONTS),
    hints=(
        "Draw the front as stairs. From each point on, up to the next one's cost, its error is the best there is.",
        "Each stair is a rectangle: as wide as the gap to the next cost, as high as from its error up to 1.",
        "The last stair goes on to the cost 1.",
    ),
    mistakes=(
        Mistake(
            "below the stairs",
            lambda front: sum(((b[0] if b else 1.0) - a[0]) * a[1] for a, b in zip(front, [*front[1:], None])),
            "that is the area below the stairs: what the front beats lies above them, up to the error 1",
        ),
        Mistake(
            "last one left out",
            lambda front: float(sum((b[0] - a[0]) * (1 - a[1]) for a, b in pairwise(front))),
            "the last stair has no next point, and still reaches to the cost 1",
        ),
        Mistake(
            "ramps",
            lambda front: sum(
                (b[0] - a[0]) * (1 - (a[1] + b[1]) / 2) for a, b in zip(front, [*front[1:], (1.0, front[-1][1])])
            ),
            "between two points there is no network on the straight line: it is stairs, not a ramp",
        ),
    ),
    alternatives=(
        lambda front: sum((1 - c) * (last - e) for (c, e), last in zip(front, [1.0, *(e for _, e in front)])),
        lambda front: (
            1 - front[0][0] - sum(((b[0] if b else 1.0) - a[0]) * a[1] for a, b in zip(front, [*front[1:], None]))
        ),
    ),
    note="One number for a whole front. It can only grow as a search goes on.",
)
