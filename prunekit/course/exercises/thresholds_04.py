"""Exercises 04.4 and 04.5: two thresholds, and how many channels of each layer are above them."""

from __future__ import annotations

import torch
from torch import Tensor

from prunekit.course.exercises import Exercise, Mistake


def taus(gamma1, gamma2, p):
    def tau(gamma):
        count = round(p * len(gamma))
        return gamma.sort().values[count - 1].item() if count else 0.0

    return tau(gamma1), tau(gamma2)


def _nth(gamma, p, shift=0, largest=False):
    count = round(p * len(gamma))
    place = min(max(count - 1 + shift, 0), len(gamma) - 1)
    return gamma.sort(descending=largest).values[place].item()


def _scales(count: int, loud: float, seed: int) -> Tensor:
    return loud * torch.rand(count, generator=torch.Generator().manual_seed(seed))


TAUS = Exercise(
    id="04.4",
    title="two thresholds",
    reference=taus,
    cases=lambda: (
        (_scales(10, 1.0, 0), _scales(6, 0.2, 1), 0.5),
        (_scales(8, 0.3, 2), _scales(12, 1.0, 3), 0.25),
    ),
    hints=(
        "Sort the scales of one part. How many of them go? The last of those is the threshold.",
        "`count`: p times `len(gamma)`, rounded. The threshold is `gamma.sort().values[count - 1]`.",
        "A small function `tau(gamma)` that ends in `gamma.sort().values[count - 1].item()`, called for each part.",
    ),
    mistakes=(
        Mistake(
            "unified",
            lambda gamma1, gamma2, p: (_nth(torch.cat([gamma1, gamma2]), p),) * 2,
            "that is one threshold for both parts together; each part has its own",
        ),
        Mistake(
            "one too far",
            lambda gamma1, gamma2, p: (_nth(gamma1, p, 1), _nth(gamma2, p, 1)),
            "that is the smallest scale that stays; places count from 0, so the last that goes is at count - 1",
        ),
        Mistake(
            "largest go",
            lambda gamma1, gamma2, p: (_nth(gamma1, p, largest=True), _nth(gamma2, p, largest=True)),
            "sorted from the other end: the smallest scales go",
        ),
        Mistake(
            "share of the largest",
            lambda gamma1, gamma2, p: (p * gamma1.max().item(), p * gamma2.max().item()),
            "p is a share of the channels, not of the largest scale",
        ),
    ),
    alternatives=(
        lambda gamma1, gamma2, p: tuple(g.kthvalue(round(p * len(g))).values.item() for g in (gamma1, gamma2)),
        lambda gamma1, gamma2, p: tuple(sorted(g.tolist())[round(p * len(g)) - 1] for g in (gamma1, gamma2)),
    ),
    note="The parts learnt on unlike losses, so their scales are not in one currency. Each has a threshold of its own.",
)


def widths(layers, tau, least):
    return [max(int((gamma > tau).sum()), least) for gamma in layers]


WIDTHS = Exercise(
    id="04.5",
    title="who is above",
    reference=widths,
    cases=lambda: (
        ([_scales(6, 1.0, 4), _scales(8, 0.3, 5), _scales(4, 1.0, 6)], 0.5, 2),
        ([torch.tensor([0.1, 0.2, 0.25]), torch.tensor([0.25, 0.4, 0.5, 0.75])], 0.25, 1),
    ),
    hints=(
        "For each layer: how many of its scales are above tau? A scale that equals tau goes.",
        "`(gamma > tau).sum()` counts them. What if that is 0?",
        "`max(int((gamma > tau).sum()), least)` for each gamma in `layers`, in a list.",
    ),
    mistakes=(
        Mistake(
            "emptied",
            lambda layers, tau, least: [int((gamma > tau).sum()) for gamma in layers],
            "one layer has fewer than `least` channels left: an empty layer would cut the network in two",
        ),
        Mistake(
            "equal stays",
            lambda layers, tau, least: [max(int((gamma >= tau).sum()), least) for gamma in layers],
            "tau is the largest scale that goes, so a scale that equals it goes as well",
        ),
        Mistake(
            "who goes",
            lambda layers, tau, least: [max(int((gamma <= tau).sum()), least) for gamma in layers],
            "those are the channels that go; a width is what stays",
        ),
        Mistake(
            "least added",
            lambda layers, tau, least: [int((gamma > tau).sum()) + least for gamma in layers],
            "`least` is a floor, not a bonus: it matters only where fewer are left",
        ),
    ),
    alternatives=(
        lambda layers, tau, least: [max(sum(float(g) > tau for g in gamma), least) for gamma in layers],
        lambda layers, tau, least: [int((gamma > tau).sum().clamp_min(least)) for gamma in layers],
    ),
    note="One threshold, many widths: that is where MTP's uneven layers come from.",
)
