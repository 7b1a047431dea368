"""What hangs on a model's layers stays there: hooks, attributes, parametrizations; on a traced graph, what can."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

sys.path.insert(0, str(Path(__file__).parent))
import nets

import prunekit as pk
from prunekit.core import PruningPlan
from prunekit.models.deeplab import deeplabv3_mini


def test_hooks_and_attributes_are_kept() -> None:
    model, seen = deeplabv3_mini().eval(), []
    layer = next(name for name, m in model.named_modules() if isinstance(m, nn.Conv2d))
    for name in ("", layer):
        module = model.get_submodule(name)
        module.register_forward_pre_hook(lambda m, i, at=name: seen.append(("before", at, m)))
        module.register_forward_hook(lambda m, i, o, at=name: seen.append(("after", at, m)))
        module.register_full_backward_hook(lambda m, i, o, at=name: seen.append(("gradient", at, m)))
        module.note = f"mine {name}"
    x_BCHW = torch.randn(2, 3, 32, 32, requires_grad=True)
    groups = pk.find_groups(model, x_BCHW.detach())
    small = pk.prune(model, groups, nets.random_plan(groups, 0.5))
    seen.clear()
    small(x_BCHW).sum().backward()
    wanted = [("before", ""), ("before", layer), ("after", layer), ("after", ""), ("gradient", layer), ("gradient", "")]
    assert sorted((what, at) for what, at, _ in seen) == sorted(wanted)
    assert all(m is small.get_submodule(at) and m.note == f"mine {at}" for _, at, m in seen)


class Split(nn.Module):
    """Sizes built in, so that the traced graph comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.left, self.right = nets.conv(3, 12), nn.BatchNorm2d(12), nets.conv(4, 2), nets.conv(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.split(self.bn(self.a(x)).relu(), [4, 8], 1)
        return self.left(first) - self.right(second)


def test_on_a_traced_graph_hooks_that_change_values_stay_and_those_that_watch_go() -> None:
    model, x_BCHW, seen = Split(), torch.randn(2, 3, 8, 8), []
    model.a.register_forward_hook(lambda m, i, o: o + 1)
    model.bn.register_forward_hook(lambda m, i, o: o * 2)  # the graph calls the layer itself: not twice
    model.bn.register_forward_pre_hook(lambda m, i: (i[0] * 3,))
    model.register_forward_hook(lambda m, i, o: seen.append(1))
    groups = pk.find_groups(model, x_BCHW)
    plan = PruningPlan({"a": 4, "a#2": 8}, {"a": (0, 2, 3), "a#2": (1, 5)})
    small = pk.prune(model, groups, plan)
    assert isinstance(small, torch.fx.GraphModule)
    assert pk.check_equivalence(model, small, groups, plan, x_BCHW).max_error < 1e-12
    seen.clear()
    small(x_BCHW)
    assert seen == []


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrizations_beside_the_cut_live_on(norm: Callable[[nn.Module], nn.Module]) -> None:
    """A layer whose weight is computed keeps its size (see test_refusals); the rest of the model is cut around it."""
    x_BCHW = torch.randn(2, 3, 8, 8)
    model = nn.Sequential(nets.conv(3, 8), nn.ReLU(), nets.conv(8, 6), norm(nets.conv(6, 6)), nets.conv(6, 4)).eval()
    groups = pk.find_groups(model, x_BCHW)
    assert {name: group.size for name, group in groups.items()} == {"0": 8}
    plan = nets.random_plan(groups, 0.5)
    small = pk.prune(model, groups, plan)
    assert pk.check_equivalence(model, small, groups, plan, x_BCHW).max_error < 1e-12
    assert parametrize.is_parametrized(small[3])
    optimizer = torch.optim.SGD(small.train().parameters(), 0.1)
    before, loss = small[3].weight.clone(), small(x_BCHW).square().mean()
    loss.backward()
    optimizer.step()
    assert not torch.equal(small[3].weight, before)
    assert small(x_BCHW).square().mean() < loss
