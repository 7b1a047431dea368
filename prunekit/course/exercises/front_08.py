"""Lesson 08: the front of (cost, error) pairs, and the area it leaves behind."""

from __future__ import annotations

from itertools import pairwise

from prunekit.course.exercises import Exercise, Mistake

_POINTS = (
    [(0.5, 0.3), (0.2, 0.6), (0.6, 0.4), (0.9, 0.1), (0.3, 0.6), (0.7, 0.2)],
    [(0.4, 0.4), (0.8, 0.1), (0.1, 0.9)],
    # the neighbour of (0.7, 0.4) errs more, and (0.5, 0.3), which came earlier, less; two have one cost
    [(0.2, 0.6), (0.5, 0.4), (0.5, 0.3), (0.6, 0.5), (0.7, 0.4), (0.9, 0.1)],
)
_FRONTS = ([(0.2, 0.6), (0.5, 0.3), (0.9, 0.1)], [(0.4, 0.5)], [(0.1, 0.8), (0.3, 0.2)])


def _falling(points):
    """Those that err less than all before them."""
    return [p for n, p in enumerate(points) if all(p[1] < q[1] for q in points[:n])]


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
            "these are all candidates: leave out those that another one beats",
        ),
        Mistake(
            "neighbour only",
            lambda points: [
                p for p, before in zip(sorted(points), [None, *sorted(points)]) if before is None or p[1] < before[1]
            ],
            "compared with the one just before only: an earlier, cheaper one may beat it too; keep the smallest error "
            "so far",
        ),
        Mistake(
            "sorted by cost alone",
            lambda points: _falling(sorted(points, key=lambda p: p[0])),
            "of two that cost the same, the one that errs more is beaten: sort by cost and then by error",
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
        lambda points: _falling(sorted(points)),
    ),
    note="Nothing on a front is better than its neighbour: it is cheaper, or more accurate.",
)


def _next_costs(front):
    return [*(cost for cost, _ in front[1:]), 1.0]


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
        "Add up `right - cost` times `1 - error` over all points, `right` being the next cost, or 1 for the last.",
    ),
    mistakes=(
        Mistake(
            "below the stairs",
            lambda front: sum((b - a[0]) * a[1] for a, b in zip(front, _next_costs(front))),
            "that is the area below the stairs: what the front beats lies above them, up to the error 1",
        ),
        Mistake(
            "below the stairs, from 0",
            lambda front: 1 - sum((b - a[0]) * a[1] for a, b in zip(front, _next_costs(front))),
            "left of the cheapest point nothing is beaten: the area starts at the first cost, not at 0",
        ),
        Mistake(
            "each up to the corner",
            lambda front: sum((1 - cost) * (1 - error) for cost, error in front),
            "these rectangles overlap, and what two points beat is counted twice: each ends where the next one begins",
        ),
        Mistake(
            "the next one's error",
            lambda front: sum((b[0] - a[0]) * (1 - b[1]) for a, b in zip(front, [*front[1:], (1.0, front[-1][1])])),
            "up to the next cost a point's own error is the best there is: the next one's holds from the next cost on",
        ),
        Mistake(
            "stairs to the left",
            lambda front: sum((a[0] - before) * (1 - a[1]) for a, before in zip(front, [0.0, *(c for c, _ in front)])),
            "each stair goes to the left here: a point beats what costs more than it, so its stair goes to the right",
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
        lambda front: 1 - front[0][0] - sum((b - a[0]) * a[1] for a, b in zip(front, _next_costs(front))),
    ),
    note="One number for a whole front. It can only grow as a search goes on.",
)
