"""Who chooses the channels that go, and how many: at a share of the MACs, so that all small networks cost the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from typing import Any

from torch import nn
from torch.utils.data import DataLoader, Dataset

from prunekit.core import Groups, PruningPlan, Scores
from prunekit.errors import BudgetError
from prunekit.methods import fpgm, l1, mtp, thinet
from prunekit.methods.mtp.thresholds import How
from prunekit.plan import Limits, budget_plan, plan_macs
from prunekit.train.batches import dice

BY_SCALES = ("mtp", "slimming")
LIMITS = Limits(round_to=1, max_ratio=0.9)


def chosen(
    method: str,
    classifier: nn.Module,
    segmenter: nn.Module,
    groups: Groups,
    parts: mtp.Parts,
    batches: list[Any],
    *,
    kept: float,
    how: How,
) -> PruningPlan:
    """The method's plan that leaves this share of the MACs: dense, mtp, slimming, uniform, thinet or fpgm."""
    if method == "dense":
        return PruningPlan({}, {}, "dense")
    if method in BY_SCALES:
        scores = mtp.score(segmenter, parts, classifier=classifier if method == "mtp" else None)
        return at_macs(groups, lambda p: mtp.plan(parts, scores, p, how=how, limits=LIMITS), kept)
    scores = score(method, segmenter, groups.only([*parts.backbone, *parts.decoder]), batches)
    return budget_plan(groups, scores, macs_ratio=1 - kept, how="uniform", limits=LIMITS)


def score(method: str, segmenter: nn.Module, groups: Groups, batches: list[Any]) -> Scores:
    """Scores for uniform widths."""
    if method == "thinet":
        return thinet.score(segmenter, groups, batches)
    return fpgm.score(segmenter, groups) if method == "fpgm" else l1.score(segmenter, groups)


def at_macs(groups: Groups, make: Callable[[float], PruningPlan], kept: float) -> PruningPlan:
    """make(percentage) at the smallest percentage that leaves at most this share of the MACs. BudgetError if none."""
    most = kept * plan_macs(groups, PruningPlan({}, {}))
    low, high = 0.0, 0.99
    plan = make(high)
    if plan_macs(groups, plan) > most:
        raise BudgetError(f"within the limits more than {kept:.0%} of the MACs stay.")
    for _ in range(12):
        middle = (low + high) / 2
        candidate = make(middle)
        if plan_macs(groups, candidate) <= most:
            plan, high = candidate, middle
        else:
            low = middle
    return plan


def score_batches(pictures: Dataset[Any], seed: int) -> list[Any]:
    """Four batches of training scenes for methods that look at data."""
    with dice("batches", seed):
        return list(islice(DataLoader(pictures, 16, shuffle=True), 4))


def kept_share(plan: PruningPlan, pattern: str) -> float:
    """Kept channels of the groups whose names match, as a fraction; 1 where nothing was cut."""
    names = [name for name in plan.keep if re.search(pattern, name)]
    return sum(len(plan.keep[n]) for n in names) / sum(plan.sizes[n] for n in names) if names else 1.0
