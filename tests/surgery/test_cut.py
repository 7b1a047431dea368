"""prune returns a model that is new, of the same class, and in every respect an ordinary one."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
import nets

from prunekit.core import PruningPlan
from prunekit.errors import PlanError
from prunekit.surgery import check_equivalence, find_groups, prune

X = torch.randn(2, 3, 8, 8)


def test_the_original_is_untouched_and_shares_no_memory() -> None:
    model = nets.Concat()
    before = copy.deepcopy(model.state_dict())
    groups = find_groups(model, X)
    small = prune(model, groups, nets.random_plan(groups, 0.5))
    with torch.no_grad():
        for t in small.state_dict().values():
            t.zero_()
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_layers_report_their_new_sizes() -> None:
    model = nets.DepthwiseFlatten()
    groups = find_groups(model, X)
    small = prune(model, groups, PruningPlan({"a": 6}, {"a": (1, 4)}))
    assert isinstance(small, nets.DepthwiseFlatten)
    assert (small.a.out_channels, small.dw.in_channels, small.dw.out_channels, small.dw.groups) == (2, 2, 4, 2)
    assert (small.fc.in_features, small.fc.out_features) == (64, 5)
    assert torch.equal(small.a.weight, model.a.weight[[1, 4]])
    assert torch.equal(small.dw.weight, model.dw.weight[[2, 3, 8, 9]])


def test_requires_grad_hooks_and_flags_are_kept() -> None:
    model = nets.Chain().eval()
    model.a.weight.requires_grad_(False)
    calls: list[int] = []
    model.b.register_forward_hook(lambda *_: calls.append(1))
    groups = find_groups(model, X)
    calls.clear()
    small = prune(model, groups, nets.random_plan(groups, 0.5))
    calls.clear()
    small(X)
    assert calls == [1]
    assert not small.training
    assert not small.a.weight.requires_grad
    assert small.b.weight.requires_grad


def test_pruning_twice_equals_pruning_once() -> None:
    model = nets.Residual()
    groups = find_groups(model, X)
    first = prune(model, groups, PruningPlan({"stem": 8}, {"stem": (0, 2, 3, 5, 7)}))
    again = find_groups(first, X)
    second = prune(first, again, PruningPlan({"stem": 5}, {"stem": (1, 4)}))
    once = prune(model, groups, PruningPlan({"stem": 8}, {"stem": (2, 7)}))
    assert all(torch.equal(t, once.state_dict()[n]) for n, t in second.state_dict().items())


def test_a_pruned_model_learns_saves_and_loads() -> None:
    model = nets.Concat()
    groups = find_groups(model, X)
    plan = nets.random_plan(groups, 0.5)
    small = prune(model, groups, plan)
    loss = small(X).square().mean()
    loss.backward()
    torch.optim.SGD(small.parameters(), 0.1).step()
    assert small(X).square().mean() < loss
    fresh = prune(nets.Concat(), groups, plan)
    fresh.load_state_dict(small.state_dict())
    assert torch.equal(fresh.eval()(X), small.eval()(X))


def test_nothing_to_remove_gives_an_equal_model() -> None:
    model = nets.Chain().eval()
    groups = find_groups(model, X)
    assert torch.equal(prune(model, groups, PruningPlan({}, {}))(X), model(X))


def test_a_stale_plan_is_refused() -> None:
    model = nets.Residual()
    groups = find_groups(model, X)
    plan = nets.random_plan(groups, 0.5)
    small = prune(model, groups, plan)
    with pytest.raises(PlanError, match=r"'stem.weight' is \(8, 3, 3, 3\), here it is \(4, 3, 3, 3\): already pruned"):
        prune(small, groups, plan)
    with pytest.raises(PlanError, match="plan wants 8 units in 'stem', the model has 4: already pruned"):
        prune(small, find_groups(small, X), plan)


def test_a_plan_for_another_model_is_refused() -> None:
    model = nets.Chain()
    groups = find_groups(model, X)
    with pytest.raises(PlanError, match="'layer9', which this model does not have"):
        prune(model, groups, PruningPlan({"layer9": 4}, {"layer9": (0,)}))
    with pytest.raises(PlanError, match="It is frozen: the model returns it"):
        prune(model, groups, PruningPlan({"b": 4}, {"b": (0,)}))


def test_shared_layers_are_cut_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.loop, self.b = nets.conv(3, 8), nets.conv(8, 8), nets.conv(8, 2)
            self.alias = self.loop

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.alias(self.loop(self.a(x).relu()).relu()).relu())

    model = Twice()
    groups = find_groups(model, X)
    plan = nets.random_plan(groups, 0.5)
    small = prune(model, groups, plan)
    assert small.alias is small.loop
    assert tuple(small.loop.weight.shape[:2]) == (4, 4)
    check_equivalence(model, small, groups, plan, X)


def test_channels_last_and_half_survive() -> None:
    model = timm.create_model("resnet18").to(memory_format=torch.channels_last).to(torch.bfloat16)
    x = torch.randn(1, 3, 64, 64, dtype=torch.bfloat16)
    groups = find_groups(model, x)
    small = prune(model, groups, nets.random_plan(groups, 0.5))
    assert small.eval()(x).dtype == torch.bfloat16
