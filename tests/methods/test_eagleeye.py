"""New statistics are those of the data, every strategy meets the target, and the best of them is taken."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunekit.core import PruningPlan
from prunekit.errors import BudgetError, InputError, ScoreError
from prunekit.methods import eagleeye, l1
from prunekit.plan import Limits, keep_best, plan_macs
from prunekit.surgery import find_groups

dice = torch.Generator().manual_seed(0)
BATCHES = [(3 + 2 * torch.randn(4, 3, 8, 8, generator=dice), 0) for _ in range(3)]


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 20, 3), nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 30, 3), nn.ReLU(), nn.Conv2d(30, 2, 1)]
    return nn.Sequential(*layers).eval()


def test_new_statistics_are_the_datas_and_the_model_keeps_its_own() -> None:
    model = network()
    fresh = eagleeye.with_new_statistics(model, BATCHES)
    maps = [model[0](x) for x, _ in BATCHES]
    torch.testing.assert_close(fresh[1].running_mean, torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0))
    torch.testing.assert_close(fresh[1].running_var, torch.stack([m.var((0, 2, 3)) for m in maps]).mean(0))
    assert not model[1].running_mean.any() and fresh[1].momentum == model[1].momentum and not fresh.training
    with pytest.raises(ScoreError, match="eagleeye"):
        eagleeye.with_new_statistics(model, [])


def test_the_best_strategy_at_the_target_is_taken() -> None:
    model = network()
    groups = find_groups(model, BATCHES[0][0][:1])
    tried: list[tuple[int, ...]] = []

    def first_layer_wide(small: nn.Module) -> float:
        tried.append((small[0].out_channels, small[3].out_channels))
        return small[0].out_channels

    arguments = {"measure": first_layer_wide, "macs_ratio": 0.5}
    plan = eagleeye.search_plan(model, groups, l1.score(model, groups), BATCHES, candidates=8, **arguments)
    assert len(tried) == 8 and len(set(tried)) > 3
    assert len(plan.keep["0"]) == max(widths[0] for widths in tried)
    left = plan_macs(groups, plan) / plan_macs(groups, PruningPlan({}, {}))
    assert 0.48 < left <= 0.5  # two channels of 30 are 4 % of so small a network
    with pytest.raises(BudgetError, match=r"9\d\.\d% is the most"):
        eagleeye.search_plan(model, groups, l1.score(model, groups), BATCHES, **{**arguments, "macs_ratio": 0.995})
    with pytest.raises(InputError, match="at least one"):
        eagleeye.search_plan(model, groups, l1.score(model, groups), BATCHES, candidates=0, **arguments)


@pytest.mark.parametrize("round_to", [1, 5])
def test_no_unit_of_a_strategy_that_still_fits_is_left_out(round_to: int) -> None:
    groups = find_groups(network(), BATCHES[0][0][:1])
    scores, limits = l1.score(network(), groups), Limits(round_to=round_to)
    dense = plan_macs(groups, PruningPlan({}, {}))
    for shares in ({"0": 0.9, "3": 0.1}, {"0": 0.1, "3": 0.9}, {"0": 0.5, "3": 0.51}):
        plan = eagleeye.stretched(groups, scores, shares, 0.5, limits)
        counts = {name: len(kept) for name, kept in plan.keep.items()}
        assert plan_macs(groups, plan) <= 0.5 * dense and not any(count % round_to for count in counts.values())
        for name in counts:
            wider = keep_best(groups, scores, {**counts, name: counts[name] + round_to}, "")
            assert counts[name] == groups[name].size or plan_macs(groups, wider) > 0.5 * dense
