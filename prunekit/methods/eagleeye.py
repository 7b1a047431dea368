"""EagleEye (Li et al., Fast Sub-net Evaluation for Efficient Neural Network Pruning, ECCV 2020).

    draw many strategies (one ratio a layer, at random) that meet the target; in each, batch norms take new statistics
    from a few training batches (adaptive BN); keep the strategy that is best on held-out training images

Symbols: none. Needs: scores (the paper: L1), batches, and a measure such as mIoU on held-out *training* images. A cut
network with the old statistics is ranked by luck, with new ones about as it will rank after fine-tuning: their claim.
Coupled layers: one ratio a group. Differs: a drawn strategy is stretched to the MACs target, none is thrown away; then
units are added as long as they fit.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunekit.core import Groups, PruningPlan, Scores
from prunekit.errors import BudgetError, InputError
from prunekit.observe import Batches
from prunekit.observe.passes import pairs
from prunekit.plan import Limits, keep_best, plan_macs, uniform_plan
from prunekit.surgery import prune


def search_plan(
    model: nn.Module,
    groups: Groups,
    scores: Scores,
    batches: Batches | None,
    *,
    measure: Callable[[nn.Module], float],
    macs_ratio: float,
    candidates: int = 20,
    limits: Limits | None = None,
    seed: int = 0,
) -> PruningPlan:
    """The best of `candidates` random strategies that remove this fraction of the MACs.

    scores: which units go first inside a group, (U,), higher = keep. measure(small): higher is better. Raises
    BudgetError with the reachable ratio, InputError for no candidate, and the errors of uniform_plan.
    """
    if candidates < 1:
        raise InputError(f"candidates is {candidates}; draw at least one strategy.")
    limits, dice, seen = limits or Limits(), random.Random(seed), list(batches or [])
    best: tuple[float, PruningPlan] | None = None
    for _ in range(candidates):
        shares = {name: dice.random() for name in scores}
        plan = stretched(groups, scores, shares, macs_ratio, limits)
        value = measure(with_new_statistics(prune(model, groups, plan), seen))
        if best is None or value > best[0]:
            best = (value, plan)
    assert best is not None
    note = f"eagleeye, {macs_ratio:.0%} of macs removed, best of {candidates}"
    return PruningPlan(best[1].sizes, best[1].keep, note)


def stretched(
    groups: Groups, scores: Scores, shares: dict[str, float], macs_ratio: float, limits: Limits
) -> PruningPlan:
    """The gentlest plan with ratios t * share (at most what the limits allow) that removes `macs_ratio` of the MACs,
    with the units that still fit: between it and the target is less than one unit's work.
    """

    def make(t: float) -> PruningPlan:
        parts = [
            uniform_plan(groups, {name: score}, min(t * shares[name], 1 - 1e-9), limits=limits)
            for name, score in scores.items()
        ]
        keep = {name: kept for part in parts for name, kept in part.keep.items()}
        return PruningPlan({name: groups[name].size for name in keep}, keep)

    dense, low, high = plan_macs(groups, PruningPlan({}, {})), 0.0, 1.0 / max(min(shares.values()), 1e-3)
    best = make(high)
    if (most := 1 - plan_macs(groups, best) / dense) < macs_ratio:
        raise BudgetError(f"asked to remove {macs_ratio:.1%} of the MACs, within the limits {most:.1%} is the most.")
    for _ in range(20):
        middle = (low + high) / 2
        plan = make(middle)
        if 1 - plan_macs(groups, plan) / dense >= macs_ratio:
            best, high = plan, middle
        else:
            low = middle
    wanted = {name: groups[name].size * (1 - min(high * share, 1.0)) for name, share in shares.items()}
    return filled(groups, scores, best, wanted, (1 - macs_ratio) * dense, limits)


def filled(
    groups: Groups, scores: Scores, plan: PruningPlan, wanted: dict[str, float], target: float, limits: Limits
) -> PruningPlan:
    """The plan with the next best units open again, first in the group that rounding left furthest below its wanted
    width, as long as the MACs stay at most `target`.
    """
    counts, rest = {name: len(kept) for name, kept in plan.keep.items()}, set(plan.keep)
    while rest:
        name = max(sorted(rest), key=lambda each: wanted[each] - counts[each])
        size, wide = groups[name].size, groups[name].channels()
        count = limits.kept(size, counts[name] + limits.step(size, wide), channels=wide)
        wider = keep_best(groups, scores, {**counts, name: count}, plan.note)
        if count > counts[name] and plan_macs(groups, wider) <= target:
            plan, counts[name] = wider, count
        else:
            rest.remove(name)  # the work left only gets less
    return plan


def with_new_statistics(model: nn.Module, batches: Batches) -> nn.Module:
    """A copy in eval mode whose batch norms have the mean statistics of these batches. ScoreError without data."""
    fresh = copy.deepcopy(model).eval()
    norms = [module for module in fresh.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.train()
    with torch.no_grad():
        for x, _ in pairs(batches, fresh, "eagleeye"):
            fresh(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return fresh.eval()
