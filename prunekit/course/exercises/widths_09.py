"""Lesson 09, exercise 3: widths a device likes, within a budget of channels."""

from __future__ import annotations

from prunekit.course.exercises import Exercise, Mistake


def round_widths(widths, budget):
    rounded = [max(8, w // 8 * 8) for w in widths]
    lost = [w - r for w, r in zip(widths, rounded)]
    for i in sorted(range(len(widths)), key=lambda i: -lost[i]):
        if lost[i] > 0 and sum(rounded) + 8 <= budget:
            rounded[i] += 8
    return rounded


def _nearest(widths, budget):
    return [max(8, round(w / 8) * 8) for w in widths]


def _by_place(widths, budget):
    rounded = [max(8, w // 8 * 8) for w in widths]
    for i, w in enumerate(widths):
        if w > rounded[i] and sum(rounded) + 8 <= budget:
            rounded[i] += 8
    return rounded


def _least_lost(widths, budget):
    rounded = [max(8, w // 8 * 8) for w in widths]
    for i in sorted(range(len(widths)), key=lambda i: widths[i] - rounded[i]):
        if widths[i] > rounded[i] and sum(rounded) + 8 <= budget:
            rounded[i] += 8
    return rounded


def _once(widths, budget):
    rounded = [max(8, w // 8 * 8) for w in widths]
    best = max(range(len(widths)), key=lambda i: widths[i] - rounded[i])
    if sum(rounded) + 8 <= budget:
        rounded[best] += 8
    return rounded


def _by_while(widths, budget):
    rounded = [max(8, w - w % 8) for w in widths]
    waiting = {i: w - r for i, (w, r) in enumerate(zip(widths, rounded)) if w > r}
    while waiting and sum(rounded) + 8 <= budget:
        i = max(waiting, key=lambda i: waiting[i])
        waiting.pop(i)
        rounded[i] += 8
    return rounded


def _by_count(widths, budget):
    floor = [max(1, w // 8) for w in widths]
    spare = max(0, budget // 8 - sum(floor))
    order = sorted((i for i, w in enumerate(widths) if w > 8 and w % 8), key=lambda i: -(widths[i] % 8))
    up = set(order[:spare])
    return [8 * (n + (i in up)) for i, n in enumerate(floor)]


WIDTHS = Exercise(
    id="09.3",
    title="round widths within a budget",
    reference=round_widths,
    cases=lambda: (([37, 63, 5, 44], 149), ([19, 30, 41, 55, 16], 161), ([12, 23, 31], 48)),
    hints=(
        "Go down first: the largest multiple of 8 that is not above each width, and 8 at least.",
        "Then see who lost most by that, and give those 8 back one after the other while the sum allows it.",
        "`sorted(range(len(widths)), key=lambda i: -lost[i])`: add 8 if any is lost and `sum(rounded) + 8 <= budget`.",
    ),
    mistakes=(
        Mistake("nearest", _nearest, "rounding to the nearest multiple does not look at the budget, and may pass it"),
        Mistake(
            "all down",
            lambda widths, budget: [max(8, w // 8 * 8) for w in widths],
            "all went down: the budget has room to give some of them 8 back",
        ),
        Mistake(
            "all up",
            lambda widths, budget: [(w + 7) // 8 * 8 for w in widths],
            "all went up, which costs more channels than there are",
        ),
        Mistake(
            "none left",
            lambda widths, budget: [w // 8 * 8 for w in widths],
            "a layer with 0 channels passes nothing on: keep 8 at least",
        ),
        Mistake("by place", _by_place, "the first in the list got theirs back: it is the turn of those that lost most"),
        Mistake(
            "least lost first", _least_lost, "you began with those that lost least: those that lost most come first"
        ),
        Mistake("once", _once, "one got 8 back; go on while the budget allows it"),
    ),
    alternatives=(_by_while, _by_count),
    note="The same budget, and every layer in whole blocks. The library's planners do it with `Limits(round_to=8)`.",
)
