"""Plans of prunekit on the papers' networks, exported, on onnxruntime at one thread: as fast as their MACs promise?

Ratios of CPU time, the networks in turns; wall time is printed beside them. Random weights: time does not look at them.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import pytest
import timm
import torch
from torch import nn

import prunekit as pk
from prunekit.latency import compare, latency_table
from prunekit.methods import l1
from prunekit.models.deeplab import deeplabv3plus
from prunekit.models.topformer import topformer
from prunekit.plan import plan_macs

# network, input size, fraction of the MACs removed, speed-up to reach
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, int], float, float]] = {
    "resnet50": (lambda: timm.create_model("resnet50"), (224, 224), 0.5, 1.7),
    "mobilenetv1": (lambda: timm.create_model("mobilenetv1_100"), (224, 224), 0.5, 1.6),
    "deit_base": (lambda: timm.create_model("deit_base_patch16_224"), (224, 224), 0.4, 1.5),
    "deeplabv3plus": (lambda: deeplabv3plus(19), (257, 513), 0.5, 1.7),
    "topformer": (lambda: topformer(19), (512, 512), 0.5, 1.7),
}
CHOSEN = ("topformer",)  # a seventh of its time is resizing and copies, so its plan is chosen by the clock


@pytest.mark.parametrize("name", CASES)
def test_speedup(name: str) -> None:
    build, size, ratio, wanted = CASES[name]
    torch.manual_seed(0)
    model, x = build().eval(), torch.randn(1, 3, *size)
    groups = pk.find_groups(model, x)
    scores = l1.score(model, groups)
    if name in CHOSEN:
        plan = fastest(model, groups, scores, x, ratio)
    else:
        plan = pk.budget_plan(groups, scores, macs_ratio=ratio, how="uniform", limits=pk.Limits(round_to=8))
    (_, small), _ = compare({"dense": model, "small": pk.prune(model, groups, plan)}, x, repeats=15, warmup=2)
    times = f"{small.cpu_speedup:.2f}x by CPU time, {small.speedup:.2f}x by wall time"
    print(f"{name}: MACs / {small.macs_ratio:.2f}, {times}")
    assert small.cpu_speedup >= wanted


def fastest(model: nn.Module, groups: pk.Groups, scores: pk.Scores, x: torch.Tensor, ratio: float) -> pk.PruningPlan:
    """Of the plans in whole blocks of the widest processors that meet the MACs, the fastest one, measured.

    Each planner has a say: uniform, global, and the latency table at the two gentlest shares of time that meet them.
    """
    table, limits = latency_table(model, groups, x), pk.Limits(round_to=16)
    plans = {
        how: pk.budget_plan(groups, scores, macs_ratio=ratio, how=how, limits=limits) for how in ("uniform", "global")
    }
    goal = (1 - ratio) * plan_macs(groups, pk.PruningPlan({}, {}))
    by_table = (
        pk.budget_plan(groups, scores, latency_ratio=share / 100, latency=table, limits=limits)
        for share in range(20, 60, 2)
    )
    enough = (plan for plan in by_table if plan_macs(groups, plan) <= goal)
    plans |= {f"table {i}": plan for i, plan in enumerate(islice(enough, 2))}
    dense = table(pk.PruningPlan({}, {}))
    rest = table.rest_ms / dense
    print(f"no width changes {rest:.0%} of the time: {1 / (rest + (1 - rest) * ratio):.2f}x if the others halved")
    smalls = {name: pk.prune(model, groups, plan) for name, plan in plans.items()}
    _, *rows = compare({"dense": model, **smalls}, x, repeats=9, warmup=2)[0]
    for row in rows:
        by_the_table = dense / table(plans[row.model])
        print(f"{row.model}: MACs / {row.macs_ratio:.2f}, {row.cpu_speedup:.2f}x, {by_the_table:.2f}x by the table")
    return plans[max(rows, key=lambda row: row.cpu_speedup).model]


def test_a_latency_plan_beats_a_macs_plan_at_equal_importance() -> None:
    """Both lose the same sum of normalised scores; the one made from the table is faster."""
    torch.manual_seed(0)
    model, x = timm.create_model("mobilenetv1_100").eval(), torch.randn(1, 3, 224, 224)
    groups = pk.find_groups(model, x)
    scores = l1.score(model, groups)
    table, limits = latency_table(model, groups, x), pk.Limits(round_to=8)
    fast = pk.budget_plan(groups, scores, latency_ratio=0.4, latency=table)
    by_macs = [pk.budget_plan(groups, scores, macs_ratio=r / 40, limits=limits) for r in range(1, 38)]
    rival = min(by_macs, key=lambda plan: abs(_lost(scores, plan) - _lost(scores, fast)))
    models = {name: pk.prune(model, groups, plan) for name, plan in {"macs": rival, "table": fast}.items()}
    (_, row), _ = compare(models, x, repeats=15)
    print(
        f"importance lost {_lost(scores, rival):.0f} and {_lost(scores, fast):.0f}: the latency plan takes "
        f"{1 / row.cpu_speedup:.2f} of the MACs plan's CPU time ({row.macs_ratio:.2f}x fewer MACs)"
    )
    assert row.cpu_speedup > 1


def _lost(scores: pk.Scores, plan: pk.PruningPlan) -> float:
    """Importance removed, in multiples of each group's mean."""
    return sum(
        float(score.sum() - score[list(plan.keep[name])].sum()) / float(score.mean()) for name, score in scores.items()
    )
